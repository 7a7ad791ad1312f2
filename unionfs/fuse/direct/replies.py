"""The base of the request handlers: the buffer with the request, the state of one mount, and parts of replies."""

from __future__ import annotations

import errno
import os

from unionfs.fuse.direct.async_io import AsyncIo
from unionfs.fuse.direct.descriptor_by_inode import DescriptorsByInode
from unionfs.fuse.protocol import (
    ATTR_OUT_HEAD,
    ENTRY_OUT,
    FOPEN_KEEP_CACHE,
    FOREVER,
    IN_HEADER,
    NOT_SERVED,
)
from unionfs.fuse.umask import masked
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.options import Optimization
from unionfs.vfs.filesystem import UnionFs

#: The result of a handler: the body of the reply, a negative errno, or None if no reply is sent now.
Reply = bytes | memoryview | int | None

#: Offset of a request's body.
BODY = IN_HEADER.size
NS = 1_000_000_000
#: Validity of names and attributes in seconds, if it is limited.
_SECOND = 1
_ATTR_IN_ENTRY = ENTRY_OUT.size - 88
U64 = (1 << 64) - 1
_LAST = (1 << 63) - 1


class Replies:
    """The state that the handlers of one mount share. The requests are in one buffer, which the loop owns."""

    def __init__(self, fs: UnionFs, view: memoryview, disabled: frozenset[Optimization]) -> None:
        """Serve *fs*; each request is at the beginning of *view*. *disabled*: optimizations to leave out."""
        self.fs = fs
        self._inode_table = fs.inode_table
        self._view = view
        self._validity = _SECOND if Optimization.VALIDITY in disabled else FOREVER
        self._attr_head = ATTR_OUT_HEAD.pack(self._validity, 0, 0)
        self._keeps = 0 if Optimization.CONTENTS in disabled else FOPEN_KEEP_CACHE
        # There is nothing to do at close(2). After one ENOSYS, the kernel sends no more FLUSH.
        self._flushed: Reply = b"" if Optimization.FLUSH in disabled else NOT_SERVED
        self._files: DescriptorsByInode | None = None
        #: The kernel leaves the umask to the server (FUSE_DONT_MASK). It reports callers without CAP_FSETID.
        self._masks = self._reports_fsetid = False
        #: FALLOCATE clears set-id bits for every caller.
        self._fallocate_kills = True
        #: By inode number: the client thread whose SETATTR that changes nothing announced a change of a set-id file's contents.
        self._announced: dict[int, int] = {}
        #: Runs blocking work asynchronously; None: the server waits for it.
        self.async_io: AsyncIo | None = None

    def _entry(self, inode: Inode) -> bytes:
        cached = inode.reply
        if cached is not None:
            return cached  # type: ignore[return-value]
        shown = self.fs.attributes.of(inode)
        atime, mtime, ctime = shown.atime_ns, shown.mtime_ns, shown.ctime_ns
        entry = ENTRY_OUT.pack(
            shown.ino, 0, self._validity, self._validity, 0, 0,
            shown.ino, shown.size, shown.blocks,
            atime // NS & U64, mtime // NS & U64, ctime // NS & U64, atime % NS, mtime % NS, ctime % NS,
            shown.mode, shown.nlink, shown.uid, shown.gid, shown.rdev, 4096, 0,
        )  # fmt: skip
        inode.reply = entry
        if isinstance(inode, FileInode):
            inode.info = None  # the cached reply contains the attributes
        return entry

    def _known(self, inode: Inode) -> bytes:
        """Return the entry of *inode* for a reply, which increases the kernel's lookup count by one."""
        entry = self._entry(inode)
        inode.lookups += 1
        return entry

    def _attributes(self, inode: Inode) -> bytes:
        return self._attr_head + self._entry(inode)[_ATTR_IN_ENTRY:]

    def _name(self, start: int, end: int) -> bytes:
        """Return the last string of the request, which begins at *start*."""
        return bytes(self._view[start : end - 1])

    def _names(self, start: int, end: int) -> tuple[bytes, bytes]:
        """Return the two strings that begin at *start*."""
        first, _, second = bytes(self._view[start : end - 1]).partition(b"\0")
        return first, second

    def _owner(self) -> tuple[int, int]:
        _, _, _, _, uid, gid, _, _, _ = IN_HEADER.unpack_from(self._view)
        return uid, gid

    def _pid(self) -> int:
        """Return the id of the thread that sent the request; 0 if it is not in the mount's pid namespace."""
        _, _, _, _, _, _, pid, _, _ = IN_HEADER.unpack_from(self._view)
        return int(pid)

    def _unique(self) -> int:
        """Return the number of the request, with which its reply can be sent later."""
        _, _, unique, _, _, _, _, _, _ = IN_HEADER.unpack_from(self._view)
        return int(unique)

    def _masked(self, directory: DirectoryInode, mode: int, umask: int) -> int:
        return masked(self.fs, directory, mode, umask) if self._masks else mode


def errno_of(error: OSError) -> int:
    """Return the reply for *error*. ENOSYS becomes EOPNOTSUPP, because it would switch the operation off for the life of
    the mount (fs/fuse).
    """
    number = error.errno or errno.EIO
    return -(errno.EOPNOTSUPP if number == errno.ENOSYS else number)


def position(offset: int) -> int:
    """Return *offset*, which must be a non-negative loff_t; EINVAL otherwise."""
    if offset > _LAST:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return offset


def signed(offset: int) -> int:
    """Return the 64 bits of *offset* as a signed number, as in a loff_t."""
    return offset - (1 << 64) if offset > _LAST else offset
