"""The disk of a path, with simulated sysfs trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.kernel import disks


def number(path: Path | str) -> str:
    device = os.stat(path).st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def make_disk(sys_root: Path, name: str, device: str, *partitions: tuple[str, str]) -> None:
    """Create the sysfs entries of a disk and its partitions, by name and number."""
    base = sys_root / "devices" / name
    links = sys_root / "dev/block"
    links.mkdir(parents=True, exist_ok=True)
    base.mkdir(parents=True)
    (base / "dev").write_text(f"{device}\n")
    (links / device).symlink_to(base)
    for index, (part, its) in enumerate(partitions):
        (base / part).mkdir()
        (base / part / "dev").write_text(f"{its}\n")
        (base / part / "partition").write_text(f"{index + 1}\n")
        (links / its).symlink_to(base / part)


def test_a_file_system_on_a_whole_disk_is_on_that(tmp_path):
    make_disk(tmp_path / "sys", "vda", number(tmp_path))
    assert disks.disk_of(str(tmp_path), sys_root=str(tmp_path / "sys")) == number(tmp_path)


def test_a_partition_is_taken_for_its_disk(tmp_path):
    make_disk(tmp_path / "sys", "sda", "8:0", ("sda1", "8:1"), ("sda2", number(tmp_path)))
    assert disks.disk_of(str(tmp_path), sys_root=str(tmp_path / "sys")) == "8:0"


def mounted(path: Path, fstype: str, source: str = "none") -> str:
    return f"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:9 / {path} rw - {fstype} {source} rw\n"


@pytest.mark.parametrize("fstype", ["tmpfs", "overlay", "nfs4", "fuse.unionfs"])
def test_a_file_system_on_no_disk_is_named(tmp_path, fstype):
    with pytest.raises(ValueError, match=f"^it is on a {fstype} file system, which is not on a disk$"):
        disks.disk_of(str(tmp_path), sys_root=str(tmp_path / "sys"), mountinfo=mounted(tmp_path, fstype))


def test_the_mount_that_counts_is_the_innermost_and_of_two_on_one_path_the_later(tmp_path):
    lines = (
        mounted(tmp_path, "xfs")
        + f"3 2 0:9 / {tmp_path} rw - tmpfs t rw\n4 1 0:8 / {tmp_path}x rw - nfs n rw\n"
    )
    with pytest.raises(ValueError, match="a tmpfs file system"):
        disks.disk_of(str(tmp_path), sys_root=str(tmp_path / "sys"), mountinfo=lines)


@pytest.mark.root
def test_btrfs_is_on_its_disk_if_that_is_the_only_one(tmp_path):
    sys_root = tmp_path / "sys"
    source = tmp_path / "disk"
    os.mknod(source, 0o60600, os.makedev(8, 2))
    make_disk(sys_root, "sda", "8:0", ("sda2", "8:2"))
    members = sys_root / "fs/btrfs/5eed/devices"
    members.mkdir(parents=True)
    (members / "sda2").symlink_to(sys_root / "devices/sda/sda2")
    text = mounted(tmp_path, "btrfs", str(source))
    assert disks.disk_of(str(tmp_path), sys_root=str(sys_root), mountinfo=text) == "8:0"
    make_disk(sys_root, "sdb", "8:16")
    (members / "sdb").symlink_to(sys_root / "devices/sdb")
    with pytest.raises(ValueError, match=r"^it is on a btrfs file system of 2 disks$"):
        disks.disk_of(str(tmp_path), sys_root=str(sys_root), mountinfo=text)


@pytest.mark.root
def test_a_block_device_is_meant_itself(tmp_path):
    os.mknod(tmp_path / "disk", 0o60600, os.makedev(8, 1))
    make_disk(tmp_path / "sys", "sda", "8:0", ("sda1", "8:1"))
    assert disks.disk_of(str(tmp_path / "disk"), sys_root=str(tmp_path / "sys")) == "8:0"


def test_a_path_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        disks.disk_of(str(tmp_path / "gone"))
