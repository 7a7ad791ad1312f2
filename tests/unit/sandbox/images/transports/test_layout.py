"""OCI layouts as directories and as tars: what is read of them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import (
    INDEX,
    LAYER,
    MANIFEST,
    TAG,
    Image,
    add_blob,
    describe,
    digest_of,
    pack,
    tar_of,
    write_index,
    write_layout,
)
from tests.unit.sandbox.images.transports.sources import found, refused

ONE = Image(layers=(tar_of({"one": b"1" * 99999}), tar_of({"two": b"2"})), config={"Cmd": ["one"]})
TWO = Image(layers=(tar_of({"two": b"2"}),), compressed=False)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "layout", ONE, TWO, tags=("one", "sub/two:2"))


@pytest.mark.parametrize("form", ["directory", "tar", "gzip"])
def test_an_image_is_read_from_each_form_of_a_layout(form: str, layout: Path, tmp_path: Path) -> None:
    path = layout if form == "directory" else pack(layout, tmp_path / "packed", compressed=form == "gzip")
    image, layers = found(f"oci:{path}:one")
    assert str(image.descriptor.digest) == ONE.digest
    assert image.config.process.cmd == ("one",)
    assert layers == ONE.blobs()


@pytest.mark.parametrize("digest", [ONE.digest, TWO.digest])
def test_an_image_is_chosen_by_its_digest(digest: str, layout: Path) -> None:
    assert str(found(f"oci:{layout}:{digest}")[0].descriptor.digest) == digest


def test_the_only_image_needs_no_tag_even_with_several_tags(tmp_path: Path) -> None:
    entry = describe(MANIFEST, TWO.manifest_content())
    write_layout(tmp_path, TWO)
    write_index(tmp_path, [{**entry, "annotations": {TAG: tag}} for tag in ("a", "b")])
    assert found(f"oci:{tmp_path}")[1] == TWO.blobs()


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("", "has more than one image"),
        (":other", "has no image other"),
        (f":sha256:{'0' * 64}", f"has no image sha256:{'0' * 64}"),
    ],
)
def test_a_choice_that_is_not_clear_is_refused_with_the_tags(suffix: str, message: str, layout: Path) -> None:
    assert message in refused(f"oci:{layout}{suffix}")


def test_a_layout_without_images_is_refused(tmp_path: Path) -> None:
    assert "has no image" in refused(f"oci:{write_index(tmp_path / 'empty', [])}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("oci-layout", None, "has no file oci-layout, so it is no OCI layout"),
        ("oci-layout", b'{"imageLayoutVersion": "2.0.0"}', "a layout of version 2.0.0, not 1.0"),
        ("oci-layout", b"{}", "imageLayoutVersion"),
        ("index.json", None, "has no index.json"),
        ("index.json", b"[" * 200_000 + b"]" * 200_000, "JSON nested more than 64 deep"),
        ("index.json", b'{"schemaVersion":2,"manifests":' + b'[{"a":' * 100_000, "JSON nested"),
        ("index.json", b'{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x"}]}', "digest"),
        ("index.json", b'{"schemaVersion":2,"manifests":[{"digest":"md5:%s"}]}' % (b"0" * 32), "digest"),
        ("index.json", b"x" * (5 << 20), "has 5242880 bytes, more than 4194304"),
    ],
)
def test_a_damaged_or_hostile_layout_is_refused(
    name: str, content: bytes | None, message: str, layout: Path
) -> None:
    (layout / name).unlink()
    if content is not None:
        (layout / name).write_bytes(content)
    assert message in refused(f"oci:{layout}:one")


def blob(layout: Path, content: bytes) -> Path:
    return layout / "blobs/sha256" / hashlib.sha256(content).hexdigest()


def _link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "is missing"),
        (_link, "is a symbolic link"),
        (_fifo, "is not a regular file"),
        (_directory, "is not a regular file"),
        (lambda path: os.truncate(path, 5), "has 5 bytes instead of"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "has the digest sha256:"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size + 1)), "bytes"),
    ],
)
@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_a_blob_that_is_not_what_its_descriptor_tells_is_refused(
    part: str, change: Callable[[Path], Any], message: str, layout: Path
) -> None:
    content = {
        "manifest": ONE.manifest_content(),
        "config": ONE.config_content(),
        "layer": ONE.blobs()[0],
    }[part]
    change(blob(layout, content))
    text = refused(f"oci:{layout}:one")
    assert message in text
    assert digest_of(content).partition(":")[2] in text


@pytest.mark.root
def test_a_device_among_the_blobs_is_refused_and_not_opened(layout: Path) -> None:
    path = blob(layout, ONE.blobs()[0])
    path.unlink()
    os.mknod(path, 0o600 | 0o20000, os.makedev(10, 9999))  # opening it would be ENXIO
    assert "is not a regular file" in refused(f"oci:{layout}:one")


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256"])
def test_a_directory_of_blobs_that_is_a_link_is_refused(name: str, layout: Path) -> None:
    (layout / name).rename(layout / "elsewhere")
    (layout / name).symlink_to(layout / "elsewhere")
    assert "not a directory" in refused(f"oci:{layout}:one")


def test_a_layout_behind_a_link_of_the_user_is_read(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(layout)
    assert found(f"oci:{tmp_path}/link:one")[1] == ONE.blobs()


def test_indexes_inside_each_other_are_followed_only_a_few_times(tmp_path: Path) -> None:
    content = TWO.manifest_content()
    entry = describe(MANIFEST, content)
    for _ in range(9):
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
        add_blob(tmp_path, index)
        entry = describe(INDEX, index)
    write_layout(tmp_path, TWO)
    write_index(tmp_path, [entry])
    assert "more than 4 indexes inside each other" in refused(f"oci:{tmp_path}")


def test_an_index_that_claims_to_contain_itself_is_refused(tmp_path: Path) -> None:
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [describe(INDEX, b"")]}
    content = json.dumps(index).encode()
    path = add_blob(tmp_path, content)
    index["manifests"] = [{"mediaType": INDEX, "digest": digest_of(content), "size": len(content)}]
    path.write_text(json.dumps(index))
    write_index(tmp_path, [describe(INDEX, content)])
    assert digest_of(content) in refused(f"oci:{tmp_path}")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"layers": [{"mediaType": LAYER, "digest": "sha256:../../../x", "size": 1}]}, "digest"),
        ({"layers": [{"mediaType": LAYER, "digest": digest_of(b""), "size": -1}]}, "size"),
        ({"layers": [{"mediaType": LAYER, "digest": digest_of(b""), "size": 1 << 64}]}, "size"),
        (
            {"layers": [{"mediaType": LAYER + "+encrypted", "digest": digest_of(b""), "size": 1}]},
            "is encrypted",
        ),
        ({"layers": []}, "the manifest has 0 layers, but its configuration has 1 diff ids"),
        ({"manifests": []}, "the document is a manifest and an index"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    manifest: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_layout(tmp_path, Image(layers=TWO.layers, manifest=manifest))
    assert message in refused(f"oci:{tmp_path}")


@pytest.mark.parametrize("kind", ["missing", "fifo", "text", "empty"])
def test_what_is_no_layout_at_all_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes(b"text" * 999 if kind == "text" else b"")
    assert refused(f"oci:{path}")
