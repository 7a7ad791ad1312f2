"""Names of namespaces to flags, making them and joining them; namespaces(7)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sandbox.kernel import _libc

FLAGS = {
    "user": _libc.CLONE_NEWUSER,
    "mount": _libc.CLONE_NEWNS,
    "pid": _libc.CLONE_NEWPID,
    "net": _libc.CLONE_NEWNET,
    "ipc": _libc.CLONE_NEWIPC,
    "uts": _libc.CLONE_NEWUTS,
    "cgroup": _libc.CLONE_NEWCGROUP,
    "time": _libc.CLONE_NEWTIME,
}

FILES = {
    "user": "user",
    "mount": "mnt",
    "pid": "pid_for_children",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time_for_children",
}
"""The entry of /proc/PID/ns that stands for what *children* of the process get; the same as its own but for pid and time."""


def flags_of(names: Iterable[str]) -> int:
    """Return the CLONE_NEW* flags of *names* joined together.

    Raises:
        ValueError: a name is none of the eight namespaces.
    """
    result = 0
    for name in names:
        if name not in FLAGS:
            raise ValueError(f"unknown namespace {name!r}: one of {', '.join(FLAGS)}")
        result |= FLAGS[name]
    return result


def unshare(names: Iterable[str]) -> None:
    """Give this process new namespaces of the kinds *names*; nothing is called when there are none.

    A new pid or time namespace holds the children made from now on, not this process. Where "user" is among several the
    kernel makes it first, and it owns the others; but an id map must be written by another process before ids can be used.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, or user namespaces are forbidden to this user; ENOSPC when a limit of
            /proc/sys/user or the nesting depth of 32 is reached; EINVAL for a kind this kernel lacks.
        ValueError: a name is none of the eight namespaces.
    """
    flags = flags_of(names)
    if flags:
        _libc.unshare(flags)


def join(name: str, path: str | int) -> None:
    """Enter the namespace of kind *name* that *path* (a file like /proc/PID/ns/net, or a descriptor of one) refers to.

    Raises:
        OSError: ENOENT, EACCES from opening *path*; EINVAL when it is of another kind; EPERM without CAP_SYS_ADMIN there.
        ValueError: *name* is none of the eight namespaces.
    """
    flags = flags_of((name,))
    if isinstance(path, int):
        _libc.setns(path, flags)
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc.setns(fd, flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def identity(name: str, pid: int | str = "self") -> str:
    """Return the kernel's name of the namespace of kind *name* of process *pid*, such as ``net:[4026531840]``."""
    return os.readlink(f"/proc/{pid}/ns/{FILES[name]}")
