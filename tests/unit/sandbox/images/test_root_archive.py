"""An archive of a container image is recognized by its members. The refusal says how to get a root file system."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.images.report import UnpackReport
from sandbox.images.root_archive import RootArchive
from sandbox.images.unpack import unpack
from tests.unit.sandbox.images.tars import directory, file, opened, read, symlink, tar

ID = b"0effe123007f33177ea558c4baa31560a252af0943377bea7692f3256ab3e382"
LAYER = file(ID + b".tar", tar(file(b"bin/true")))
MANIFEST = b'[{"Config":"196c.json","RepoTags":["localhost/t:1"],"Layers":["%s.tar"]}]' % ID
LAYOUT = file(b"oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
BLOBS = (
    directory(b"blobs"),
    directory(b"blobs/sha256"),
    file(b"blobs/sha256/" + ID, tar(file(b"bin/true"))),
)
INDEX = file(b"index.json", b'{"schemaVersion":2,"manifests":[]}')

SAVED_BY_PODMAN = (
    LAYER,
    file(b"196c.json", b"{}"),
    symlink(ID + b"/layer.tar", b"../" + ID + b".tar"),
    file(ID + b"/VERSION", b"1.0"),
    file(b"manifest.json", MANIFEST),
    file(b"repositories", b"{}"),
)
SAVED_BY_DOCKER = (*BLOBS, INDEX, file(b"manifest.json", MANIFEST), LAYOUT, file(b"repositories", b"{}"))


def unpacked(path: Path, data: bytes) -> UnpackReport:
    path.mkdir()
    with opened(path) as fd, read(data) as archive:
        return unpack(RootArchive(archive), fd, single_id=True)


@pytest.mark.parametrize(
    ("parts", "name", "transport"),
    [
        (SAVED_BY_PODMAN, "a docker-archive", "docker-archive:a.tar"),
        (SAVED_BY_PODMAN[::-1], "a docker-archive", "docker-archive:a.tar"),
        ((file(b"./manifest.json", b" [ {" + MANIFEST[2:]), LAYER), "a docker-archive", "docker-archive:a.tar"),
        ((*BLOBS, INDEX, LAYOUT), "an OCI layout", "oci-archive:a.tar"),
        ((LAYOUT, INDEX, *BLOBS), "an OCI layout", "oci-archive:a.tar"),
        ((file(b"/.//oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), INDEX), "an OCI layout", "oci-archive:"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_of_an_image_is_refused_with_what_makes_a_root_of_it(
    tmp_path: Path, parts: tuple[bytes, ...], name: str, transport: str, pack: type[bytes]
) -> None:
    with pytest.raises(ImageError, match=rf"^a\.tar is {name}: a container image") as refused:
        unpacked(tmp_path / "root", pack(tar(*parts)))
    assert refused.value.hint is not None
    assert f"podman create {transport}" in refused.value.hint
    assert 'write "tar:root.tar"' in refused.value.hint


def test_newer_archives_of_docker_are_refused_under_either_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a docker-archive"):
        unpacked(tmp_path / "root", tar(*SAVED_BY_DOCKER))
    with pytest.raises(ImageError, match="an OCI layout"):
        unpacked(tmp_path / "other", tar(*SAVED_BY_DOCKER[::-1]))


@pytest.mark.parametrize(
    "part",
    [
        file(b"manifest.json", b'{"name": "an application", "Config": 1, "Layers": []}'),
        file(b"manifest.json", b'[{"name": "a list"}]'),
        file(b"manifest.json"),
        file(b"srv/image/manifest.json", MANIFEST),
        file(b"srv/image/oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        file(b"oci-layout", b"notes about the layout"),
        file(b"version", b"1.2.3\n"),
        directory(b"oci-layout"),
        symlink(b"manifest.json", b"/srv/image/manifest.json"),
    ],
)
def test_a_root_with_files_of_such_names_is_unpacked(tmp_path: Path, part: bytes) -> None:
    report = unpacked(tmp_path / "root", tar(part, file(b"etc/hostname", b"a")))
    assert report.entries == 2
    assert (tmp_path / "root/etc/hostname").read_bytes() == b"a"


def test_a_marker_is_unpacked_whole_and_only_its_beginning_is_kept(tmp_path: Path) -> None:
    content = os.urandom(1 << 18)
    unpacked(tmp_path / "root", tar(file(b"manifest.json", content)))
    assert (tmp_path / "root/manifest.json").read_bytes() == content
    large = b'[{"Config":"196c.json","Layers":["%s.tar"]},' % ID + b" " * (1 << 20)
    with pytest.raises(ImageError, match="a docker-archive"):
        unpacked(tmp_path / "other", tar(file(b"manifest.json", large)))
