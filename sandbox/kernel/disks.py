"""Find the disk of a file for the block controllers of cgroups, which need exactly one whole disk; sysfs(5)."""

from __future__ import annotations

import os
import stat

from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo


def disk_of(path: str, *, sys_root: str = "/sys", mountinfo: str | None = None) -> str:
    """Return "MAJOR:MINOR" of the disk of the file system of *path*, or of *path* itself if it is a block device.

    *sys_root* and *mountinfo* are for tests.

    Raises:
        OSError: *path* is not accessible.
        ValueError: the file system is on no disk, or on more than one.
    """
    info = os.stat(path)
    if stat.S_ISBLK(info.st_mode):
        return _whole(info.st_rdev, sys_root)
    if os.path.exists(f"{sys_root}/dev/block/{_number(info.st_dev)}"):
        return _whole(info.st_dev, sys_root)
    # A file system on several devices, or on none, has a device number that is not that of a block device.
    if mountinfo is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mountinfo = file.read()
    entry = _mount_of(os.path.realpath(path), parse_mountinfo(mountinfo))
    if entry is not None and entry.fstype == "btrfs":
        return _of_btrfs(entry, sys_root)
    kind = f"a {entry.fstype} file system" if entry is not None else "a file system"
    raise ValueError(f"it is on {kind}, which is not on a disk")


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _whole(device: int, sys_root: str) -> str:
    """Return the disk of the partition *device*, or *device* if it is a disk: the kernel accepts no partition."""
    where = f"{sys_root}/dev/block/{_number(device)}"
    if not os.path.exists(f"{where}/partition"):
        return _number(device)
    return _read(f"{os.path.dirname(os.path.realpath(where))}/dev")


def _mount_of(path: str, entries: list[MountEntry]) -> MountEntry | None:
    """Return the mount of *path*: the one with the longest mount point; of several, the last in the table."""
    best: MountEntry | None = None
    for entry in entries:
        point = entry.mount_point.rstrip("/")
        if (path + "/").startswith(point + "/") and (
            best is None or len(point) >= len(best.mount_point.rstrip("/"))
        ):
            best = entry
    return best


def _of_btrfs(entry: MountEntry, sys_root: str) -> str:
    """Return the disk of the btrfs mount *entry*, whose source is one of the file system's disks."""
    source = os.stat(entry.source).st_rdev
    base = f"{sys_root}/fs/btrfs"
    for name in sorted(os.listdir(base)):
        directory = f"{base}/{name}/devices"
        members = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        devices = [_read(f"{directory}/{member}/dev") for member in members]
        if _number(source) in devices:
            if len(devices) > 1:
                raise ValueError(f"it is on a btrfs file system of {len(devices)} disks")
            return _whole(source, sys_root)
    raise ValueError("it is on a btrfs file system whose disk cannot be found")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
