"""Layouts and constants of the FUSE protocol, and the negotiation of INIT. Pure.

Names, layouts and numbers are those of include/uapi/linux/fuse.h. The behaviour of the kernel is that of fs/fuse. All
integers are in native byte order. There is no padding except where a comment names it.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum, IntFlag

from unionfs._stdlib.dataclasses import dataclass

#: FUSE_KERNEL_VERSION, and the newest minor version that this module supports.
MAJOR = 7
MINOR = 38
#: The oldest minor version supported: 7.23, of Linux 3.15. Older versions have shorter replies.
LEAST_MINOR = 23

#: After unmount or abort, read(2) and write(2) of /dev/fuse fail with one of these: ENODEV, or ECONNABORTED for a request
#: that was being read at that moment (fuse_dev_do_read, fs/fuse/dev.c).
CONNECTION_ENDED = frozenset((errno.ENODEV, errno.ECONNABORTED))

#: struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding.
IN_HEADER = struct.Struct("=IIQQIIIHH")
#: struct fuse_out_header: len, error, unique. A notification has its code in the error field, and unique 0.
OUT_HEADER = struct.Struct("=IiQ")

#: struct fuse_init_in: major, minor, max_readahead, flags; with INIT_EXT in flags, then flags2 and 11 unused integers.
INIT_IN = struct.Struct("=IIII")
INIT_IN_FLAGS2 = struct.Struct("=I")
#: struct fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
#: max_pages, map_alignment, flags2, and 7 unused integers.
INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")

#: struct fuse_attr: ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid, gid,
#: rdev, blksize, flags.
ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
#: struct fuse_entry_out: nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr.
ENTRY_OUT = struct.Struct("=QQQQII" + ATTR.format[1:])
#: struct fuse_attr_out before its attr: attr_valid, attr_valid_nsec, dummy.
ATTR_OUT_HEAD = struct.Struct("=QII")

FORGET_IN = struct.Struct("=Q")  # nlookup
BATCH_FORGET_IN = struct.Struct("=II")  # count, dummy; then count structs fuse_forget_one:
FORGET_ONE = struct.Struct("=QQ")  # nodeid, nlookup
#: struct fuse_setattr_in: valid, padding, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec,
#: mode, unused4, uid, gid, unused5. Times are signed.
SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")
MKNOD_IN = struct.Struct("=IIII")  # mode, rdev, umask, padding
MKDIR_IN = struct.Struct("=II")  # mode, umask
RENAME_IN = struct.Struct("=Q")  # newdir
RENAME2_IN = struct.Struct("=QII")  # newdir, flags, padding
LINK_IN = struct.Struct("=Q")  # oldnodeid
OPEN_IN = struct.Struct("=II")  # flags, open_flags
CREATE_IN = struct.Struct("=IIII")  # flags, mode, umask, open_flags
OPEN_OUT = struct.Struct("=QIi")  # fh, open_flags, backing_id
RELEASE_IN = struct.Struct("=QIIQ")  # fh, flags, release_flags, lock_owner
READ_IN = struct.Struct("=QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags, padding
WRITE_IN = struct.Struct("=QQIIQII")  # fh, offset, size, write_flags, lock_owner, flags, padding
WRITE_OUT = struct.Struct("=II")  # size, padding
FSYNC_IN = struct.Struct("=QII")  # fh, fsync_flags, padding
FALLOCATE_IN = struct.Struct("=QQQII")  # fh, offset, length, mode, padding
LSEEK_IN = struct.Struct("=QQII")  # fh, offset, whence, padding
LSEEK_OUT = struct.Struct("=Q")  # offset
#: struct fuse_copy_file_range_in: fh_in, off_in, nodeid_out, fh_out, off_out, len, flags.
COPY_FILE_RANGE_IN = struct.Struct("=QQQQQQQ")
COPY_FILE_RANGE_OUT = struct.Struct(
    "=Q"
)  # bytes_copied, for COPY_FILE_RANGE_64; the reply to COPY_FILE_RANGE is WRITE_OUT
IOCTL_IN = struct.Struct("=QIIQII")  # fh, flags, cmd, arg, in_size, out_size
IOCTL_OUT = struct.Struct("=iIII")  # result, flags, in_iovs, out_iovs; then the data
STATX_IN = struct.Struct("=IIQII")  # getattr_flags, reserved, fh, sx_flags, sx_mask
#: struct fuse_statx_out before its stat: attr_valid, attr_valid_nsec, flags, spare.
STATX_OUT_HEAD = struct.Struct("=QII16x")
#: struct fuse_statx: mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask; seconds and
#: nanoseconds of atime, btime, ctime, mtime; rdev_major, rdev_minor; dev_major, dev_minor and spare.
STATX = struct.Struct("=IIQIIIH2xQQQQ" + "QI4x" * 4 + "II8x112x")
SETXATTR_IN = struct.Struct("=II")  # size, flags
SETXATTR_IN_EXT = struct.Struct(
    "=IIII"
)  # size, flags, setxattr_flags, padding: if SETXATTR_EXT was negotiated
GETXATTR_IN = struct.Struct("=II")  # size, padding
GETXATTR_OUT = struct.Struct("=II")  # size, padding
#: struct fuse_statfs_out: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding and spare.
STATFS_OUT = struct.Struct("=QQQQQIII28x")
DIRENT = struct.Struct("=QQII")  # ino, off, namelen, type; then the name, padded to a multiple of 8
NOTIFY_PRUNE_OUT = struct.Struct("=IIQ")  # count, padding, spare; then count inode numbers
NUMBER = struct.Struct("=Q")
MODE = struct.Struct("=I")

#: Offset of the mode in a packed fuse_entry_out.
MODE_IN_ENTRY = 40 + 60

#: Validity of names and attributes in seconds: for ever, because layers are immutable and this server is the only writer.
#: The kernel uses the longest time that it can count for a validity that does not fit into jiffies (fs/fuse/dir.c).
FOREVER = 1 << 31


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Init(IntFlag):
    """INIT request/reply flags. Those from bit 32 on are sent in flags2, shifted down by 32."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30


#: Bitmasks for fuse_setattr_in.valid. Plain integers, because enumerations are slow in the request handlers.
FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_KILL_SUIDGID = 1 << 11
OPEN_KILL_SUIDGID = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
IOCTL_DIR = 1 << 4
FOPEN_KEEP_CACHE = 1 << 1
FSYNC_FDATASYNC = 1 << 0
SETXATTR_ACL_KILL_SGID = 1 << 0
NOTIFY_PRUNE = 9
#: Bits of statx.mask (linux/stat.h).
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800

#: Bytes of one read or write, and size of the buffer for the largest request. The kernel wants room for its headers before
#: the data (fuse_dev_do_read), and at least 8 KiB (FUSE_MIN_READ_BUFFER).
MAX_WRITE = 1 << 20
BUFFER = MAX_WRITE + 8192
_PAGE = 4096
#: Limit of background requests such as readahead, and the number of them at which the kernel reports congestion.
_MAX_BACKGROUND = 64
_CONGESTION = 48

#: Flags that the server requests from every kernel that offers them. AUTO_INVAL_DATA is not one of them: the kernel would
#: drop a file's cached contents after each write, because of the new modification time. This server is the only writer, and
#: announces EXPLICIT_INVAL_DATA instead.
_ALWAYS = (
    Init.ASYNC_READ
    | Init.BIG_WRITES
    | Init.DONT_MASK
    | Init.DO_READDIRPLUS
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.HANDLE_KILLPRIV
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.EXPLICIT_INVAL_DATA
    | Init.HANDLE_KILLPRIV_V2
    | Init.SETXATTR_EXT
)
#: Flags with which the kernel stops sending OPEN and OPENDIR after one reply of ENOSYS.
_UNOPENED = Init.NO_OPEN_SUPPORT | Init.NO_OPENDIR_SUPPORT


class ProtocolError(OSError):
    """The kernel's FUSE version is not supported: EPROTO."""


@dataclass(frozen=True, slots=True)
class InitReply:
    """The negotiated flags and version; ``data`` is the reply to INIT that announces them."""

    data: bytes
    #: None: the kernel's major version is newer. It will send INIT again with ours.
    flags: Init | None = None
    #: The server replies ENOSYS to OPEN and OPENDIR, so that the kernel stops sending them.
    unopened: bool = False
    #: The kernel's minor version.
    minor: int = 0


def negotiate(body: bytes | memoryview, *, acls: bool, unopened: bool, left_out: int = 0) -> InitReply:
    """Negotiate with the kernel, and return the reply to its INIT request.

    Args:
        body: struct fuse_init_in, of any version.
        acls: the server supports POSIX access control lists.
        unopened: do without OPEN and OPENDIR if the kernel supports that.
        left_out: flags that are not negotiated.

    Raises:
        ProtocolError: the kernel is too old.
    """
    major, minor, readahead, flags = INIT_IN.unpack_from(body)
    if major > MAJOR:
        return InitReply(INIT_OUT.pack(MAJOR, MINOR, *(0,) * 9))
    if (major, minor) < (MAJOR, LEAST_MINOR):
        raise ProtocolError(
            errno.EPROTO,
            f"the kernel has FUSE {major}.{minor}, but the direct server requires {MAJOR}.{LEAST_MINOR}",
        )
    offered = Init(flags)
    if offered & Init.INIT_EXT:
        (flags2,) = INIT_IN_FLAGS2.unpack_from(body, INIT_IN.size)
        offered |= Init(flags2 << 32)
    unopened = unopened and offered & _UNOPENED == _UNOPENED
    # With ATOMIC_O_TRUNC, the kernel expects OPEN to truncate and sends no SETATTR (fuse_do_setattr). So the flag cannot be
    # used without OPEN.
    wanted = (
        _ALWAYS | (_UNOPENED if unopened else Init.ATOMIC_O_TRUNC) | (Init.POSIX_ACL if acls else Init(0))
    )
    negotiated = int(wanted & offered & ~left_out)
    if negotiated >> 32:
        negotiated |= Init.INIT_EXT
    reply = INIT_OUT.pack(
        MAJOR, min(minor, MINOR), readahead, negotiated & 0xFFFFFFFF, _MAX_BACKGROUND, _CONGESTION,
        MAX_WRITE, 1, MAX_WRITE // _PAGE, 0, negotiated >> 32,
    )  # fmt: skip
    return InitReply(reply, flags=Init(negotiated), unopened=unopened, minor=minor)


def dirent_size(name: bytes) -> int:
    """Return the size in bytes of a struct fuse_dirent with *name* (FUSE_DIRENT_SIZE)."""
    length = len(name)
    return DIRENT.size + length + -length % 8


def counted(opcode: int, reply: bytes) -> list[int]:
    """Return the inode numbers whose lookup count in the kernel *reply* to *opcode* increases.

    If the reply was not delivered, the caller takes these lookups back.
    """
    if opcode in ENTRY_REPLIES:
        (ino,) = NUMBER.unpack_from(reply)
        return [ino] if ino else []
    found = []
    if opcode == Opcode.READDIRPLUS:
        at = 0
        while at < len(reply):
            (ino,) = NUMBER.unpack_from(reply, at)
            if ino:
                found.append(ino)
            at += ENTRY_OUT.size
            _, _, length, _ = DIRENT.unpack_from(reply, at)
            at += DIRENT.size + length + -length % 8
    return found


#: Requests whose replies begin with a struct fuse_entry_out.
ENTRY_REPLIES = frozenset(
    (
        Opcode.LOOKUP,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.SYMLINK,
        Opcode.LINK,
        Opcode.CREATE,
        Opcode.TMPFILE,
    )
)


#: Reply to requests that are not supported. For the life of the mount, the kernel then handles them itself, or fails them
#: with EOPNOTSUPP or ENOTTY (fs/fuse).
NOT_SERVED = -errno.ENOSYS
