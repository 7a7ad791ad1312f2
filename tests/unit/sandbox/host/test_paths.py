"""Facts about host paths, examined on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.host.image_formats import DOCKER_ARCHIVE, OCI_LAYOUT, SKOPEO_DIRECTORY
from sandbox.host.paths import DeviceNode, inspect_all
from sandbox.kernel.mountinfo import parse_mountinfo


def test_device_nodes_are_listed_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    paths = [
        "/dev/null",
        "/dev/pts",
        str(tmp_path / "fifo"),
        str(tmp_path / "null"),
        str(tmp_path),
        "/dev/absent",
    ]
    found = inspect_all(paths, devices=paths)
    null = DeviceNode(path="", kind="c", major=1, minor=3)
    assert found["/dev/null"].devices == (null,)
    assert found[str(tmp_path / "null")].devices == (null,)
    assert found[str(tmp_path / "null")].real == "/dev/null"
    assert DeviceNode(path="/ptmx", kind="c", major=5, minor=2) in found["/dev/pts"].devices
    assert (found[str(tmp_path / "fifo")].devices, found[str(tmp_path)].devices) == ((), ())
    assert found[str(tmp_path / "fifo")].reason
    assert found["/dev/absent"].reason == "no such file or directory"


def test_device_that_this_account_may_not_open_is_there_all_the_same() -> None:
    devices = [path for path in ("/dev/kmsg", "/dev/console", "/dev/tty0") if os.path.exists(path)]
    if not devices:
        pytest.skip("this machine has no device that only root may open")  # as in a container
    path = devices[0]
    (node,) = inspect_all([path], devices=[path])[path].devices
    assert (node.major, node.minor) == (os.major(os.stat(path).st_rdev), os.minor(os.stat(path).st_rdev))


def test_mounts_travel_from_where_they_are_shared_or_received() -> None:
    line = "22 1 0:20 / /{} rw {}- tmpfs tmpfs rw\n"
    text = line.format("a", "shared:1 ") + line.format("b", "master:1 ") + line.format("c", "")
    assert [entry.propagates for entry in parse_mountinfo(text)] == [True, True, False]


def test_a_directory_that_holds_a_container_image_is_recognized(tmp_path: Path) -> None:
    for name, marker, content in (
        ("oci", "oci-layout", '{"imageLayoutVersion": "1.0.0"}'),
        ("docker", "manifest.json", '[{"Config":"1.json","Layers":["2.tar"]}]'),
        ("skopeo", "version", "Directory Transport Version: 1.1\n"),
        ("project", "manifest.json", '{"version": 3}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / marker).write_text(content)
    (tmp_path / "link").symlink_to("oci")
    (tmp_path / "hostile").mkdir()
    os.mkfifo(tmp_path / "hostile/oci-layout")
    (tmp_path / "hostile/manifest.json").symlink_to("../docker/manifest.json")
    (tmp_path / "hostile/version").mkdir()
    names = ["oci", "link", "docker", "skopeo", "project", "hostile"]
    paths = [str(tmp_path / name) for name in names]
    found = inspect_all(paths, roots=paths)
    assert [found[path].image for path in paths] == [
        OCI_LAYOUT, OCI_LAYOUT, DOCKER_ARCHIVE, SKOPEO_DIRECTORY, None, None,
    ]  # fmt: skip
