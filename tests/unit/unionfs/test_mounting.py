"""What is told to mount(2), without mounting."""

from __future__ import annotations

import errno
import os

import pytest

from unionfs import _libc, mounting
from unionfs.errors import UnionError


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes, bytes, int, bytes]]:
    """Return what mount(2) is called with, as root."""
    calls: list[tuple[bytes, bytes, bytes, int, bytes]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    monkeypatch.setattr(mounting, "_DEVICE", os.devnull)
    monkeypatch.setattr(_libc, "mount", lambda *arguments: calls.append(arguments))
    return calls


def test_options_of_mount_become_flags_and_the_rest_is_for_fuse(
    mounted: list[tuple[bytes, bytes, bytes, int, bytes]],
) -> None:
    made = mounting.mount(
        "/mnt", ["default_permissions", "nosuid", "rw", "fsname=a", "subtype=b", "max_read=4096"]
    )
    os.close(made.fd)
    (source, target, kind, flags, data) = mounted[0]
    assert (source, target, kind) == (b"a", b"/mnt", b"fuse.b")
    assert flags == _libc.MS_NOSUID | _libc.MS_NODEV
    assert data.split(b",")[1:] == [
        b"rootmode=40000", b"user_id=0", b"group_id=0", b"default_permissions", b"max_read=4096",
    ]  # fmt: skip
    assert data.split(b",")[0] == b"fd=%d" % made.fd


def test_devices_work_only_where_they_are_asked_for(
    mounted: list[tuple[bytes, bytes, bytes, int, bytes]],
) -> None:
    os.close(mounting.mount("/mnt", ["dev", "suid"]).fd)
    assert mounted[0][3] == 0


def test_a_mount_that_fails_is_explained_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, mounted: list[tuple[bytes, bytes, bytes, int, bytes]]
) -> None:
    def refused(*_arguments: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(_libc, "mount", refused)
    with pytest.raises(UnionError, match="cannot mount on /mnt: No such device"):
        mounting.mount("/mnt", [])


def test_without_the_device_or_the_helper_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(mounting, "_DEVICE", "/nowhere/fuse")
    with pytest.raises(UnionError, match="modprobe fuse"):
        mounting.mount("/mnt", [])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounting, "_HELPER", "no-such-fusermount")
    with pytest.raises(UnionError, match="apt-get install fuse3"):
        mounting.mount("/mnt", [])


def test_a_device_that_is_not_open_to_us_is_told_with_the_remedy_where_the_helper_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounting, "_HELPER", "false")
    monkeypatch.setattr(mounting, "_DEVICE", "/nowhere/fuse")
    with pytest.raises(UnionError, match="modprobe fuse"):
        mounting.mount("/mnt", [])
    monkeypatch.setattr(mounting, "_DEVICE", os.devnull)
    with pytest.raises(UnionError, match="cannot mount on /mnt: false failed"):
        mounting.mount("/mnt", [])
