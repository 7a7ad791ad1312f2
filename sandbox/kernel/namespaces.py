"""Create, join and identify namespaces by the names of the spec; namespaces(7)."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterable

from sandbox.kernel import _libc, constants
from sandbox.kernel.idmaps import IdMap
from unionfs._stdlib.dataclasses import dataclass

FLAGS = {
    "user": constants.CLONE_NEWUSER,
    "mount": constants.CLONE_NEWNS,
    "pid": constants.CLONE_NEWPID,
    "net": constants.CLONE_NEWNET,
    "ipc": constants.CLONE_NEWIPC,
    "uts": constants.CLONE_NEWUTS,
    "cgroup": constants.CLONE_NEWCGROUP,
    "time": constants.CLONE_NEWTIME,
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
"""The entries of /proc/PID/ns for the namespaces of the *children* of a process; only pid and time differ from its own."""


# include/uapi/linux/nsfs.h: _IO(0xb7, N), which a few architectures mark as "no data".
_IO = 0x2000B700 if os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha")) else 0xB700
_NS_GET_USERNS, _NS_GET_PARENT, _NS_GET_NSTYPE, _NS_GET_OWNER_UID = (_IO | number for number in (1, 2, 3, 4))

Identity = tuple[int, int]
"""Device and inode of a namespace. No other namespace has the same pair as long as it lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserNamespaceFact:
    """A user namespace that the sandbox may enter, as seen from this process."""

    identity: Identity
    #: The uid of its creator, in the numbers of our user namespace.
    owner: int
    #: Its id maps, with outside ids in the numbers of our user namespace; empty if we may not enter it.
    uid_map: tuple[IdMap, ...] = ()
    gid_map: tuple[IdMap, ...] = ()
    setgroups: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceFact:
    """A namespace that is to be joined. If it cannot be joined, *problem* is the reason."""

    path: str
    problem: str | None = None
    hint: str | None = None
    identity: Identity = (0, 0)
    #: Whether this process is in it.
    own: bool = False
    #: The user namespace that owns it (a user namespace: itself); None if that is not a descendant of ours.
    user: UserNamespaceFact | None = None


def kind_of(fd: int) -> str | None:
    """Return the kind of the namespace that *fd* refers to, or None if *fd* is not a namespace.

    Raises:
        OSError: the kernel does not support the request (before Linux 4.11).
    """
    try:
        flag = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return None
        raise
    return next((name for name, value in FLAGS.items() if value == flag), None)


def owner_of(fd: int) -> int:
    """Open the user namespace that owns the namespace *fd*; for a user namespace, open its parent.

    Raises:
        OSError: EPERM if that is neither our user namespace nor one below it.
    """
    return fcntl.ioctl(fd, _NS_GET_USERNS)


def owner_uid(fd: int) -> int:
    """Return the uid, in the numbers of our user namespace, of the creator of the user namespace *fd*."""
    answer = bytearray(4)
    fcntl.ioctl(fd, _NS_GET_OWNER_UID, answer)
    return int.from_bytes(answer, sys.byteorder)


def open_for_children(kind: str) -> int:
    """Open the namespace of *kind* in which the children of this process are."""
    return os.open(f"/proc/self/ns/{FILES[kind]}", os.O_RDONLY | os.O_CLOEXEC)


def identity_of(fd: int) -> Identity:
    """Return the device and inode number that identify the namespace *fd*."""
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


ENTRIES = {**FILES, "pid": "pid", "time": "time"}
"""The entries of /proc/PID/ns for the namespaces of the process itself."""


def own_identity(name: str) -> Identity:
    """Return the identity of our own namespace of kind *name*, or (0, 0) if the kernel does not have that kind."""
    try:
        info = os.stat(f"/proc/self/ns/{ENTRIES[name]}")
    except FileNotFoundError:
        return 0, 0
    return info.st_dev, info.st_ino


def write_clock_offsets(offsets: Iterable[tuple[str, int]], *, proc_root: str = "/proc") -> None:
    """Add nanoseconds to the clocks "monotonic" and "boottime" of the time namespace of our future children.

    Call this after :func:`unshare` made the namespace and before the first child: the kernel accepts no offsets later (EACCES).

    Raises:
        OSError: ERANGE for an offset that the kernel cannot represent (146 years); EPERM without CAP_SYS_TIME.
    """
    lines = "".join(f"{name} {value // 10**9} {value % 10**9}\n" for name, value in offsets)
    path = f"{proc_root}/self/timens_offsets"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, lines.encode("ascii"))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def flags_of(names: Iterable[str]) -> int:
    """Return the combined CLONE_NEW* flags of *names*.

    Raises:
        ValueError: a name is not one of the eight namespaces.
    """
    result = 0
    for name in names:
        if name not in FLAGS:
            raise ValueError(f"unknown namespace {name!r}: one of {', '.join(FLAGS)}")
        result |= FLAGS[name]
    return result


def unshare(names: Iterable[str]) -> None:
    """Give this process new namespaces of the kinds *names*. Without names, no system call is made.

    A new pid or time namespace applies to children made from now on, not to this process. If "user" is among several names, the
    kernel makes it first, and it owns the others. Another process must write its id maps before ids can be used.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, or if user namespaces are forbidden to this user; ENOSPC if a limit of
            /proc/sys/user or the nesting depth of 32 is reached; EINVAL for a kind that this kernel does not have.
        ValueError: a name is not one of the eight namespaces.
    """
    flags = flags_of(names)
    if flags:
        _libc.unshare(flags)


def join(name: str, path: str | int) -> None:
    """Enter the namespace of kind *name* that *path* (a file like /proc/PID/ns/net, or a descriptor of one) refers to.

    Raises:
        OSError: ENOENT, EACCES from opening *path*; EINVAL if it is of another kind; EPERM without CAP_SYS_ADMIN there.
        ValueError: *name* is not one of the eight namespaces.
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
