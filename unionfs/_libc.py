"""System calls that Python's :mod:`os` lacks. No other module of this package uses ctypes.

The wrappers are thin: they take typed values, raise OSError, and contain no policy.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable

from unionfs._stdlib.typing import NoReturn

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_SYS_OPENAT2 = 437  # the same on every architecture (added after Linux 5.1 unified the tables)
_PR_SET_DUMPABLE = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.linkat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.syscall.restype = ctypes.c_long


_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_AT_STATX_DONT_SYNC = 0x4000
_STATX_BASIC_STATS = 0x7FF
_STATX_BTIME = 0x800
_libc.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Timestamp(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_int64), ("nsec", ctypes.c_uint32), ("reserved", ctypes.c_int32))


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("spare", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("atime", _Timestamp),
        ("btime", _Timestamp),
        ("ctime", _Timestamp),
        ("mtime", _Timestamp),
        ("rdev_major", ctypes.c_uint32),
        ("rdev_minor", ctypes.c_uint32),
        ("dev_major", ctypes.c_uint32),
        ("dev_minor", ctypes.c_uint32),
        ("later_fields", ctypes.c_uint64 * 14),
    )


def _raise_errno(path: bytes) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def renameat2(old_dirfd: int, old: bytes, new_dirfd: int, new: bytes, flags: int) -> None:
    """Rename *old* to *new* (renameat2(2)) with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT in *flags*."""
    if _libc.renameat2(old_dirfd, old, new_dirfd, new, flags) < 0:
        _raise_errno(new)


def link_fd(fd: int, new_dirfd: int, new: bytes) -> None:
    """Give the object of the descriptor *fd* (O_PATH suffices) the additional name *new*.

    Linking with AT_EMPTY_PATH requires CAP_DAC_READ_SEARCH (open(2), "O_TMPFILE"); linking the path under /proc does not.
    """
    if _libc.linkat(fd, b"", new_dirfd, new, _AT_EMPTY_PATH) < 0:
        os.link(f"/proc/self/fd/{fd}".encode(), new, dst_dir_fd=new_dirfd, follow_symlinks=True)


def openat2(dirfd: int, path: bytes, flags: int, resolve: int) -> int:
    """Open *path* below *dirfd* with the RESOLVE_* restrictions of openat2(2) (Linux 5.6). The descriptor is close-on-exec.

    Raises:
        OSError: EXDEV if *path* is on another mount and RESOLVE_NO_XDEV is given, ELOOP for a symbolic link with
            RESOLVE_NO_SYMLINKS, EAGAIN if a concurrent rename made the result unsafe, ENOSYS before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    fd: int = _libc.syscall(_SYS_OPENAT2, dirfd, path, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        _raise_errno(path)
    return fd


def stat_cached(dirfd: int, name: bytes) -> os.stat_result:
    """Return the attributes of *name* that the kernel has cached, without requesting newer ones from a file system server.

    The entry may be the root of another file system whose server does not answer, or waits for this one (statx(2),
    AT_STATX_DONT_SYNC). A symbolic link is not followed, and an automount is not triggered.
    """
    found = _Statx()
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC
    if _libc.statx(dirfd, name, flags, _STATX_BASIC_STATS, ctypes.byref(found)) < 0:
        _raise_errno(name)
    times = (found.atime, found.mtime, found.ctime)
    return os.stat_result(
        (
            found.mode,
            found.ino,
            os.makedev(found.dev_major, found.dev_minor),
            found.nlink,
            found.uid,
            found.gid,
            found.size,
            *(time.sec for time in times),
            *(time.sec + time.nsec / 1e9 for time in times),
            *(time.sec * 1_000_000_000 + time.nsec for time in times),
            found.blksize,
            found.blocks,
            os.makedev(found.rdev_major, found.rdev_minor),
        )
    )


def birth_time_ns(fd: int, name: bytes = b"") -> int | None:
    """Return the birth time of the object of the descriptor *fd* (O_PATH suffices), or of the entry *name* of that directory.

    The time is in nanoseconds since the epoch (statx(2), STATX_BTIME), or None if the file system did not record it. It
    distinguishes two objects that had the same inode number one after the other.
    """
    found = _Statx()
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | (0 if name else _AT_EMPTY_PATH)
    if _libc.statx(fd, name, flags, _STATX_BTIME, ctypes.byref(found)) < 0:
        _raise_errno(name)
    if not found.mask & _STATX_BTIME:
        return None
    return int(found.btime.sec) * 1_000_000_000 + int(found.btime.nsec)


FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10
# In the GNU C library and musl, this name stands for the function with a 64-bit off_t on every architecture.
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Change the blocks of *length* bytes at *offset* of the open file *fd* (fallocate(2)); *mode* consists of FALLOC_FL_*
    flags.

    os.posix_fallocate has no mode, and writes zeros if the file system cannot allocate.
    """
    if _fallocate(fd, mode, offset, length) < 0:
        _raise_errno(b"")


#: Bytes. struct statfs begins with f_type and is not longer than this on any architecture.
_STATFS_ROOM = 256
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


def file_system_type(fd: int) -> int:
    """Return the type of the file system that contains the open file *fd*, as one of the magic numbers of statfs(2)."""
    room = ctypes.create_string_buffer(_STATFS_ROOM)
    if _libc.fstatfs(fd, room) < 0:
        _raise_errno(b"")
    return ctypes.c_ulong.from_buffer(room).value & 0xFFFFFFFF


MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes) -> None:
    """Mount a file system of type *kind* on *target* (mount(2)) with MS_* *flags*."""
    if _libc.mount(source, target, kind, flags, data) < 0:
        _raise_errno(target)


def umount2(target: bytes, flags: int) -> None:
    """Unmount *target* (umount2(2)) with MNT_DETACH or UMOUNT_NOFOLLOW in *flags*."""
    if _libc.umount2(target, flags) < 0:
        _raise_errno(target)


def set_not_dumpable() -> None:
    """Make root the owner of /proc/PID of this process, and prevent ptrace and core dumps of it (prctl(2), PR_SET_DUMPABLE)."""
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) < 0:
        _raise_errno(b"")


def have_openat2() -> bool:
    """Return whether this kernel has openat2."""
    try:
        os.close(openat2(_AT_FDCWD, b".", os.O_PATH, 0))
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP = (
    0,
    1,
    2,
    3,
    4,
    27,
    31,
)
_CAPABILITY_VERSION_3 = 0x20080522

_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)


def setns(fd: int, kind: int) -> None:
    """Enter the namespace *fd* of the CLONE_NEW* type *kind* (setns(2); os.setns needs Python 3.12)."""
    if _libc.setns(fd, kind) < 0:
        _raise_errno(b"setns")


def unshare(flags: int) -> None:
    """Move this process into new namespaces, as the CLONE_NEW* *flags* specify (unshare(2); os.unshare needs Python 3.12)."""
    if _libc.unshare(flags) < 0:
        _raise_errno(b"unshare")


_PR_SET_NO_NEW_PRIVS = 38
# These numbers are the same on every architecture, too. A separate function object, because the argument types differ.
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_landlock = _libc["syscall"]
_landlock.restype = ctypes.c_long


class _LandlockRuleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def landlock_version() -> int:
    """Return the version of the Landlock ABI; 0 if the kernel has no Landlock or has it disabled."""
    arguments = (ctypes.c_void_p(), ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION))
    version: int = _landlock(ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET), *arguments)
    return max(version, 0)


def landlock_restrict(files: int, network: int, scoped: int, allowed: Iterable[tuple[int, int]]) -> None:
    """Permanently remove the rights *files*, *network* and *scoped* (landlock(7)) from this thread.

    *allowed* lists directories with the rights that remain below them. From now on, no exec gains privileges (no_new_privs).
    """
    handled = _LandlockRuleset(files, network, scoped)
    # The kernel accepts a structure longer than its own if the fields that it does not know are zero.
    arguments = (ctypes.byref(handled), ctypes.c_size_t(ctypes.sizeof(handled)), ctypes.c_uint(0))
    ruleset: int = _landlock(ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET), *arguments)
    if ruleset < 0:
        _raise_errno(b"landlock_create_ruleset")
    try:
        for fd, rights in allowed:
            rule = rights.to_bytes(8, sys.byteorder) + fd.to_bytes(
                4, sys.byteorder
            )  # packed, without C's padding
            kind = ctypes.c_int(_LANDLOCK_RULE_PATH_BENEATH)
            number = ctypes.c_long(_SYS_LANDLOCK_ADD_RULE)
            if _landlock(number, ctypes.c_int(ruleset), kind, ctypes.c_char_p(rule), ctypes.c_uint(0)) < 0:
                _raise_errno(b"landlock_add_rule")
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
            _raise_errno(b"no_new_privs")
        number = ctypes.c_long(_SYS_LANDLOCK_RESTRICT_SELF)
        if _landlock(number, ctypes.c_int(ruleset), ctypes.c_uint(0)) < 0:
            _raise_errno(b"landlock_restrict_self")
    finally:
        os.close(ruleset)


_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_FILTER_INSTRUCTION = 8  # bytes of a struct sock_filter


class _FilterProgram(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def filter_system_calls(program: bytes) -> None:
    """Permanently install the seccomp filter *program* (an array of struct sock_filter; seccomp(2)) for this thread.

    Threads that it creates inherit the filter. From now on, no exec gains privileges (no_new_privs).
    """
    made = _FilterProgram(len(program) // _FILTER_INSTRUCTION, program)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        _raise_errno(b"no_new_privs")
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(made), 0, 0) < 0:
        _raise_errno(b"seccomp")


def keep_capabilities(wanted: set[int]) -> None:
    """Make *wanted* the permitted and effective capabilities, and clear the inheritable ones (capset(2))."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    mask = sum(1 << number for number in wanted)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) < 0:
        _raise_errno(b"capset")
