"""Read inode flags for lsattr(1) (FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR) from the underlying file. Flags cannot be set."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# linux/fs.h; FS_IOC_GETFLAGS and FS_IOC_SETFLAGS contain the size of a long.
_LONG = struct.calcsize("l") << 16
FS_IOC_GETFLAGS = 0x80006601 | _LONG
FS_IOC_SETFLAGS = 0x40006602 | _LONG
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
#: FS_IMMUTABLE_FL and FS_APPEND_FL; FS_XFLAG_IMMUTABLE and FS_XFLAG_APPEND.
_FIXED = {FS_IOC_GETFLAGS: 0x10 | 0x20, FS_IOC_FSGETXATTR: 0x8 | 0x10}
_SIZES = {FS_IOC_GETFLAGS: 4, FS_IOC_FSGETXATTR: 28}
_U32 = struct.Struct("=I")


def require_readable(command: int) -> None:
    """Refuse an ioctl(2) *command* that does not read flags.

    A server calls it before it opens the file for the command. C libraries and Python send TCGETS for each file that they open.

    Raises:
        OSError: EOPNOTSUPP for a command that sets flags, ENOTTY for any other.
    """
    if command in (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if command not in _SIZES:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))


def require_flags(*, archived: bool) -> None:
    """Refuse to read the flags of an object that is *archived*: archives have none.

    Raises:
        OSError: ENOTTY.
    """
    if archived:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))


def inode_flags(fd: int, command: int, *, writable: bool) -> bytes:
    """Return the result of ioctl(2) *command* on the open file *fd*.

    Not *writable*: the file is in a lower layer. The flags immutable and append-only are left out, because copy-up makes
    the file writable regardless of them.

    *command* is one that :func:`require_readable` accepts.

    Raises:
        OSError: ENOTTY: the underlying file system has no flags.
    """
    room = bytearray(_SIZES[command])
    fcntl.ioctl(fd, command, room)
    if not writable:
        (flags,) = _U32.unpack_from(room)
        _U32.pack_into(room, 0, flags & ~_FIXED[command])
    return bytes(room)
