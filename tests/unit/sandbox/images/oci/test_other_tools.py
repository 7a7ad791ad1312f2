"""umoci, skopeo and podman read the images that are written here, and show the same tree."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.images.oci.archive_writers import write_docker_archive, write_oci_archive
from sandbox.images.oci.layout_writer import write_layout
from tests.support.podman import Podman, listed
from tests.support.tree import Entry, snapshot
from tests.unit.sandbox.images.oci.layer_streams import T, file
from tests.unit.sandbox.images.oci.sample_images import LOWER, SHOWN, UPPER, image

ROOT = os.geteuid() == 0
HOLES = file(b"holes", b"abcd", b"holes2", ranges=((0, 2), (6 << 20, 2)), size=8 << 20)
WITH_HOLES = b"ab" + bytes((6 << 20) - 2) + b"cd" + bytes((2 << 20) - 2)


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=env, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


def unpacked(layout: Path, tag: str, bundle: Path) -> Path:
    """Unpack an image of *layout* with umoci; return the directory of its root file system."""
    run("umoci", "unpack", *([] if ROOT else ["--rootless"]), "--image", f"{layout}:{tag}", bundle)
    return bundle / "rootfs"


def tree_in(rootfs: Path) -> dict[bytes, Entry]:
    """Return the tree below *rootfs*, without the times and without the attribute that umoci adds for other owners."""
    tree = snapshot(rootfs, ids=False, nlink=True, mtime=True)
    assert {entry.mtime_ns for entry in tree.values()} == {T * 10**9}
    del tree[b"."]
    return {
        path: replace(
            entry,
            mtime_ns=None,
            xattrs={name: each for name, each in entry.xattrs.items() if name != "user.rootlesscontainers"},
        )
        for path, entry in tree.items()
    }


@pytest.mark.umoci
@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compression", ["", "gzip"])
def test_umoci_unpacks_a_layout_to_the_same_tree(compression: str, docker: bool, tmp_path: Path) -> None:
    content, _ = image(tmp_path, compression=compression, docker=docker)
    write_layout(str(tmp_path / "layout"), content, "v1.0")
    assert tree_in(unpacked(tmp_path / "layout", "v1.0", tmp_path / "bundle")) == SHOWN


@pytest.mark.umoci
def test_umoci_reads_files_that_keep_their_holes(tmp_path: Path) -> None:
    content, _ = image(tmp_path, changes=(LOWER, [*UPPER, HOLES]))
    write_layout(str(tmp_path / "layout"), content, "t")
    rootfs = unpacked(tmp_path / "layout", "t", tmp_path / "bundle")
    assert (rootfs / "holes").read_bytes() == WITH_HOLES
    assert (rootfs / "holes").samefile(rootfs / "holes2")


@pytest.mark.umoci
def test_umoci_adds_a_layer_to_a_layout_and_leaves_a_layout_that_is_written_to(tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    layout = tmp_path / "layout"
    write_layout(str(layout), content, "t")
    run("umoci", "tag", "--image", f"{layout}:t", "umoci-tag")
    run("umoci", "config", "--image", f"{layout}:t", "--author", "a")
    write_layout(str(layout), content, "again")
    run("umoci", "gc", "--layout", layout)
    assert set(run("umoci", "ls", "--layout", layout).split()) == {"t", "umoci-tag", "again"}


@pytest.mark.skopeo
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_skopeo_copies_an_image_without_changing_its_digest(
    form: str, compression: str, tmp_path: Path
) -> None:
    content, _ = image(tmp_path, compression=compression)
    path = tmp_path / "image"
    if form == "oci":
        write_layout(str(path), content, "t")
    else:
        with open(path, "wb") as output:
            write_oci_archive(output, content, "t")
    copy = tmp_path / "copy"
    run("skopeo", "--insecure-policy", "copy", "--preserve-digests", f"{form}:{path}:t", f"dir:{copy}")
    assert (copy / "manifest.json").read_bytes() == content.content
    inspected = json.loads(run("skopeo", "inspect", f"{form}:{path}:t"))
    assert inspected["Digest"] == str(content.descriptor.digest)
    assert inspected["Labels"] == {"a": "b"}


@pytest.mark.skopeo
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("docker", [False, True])
def test_skopeo_reads_a_docker_archive(docker: bool, compression: str, tmp_path: Path) -> None:
    content, _ = image(tmp_path, compression=compression, docker=docker, changes=(LOWER, UPPER, LOWER))
    with open(tmp_path / "image", "wb") as output:
        write_docker_archive(output, content, ["localhost/a:1", "localhost/b:2"])
    for name in ("localhost/a:1", "localhost/b:2"):
        copy = tmp_path / hashlib.sha256(name.encode()).hexdigest()
        run("skopeo", "--insecure-policy", "copy", f"docker-archive:{tmp_path}/image:{name}", f"oci:{copy}:t")
        found = json.loads(run("skopeo", "inspect", "--config", f"oci:{copy}:t"))
        assert found["rootfs"]["diff_ids"] == [str(each) for each in content.config().diff_ids]
        assert found["config"]["Labels"] == {"a": "b"}


@pytest.mark.skopeo
def test_what_skopeo_adds_to_a_layout_stays(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    one, _ = image(tmp_path)
    two, _ = image(tmp_path, changes=([file(b"two")],))
    write_layout(str(layout), one, "one")
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:one", f"oci:{layout}:copy")
    write_layout(str(layout), two, "two")
    for tag, content in (("one", one), ("copy", one), ("two", two)):
        inspected = json.loads(run("skopeo", "inspect", f"oci:{layout}:{tag}"))
        assert inspected["Digest"] == str(content.descriptor.digest)


@pytest.mark.podman
@pytest.mark.twice
@pytest.mark.parametrize(
    ("form", "docker", "compression"),
    [("oci-archive", False, "zstd"), ("docker-archive", True, "gzip"), ("docker-archive", False, "")],
)
def test_podman_loads_an_archive_and_shows_the_same_tree(
    form: str, docker: bool, compression: str, podman: Podman, tmp_path: Path
) -> None:
    content, _ = image(tmp_path, docker=docker, compression=compression, changes=(LOWER, [*UPPER, HOLES]))
    archive = tmp_path / "image.tar"
    with open(archive, "wb") as output:
        if form == "oci-archive":
            write_oci_archive(output, content, "localhost/sample:1")
        else:
            write_docker_archive(output, content, ["localhost/sample:1"])
    podman("load", "--input", archive)
    [inspected] = json.loads(podman("image", "inspect", "localhost/sample:1"))
    assert inspected["Id"] == content.manifest.config.digest.hex
    assert inspected["RootFS"]["Layers"] == [str(each) for each in content.config().diff_ids]
    podman("create", "--name", "it", "localhost/sample:1")
    podman("export", "--output", tmp_path / "tree.tar", "it")
    podman("rm", "it")
    expected = {
        path: (entry.mode or 0o777, entry.target or entry.data or b"") for path, entry in SHOWN.items()
    }
    assert listed(tmp_path / "tree.tar") == {
        **expected,
        b"holes": (0o644, WITH_HOLES),
        b"holes2": (0o644, WITH_HOLES),
    }
