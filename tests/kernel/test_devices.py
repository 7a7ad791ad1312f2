"""The minimal /dev."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

from sandbox.kernel import devices, open_paths
from tests.kernel.support import refusal

pytestmark = pytest.mark.userns

O_DIR = os.O_PATH | os.O_DIRECTORY


def build(path: str, **options: Any) -> None:
    nodes = devices.open_nodes()
    target = os.open(path, O_DIR)
    devices.build(target, nodes, **options)
    os.close(target)
    devices.close_nodes(nodes)


@pytest.mark.parametrize("single_id", [False, True], ids=["whole map", "single id"])
def test_dev_has_exactly_the_entries_that_a_program_expects(in_namespaces, open_directory, single_id):
    dev = open_directory

    def inside() -> object:
        os.umask(0o077)  # the umask must have no effect
        build(dev)
        kinds = {name: stat.S_IFMT(os.lstat(f"{dev}/{name}").st_mode) for name in os.listdir(dev)}
        modes = {
            name: stat.S_IMODE(os.stat(f"{dev}/{name}").st_mode)
            for name in ("", "null", "pts", "shm", "mqueue")
        }
        return kinds, modes, os.readlink(f"{dev}/fd"), os.readlink(f"{dev}/ptmx")

    kinds, modes, fd, ptmx = in_namespaces(inside, kinds=("mount", "ipc"), single_id=single_id)
    nodes = dict.fromkeys(("null", "zero", "full", "random", "urandom", "tty"), stat.S_IFCHR)
    links = dict.fromkeys(("core", "fd", "stdin", "stdout", "stderr", "ptmx"), stat.S_IFLNK)
    directories = dict.fromkeys(("pts", "shm", "mqueue"), stat.S_IFDIR)
    assert kinds == nodes | links | directories
    assert modes == {"": 0o755, "null": 0o666, "pts": 0o755, "shm": 0o1777, "mqueue": 0o1777}
    assert (fd, ptmx) == ("/proc/self/fd", "pts/ptmx")


def test_the_nodes_are_the_devices_of_their_names(in_namespaces, open_directory):
    dev = open_directory

    def inside() -> object:
        build(dev, mqueue=False)
        with (
            open(f"{dev}/zero", "rb", buffering=0) as zero,
            open(f"{dev}/urandom", "rb", buffering=0) as urandom,
        ):
            read = zero.read(3).hex(), len(set(urandom.read(64))) > 8
        null, full = os.open(f"{dev}/null", os.O_RDWR), os.open(f"{dev}/full", os.O_WRONLY)
        os.write(null, b"gone")
        os.setsid()
        return (
            read,
            os.read(null, 1).decode(),
            refusal(os.write, full, b"x"),
            refusal(os.open, f"{dev}/tty", os.O_RDWR),
        )

    assert in_namespaces(inside) == [["000000", True], "", "ENOSPC", "ENXIO"]


def test_names_of_devices_cannot_be_removed_and_new_devices_cannot_be_made(in_namespaces, open_directory):
    dev = open_directory

    def inside() -> object:
        build(dev, mqueue=False)
        os.symlink("/x", f"{dev}/log")  # the directory is writable
        return (
            refusal(os.unlink, f"{dev}/null"),
            refusal(os.rename, f"{dev}/zero", f"{dev}/nothing"),
            refusal(os.mknod, f"{dev}/mem", stat.S_IFCHR | 0o666, os.makedev(1, 1)),
        )

    assert in_namespaces(inside) == ["EBUSY", "EBUSY", "EPERM"]


def test_the_space_in_dev_is_bounded(in_namespaces, open_directory):
    dev = open_directory

    def inside() -> object:
        build(dev, shm_bytes=1 << 16, mqueue=False)
        with open(f"{dev}/file", "wb", buffering=0) as file:
            top = refusal(lambda: [file.write(bytes(1 << 16)) for _ in range(64)])
        with open(f"{dev}/shm/file", "wb", buffering=0) as file:
            file.write(bytes(1 << 16))
            shm = refusal(file.write, bytes(1))
        return top, shm

    assert in_namespaces(inside) == ["ENOSPC", "ENOSPC"]


def test_a_terminal_of_its_own_becomes_the_console(in_namespaces, open_directory):
    dev = open_directory

    def inside() -> object:
        import fcntl
        import struct

        build(dev, mqueue=False)
        dev_fd = os.open(dev, O_DIR)
        ptmx = os.open(f"{dev}/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(ptmx, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
        terminal = open_paths.open_in_root(dev_fd, "pts/0")
        devices.bind_console(dev_fd, terminal)
        console = os.open(f"{dev}/console", os.O_RDWR | os.O_NOCTTY)
        os.write(console, b"hello")
        return os.read(ptmx, 10).decode(), os.isatty(console)

    assert in_namespaces(inside) == ["hello", True]


def test_a_refused_mount_leaves_nothing_on_the_target(in_namespaces, open_directory):
    dev = open_directory

    def inside() -> object:
        # Without an ipc namespace of its own, mqueue is refused, which is mounted last.
        return refusal(build, dev), os.listdir(dev)

    assert in_namespaces(inside) == ["EPERM", []]


def test_a_host_file_that_is_not_the_device_of_its_name_is_refused(tmp_path):
    for name in devices.NODES:
        (tmp_path / name).write_text("")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="not the character device 1:3") as caught:
        devices.open_nodes(str(tmp_path))
    assert caught.value.errno == errno.ENODEV
    assert caught.value.filename == f"{tmp_path}/null"
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_missing_device_of_the_host_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        devices.open_nodes(str(tmp_path))


def test_a_device_of_the_host_is_shown_at_its_target(in_namespaces, open_directory):
    dev = open_directory

    def inside() -> object:
        os.umask(0)
        build(dev, mqueue=False)
        dev_fd, zero = os.open(dev, O_DIR), os.open("/dev/zero", os.O_PATH)
        devices.bind_device(dev_fd, "deep/down/nought", zero, kind="c", numbers=(1, 5))
        with open(f"{dev}/deep/down/nought", "rb", buffering=0) as file:
            return file.read(2).hex(), refusal(os.unlink, f"{dev}/deep/down/nought")

    assert in_namespaces(inside) == ["0000", "EBUSY"]


def test_a_device_that_has_been_replaced_is_refused(in_namespaces, open_directory):
    dev = open_directory

    def inside() -> object:
        build(dev, mqueue=False)
        dev_fd, zero, file = os.open(dev, O_DIR), os.open("/dev/zero", os.O_PATH), os.open("/", os.O_PATH)
        bind = devices.bind_device
        return (
            refusal(bind, dev_fd, "a", zero, kind="c", numbers=(1, 3)),
            refusal(bind, dev_fd, "a", zero, kind="b", numbers=(1, 5)),
            refusal(bind, dev_fd, "a", file, kind="c", numbers=(0, 0)),
            refusal(bind, dev_fd, "null", zero, kind="c", numbers=(1, 5)),
            refusal(bind, dev_fd, "fd/a", zero, kind="c", numbers=(1, 5)),
        )

    assert in_namespaces(inside) == ["ENODEV", "ENODEV", "ENODEV", "EEXIST", "ENOTDIR"]
