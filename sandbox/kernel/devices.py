"""Building a minimal /dev: a tmpfs with the host's harmless character devices bound into it.

A user namespace may not make device nodes, hence binds; each is a mount of its own and, unlike the tmpfs around it, not nodev.
The tmpfs stays writable, by the sandbox's root alone: syslog daemons make /dev/log and package scripts make links there. That is
harmless: it is nodev (no node made there opens), nosuid, noexec, bounded in bytes and inodes, private to the sandbox and
charged to its memory; and a name that carries a mount can be neither removed nor renamed from within.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from sandbox.kernel import _libc, mounts, trees
from sandbox.kernel.mounts import MountFlags

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
    """Open every device of :data:`NODES` in *directory*, O_PATH, by name; the caller closes them.

    Called in the mount namespace that :func:`build` will be called in, while the host's /dev is in sight.

    Raises:
        OSError: ENOENT when one is missing; ENODEV when a file has its name that is not that device.
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

    *tty_gid* is as in :func:`mounts.mount_devpts`. *shm_bytes* bounds /dev/shm, None is half of the memory. *mqueue* is False
    where the ipc namespace is the host's, whose queues a user namespace may not mount.

    Raises:
        OSError: a mount was refused; nothing stays mounted on *target_fd* then.
    """
    flags = MountFlags(nosuid=True, nodev=True, noexec=True)
    options = {"mode": "0755", "size": str(_DEV_BYTES), "nr_inodes": str(_DEV_INODES)}
    dev_fd = mounts.detached_filesystem("tmpfs", options=options, flags=flags)
    try:
        # Attached before it is filled: Linux before 6.15 takes no mount on a detached one.
        mounts.attach(dev_fd, target_fd)
        try:
            _populate(dev_fd, nodes, tty_gid=tty_gid, shm_bytes=shm_bytes, mqueue=mqueue)
        except OSError:
            _libc.umount2(f"/proc/self/fd/{dev_fd}", _libc.MNT_DETACH)
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
        mounts.mount_devpts(fd, tty_gid=tty_gid)
    with _Directory(dev_fd, "shm") as fd:
        flags = MountFlags(nosuid=True, nodev=True, noexec=True)
        mounts.mount_tmpfs(fd, size=shm_bytes, mode=0o1777, flags=flags)
    if mqueue:
        with _Directory(dev_fd, "mqueue") as fd:
            mounts.mount_mqueue(fd)


def bind_console(dev_fd: int, terminal_fd: int) -> None:
    """Show the terminal that *terminal_fd* (O_PATH) refers to as ``console`` of *dev_fd*, the root of a built /dev.

    The terminal must come from the devpts of this mount namespace, such as that of *dev_fd* itself.
    """
    _bind_node(dev_fd, "console", terminal_fd)


def bind_device(dev_fd: int, path: str, node_fd: int, *, kind: str, numbers: tuple[int, int]) -> None:
    """Show the device node *node_fd* (O_PATH) at the relative *path* below *dev_fd*, the root of a /dev just built.

    Raises:
        OSError: ENODEV when it is not the device *kind* ("c" or "b") *numbers*; EEXIST when there is something already.
    """
    info = os.fstat(node_fd)
    found = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
    if found != kind or (os.major(info.st_rdev), os.minor(info.st_rdev)) != numbers:
        raise OSError(
            errno.ENODEV, "not the device any more that was there when the sandbox was planned", path
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
    """A new directory of /dev, open for the time of a mount on it."""

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
