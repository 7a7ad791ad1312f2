"""The arguments of mount(2), without mounting."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from unionfs import _libc, mount
from unionfs.errors import UnionError


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes, bytes, int, bytes]]:
    """Return the arguments of mount(2), for root."""
    calls: list[tuple[bytes, bytes, bytes, int, bytes]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    monkeypatch.setattr(mount, "_DEVICE", os.devnull)
    monkeypatch.setattr(_libc, "mount", lambda *arguments: calls.append(arguments))
    return calls


def test_options_of_mount_become_flags_and_the_rest_is_for_fuse(
    mounted: list[tuple[bytes, bytes, bytes, int, bytes]],
) -> None:
    made = mount.mount(
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
    os.close(mount.mount("/mnt", ["dev", "suid"]).fd)
    assert mounted[0][3] == 0


def test_a_mount_that_fails_is_explained_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, mounted: list[tuple[bytes, bytes, bytes, int, bytes]]
) -> None:
    def refused(*_arguments: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(_libc, "mount", refused)
    with pytest.raises(UnionError, match="cannot mount on /mnt: No such device"):
        mount.mount("/mnt", [])


def test_without_the_device_or_the_helper_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(mount, "_DEVICE", "/nowhere/fuse")
    with pytest.raises(UnionError, match="modprobe fuse"):
        mount.mount("/mnt", [])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mount, "_HELPER", "no-such-fusermount")
    with pytest.raises(UnionError, match="apt-get install fuse3"):
        mount.mount("/mnt", [])


def test_a_directory_of_path_that_may_not_be_searched_does_not_hide_that_the_helper_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(subprocess, "run", refused)
    monkeypatch.setenv("PATH", f"/nonexistent:{tmp_path}")
    with pytest.raises(UnionError, match="apt-get install fuse3"):
        mount.mount("/mnt", [])
    (tmp_path / "fusermount3").touch(mode=0o644)
    with pytest.raises(UnionError, match="cannot mount on /mnt: fusermount3: Permission denied"):
        mount.mount("/mnt", [])


def test_a_device_that_is_not_open_to_us_is_told_with_the_remedy_where_the_helper_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mount, "_HELPER", "false")
    monkeypatch.setattr(mount, "_DEVICE", "/nowhere/fuse")
    with pytest.raises(UnionError, match="modprobe fuse"):
        mount.mount("/mnt", [])
    monkeypatch.setattr(mount, "_DEVICE", os.devnull)
    with pytest.raises(UnionError, match="cannot mount on /mnt: false failed"):
        mount.mount("/mnt", [])


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of programs, the only one in PATH, for an ordinary user with an existing mount on /mnt."""

    def refused(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(_libc, "umount2", refused)
    monkeypatch.setattr(mount, "_device_on", lambda _mountpoint: "0:99")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def make_program(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def unmount() -> None:
    reader, writer = os.pipe()
    try:
        mount.Mounted(reader, "/mnt", "0:99").unmount()
    finally:
        os.close(reader)
        os.close(writer)


def test_umount_unmounts_where_fusermount_cannot(programs: Path) -> None:
    make_program(programs, "fusermount3", "echo no mtab >&2; exit 1")
    make_program(programs, "umount", f'echo "$*" >>{programs}/said')
    unmount()
    (programs / "fusermount3").unlink()
    unmount()
    assert (programs / "said").read_text() == "-l -i -- /mnt\n" * 2
    make_program(programs, "fusermount3", "exit 0")
    make_program(programs, "umount", "exit 1")
    unmount()


def test_a_mount_that_nothing_unmounts_is_an_error_with_the_cause(programs: Path) -> None:
    make_program(programs, "fusermount3", "echo no mtab >&2; exit 1")
    make_program(programs, "umount", "echo only root can do that >&2; exit 1")
    with pytest.raises(UnionError, match=r"cannot unmount /mnt: no mtab$"):
        unmount()
    for name in ("fusermount3", "umount"):
        (programs / name).unlink()
    with pytest.raises(UnionError, match=r"cannot unmount /mnt: fusermount3: No such file or directory$"):
        unmount()


def test_a_mount_that_is_gone_meanwhile_is_no_error(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = iter(["0:99", None])
    monkeypatch.setattr(mount, "_device_on", lambda _mountpoint: next(devices))
    unmount()
