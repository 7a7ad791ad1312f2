"""Build a minimal /dev: a tmpfs with the harmless character devices of the host bound into it.

A process in a user namespace may not make device nodes, so the nodes of the host are bound. Each bind is a mount of its own
and, unlike the tmpfs, not nodev. The tmpfs stays writable for the sandbox's root: syslog daemons make /dev/log, and package
scripts make links there. That is harmless. The tmpfs is nodev (a node made there cannot be opened), nosuid, noexec, limited in
bytes and inodes, private to the sandbox, and charged to its memory. Programs in the sandbox can neither remove nor rename a
name that carries a mount.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from sandbox.kernel import _libc, constants, filesystems, mounts, trees
from sandbox.kernel.mount_flags import MountFlags

NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
"""Major and minor numbers; Documentation/admin-guide/devices.txt of Linux."""

LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
    "core": "/proc/kcore",
}

_DEV_BYTES = 1 << 20
_DEV_INODES = 1024


def open_nodes(directory: str = "/dev") -> dict[str, int]:
    """Open every device of :data:`NODES` in *directory* with O_PATH and return them by name; the caller closes them.

    Call this in the mount namespace in which :func:`build` will be called, while the host's /dev is still reachable.

    Raises:
        OSError: ENOENT if a device is missing; ENODEV if a file with its name is not that device.
    """
    opened: dict[str, int] = {}
    try:
        for name, numbers in NODES.items():
            path = f"{directory}/{name}"
            opened[name] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            status = os.fstat(opened[name])
            found = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if not stat.S_ISCHR(status.st_mode) or found != numbers:
                raise OSError(errno.ENODEV, f"not the character device {numbers[0]}:{numbers[1]}", path)
    except OSError:
        close_nodes(opened)
        raise
    return opened


def close_nodes(nodes: Mapping[str, int]) -> None:
    """Close the descriptors of :func:`open_nodes`."""
    for fd in nodes.values():
        os.close(fd)


def build(
    target_fd: int,
    nodes: Mapping[str, int],
    *,
    tty_gid: int | None = None,
    shm_bytes: int | None = None,
    mqueue: bool = True,
) -> None:
    """Mount a new /dev on the directory *target_fd*.

    *tty_gid* is as in :func:`filesystems.mount_devpts`. *shm_bytes* limits /dev/shm; None means half of the memory. *mqueue* is False
    if the ipc namespace is the host's: a process in a user namespace may not mount the queues of that namespace.

    Raises:
        OSError: the kernel refused a mount; nothing stays mounted on *target_fd* then.
    """
    flags = MountFlags(nosuid=True, nodev=True, noexec=True)
    options = {"mode": "0755", "size": str(_DEV_BYTES), "nr_inodes": str(_DEV_INODES)}
    dev_fd = filesystems.detached_filesystem("tmpfs", options=options, flags=flags)
    try:
        # Attached before it is filled: before Linux 6.15 nothing can be mounted on a detached mount.
        mounts.attach(dev_fd, target_fd)
        try:
            _populate(dev_fd, nodes, tty_gid=tty_gid, shm_bytes=shm_bytes, mqueue=mqueue)
        except OSError:
            _libc.umount2(f"/proc/self/fd/{dev_fd}", constants.MNT_DETACH)
            raise
    finally:
        os.close(dev_fd)


def _populate(
    dev_fd: int, nodes: Mapping[str, int], *, tty_gid: int | None, shm_bytes: int | None, mqueue: bool
) -> None:
    for name, node_fd in nodes.items():
        _bind_node(dev_fd, name, node_fd)
    for name, destination in LINKS.items():
        os.symlink(destination, name, dir_fd=dev_fd)
    with _Directory(dev_fd, "pts") as fd:
        filesystems.mount_devpts(fd, tty_gid=tty_gid)
    with _Directory(dev_fd, "shm") as fd:
        flags = MountFlags(nosuid=True, nodev=True, noexec=True)
        filesystems.mount_tmpfs(fd, size=shm_bytes, mode=0o1777, flags=flags)
    if mqueue:
        with _Directory(dev_fd, "mqueue") as fd:
            filesystems.mount_mqueue(fd)


def bind_console(dev_fd: int, terminal_fd: int) -> None:
    """Bind the terminal that *terminal_fd* (O_PATH) refers to as ``console`` of *dev_fd*, the root of a built /dev.

    The terminal must come from the devpts of this mount namespace, such as that of *dev_fd* itself.
    """
    _bind_node(dev_fd, "console", terminal_fd)


def bind_device(dev_fd: int, path: str, node_fd: int, *, kind: str, numbers: tuple[int, int]) -> None:
    """Bind the device node *node_fd* (O_PATH) at the relative *path* below *dev_fd*, the root of a /dev just built.

    Raises:
        OSError: ENODEV if the node is not the device *kind* ("c" or "b") *numbers*; EEXIST if *path* already exists.
    """
    info = os.fstat(node_fd)
    found = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
    if found != kind or (os.major(info.st_rdev), os.minor(info.st_rdev)) != numbers:
        raise OSError(
            errno.ENODEV, "the device was replaced by another one after the sandbox was planned", path
        )
    *parents, name = path.split("/")
    at = trees.make_directories(dev_fd, parents)
    try:
        _bind_node(at, name, node_fd)
    finally:
        os.close(at)


def _bind_node(dev_fd: int, name: str, node_fd: int) -> None:
    fd = os.open(
        name, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=dev_fd
    )
    try:
        mounts.bind(node_fd, fd, recursive=False, nosuid=True, noexec=True)
    finally:
        os.close(fd)


class _Directory:
    """A new directory of /dev that stays open while a file system is mounted on it."""

    def __init__(self, dev_fd: int, name: str) -> None:
        self._dev_fd, self._name = dev_fd, name

    def __enter__(self) -> int:
        os.mkdir(self._name, 0o755, dir_fd=self._dev_fd)
        self._fd = os.open(
            self._name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dev_fd
        )
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
