"""What the handlers of requests share: the request in its buffer, the state of one mount, and parts of replies."""

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
from unionfs.options import Trick
from unionfs.vfs.filesystem import UnionFs

#: What a handler gives back: the body of the answer, the negative of an errno, or None where no answer is expected.
Reply = bytes | memoryview | int | None

#: Where the body of a request begins.
BODY = IN_HEADER.size
NS = 1_000_000_000
#: How long something may be believed without asking, in seconds, where not for ever.
_SECOND = 1
_ATTR_IN_ENTRY = ENTRY_OUT.size - 88
U64 = (1 << 64) - 1
_LAST = (1 << 63) - 1


class Replies:
    """The requests of one mount, which come to lie in one buffer."""

    def __init__(self, fs: UnionFs, view: memoryview, without: frozenset[Trick]) -> None:
        """Answer from *fs* what comes to lie at the beginning of *view*; *without*: what to do without."""
        self.fs = fs
        self._inode_table = fs.inode_table
        self._view = view
        self._validity = _SECOND if Trick.VALIDITY in without else FOREVER
        self._attr_head = ATTR_OUT_HEAD.pack(self._validity, 0, 0)
        self._keeps = 0 if Trick.CONTENTS in without else FOPEN_KEEP_CACHE
        # There is nothing to do at close(2); refused once, the kernel never asks again.
        self._flushed: Reply = b"" if Trick.FLUSH in without else NOT_SERVED
        self._files: DescriptorsByInode | None = None
        #: The kernel leaves the umask to the server; it reports which callers have no CAP_FSETID.
        self._masks = self._reports_fsetid = False
        #: FALLOCATE clears set-id bits, whoever the caller is.
        self._fallocate_kills = True
        #: By number, which thread of a client has announced a change of a set-id file's contents (SETATTR that changes nothing).
        self._announced: dict[int, int] = {}
        #: Where what would have to wait goes; None: it is waited for.
        self.async_io: AsyncIo | None = None

    def _entry(self, node: Inode) -> bytes:
        cached = node.reply
        if cached is not None:
            return cached  # type: ignore[return-value]
        shown = self.fs.attributes(node)
        atime, mtime, ctime = shown.atime_ns, shown.mtime_ns, shown.ctime_ns
        entry = ENTRY_OUT.pack(
            shown.ino, 0, self._validity, self._validity, 0, 0,
            shown.ino, shown.size, shown.blocks,
            atime // NS & U64, mtime // NS & U64, ctime // NS & U64, atime % NS, mtime % NS, ctime % NS,
            shown.mode, shown.nlink, shown.uid, shown.gid, shown.rdev, 4096, 0,
        )  # fmt: skip
        node.reply = entry
        if isinstance(node, FileInode):
            node.info = None  # the reply has it all
        return entry

    def _known(self, node: Inode) -> bytes:
        """Reply with *node*, of which the kernel then holds one more lookup."""
        entry = self._entry(node)
        node.lookups += 1
        return entry

    def _attributes(self, node: Inode) -> bytes:
        return self._attr_head + self._entry(node)[_ATTR_IN_ENTRY:]

    def _name(self, start: int, end: int) -> bytes:
        """Return the string from *start* on that is the last of the request."""
        return bytes(self._view[start : end - 1])

    def _names(self, start: int, end: int) -> tuple[bytes, bytes]:
        """Return the two strings from *start* on."""
        first, _, second = bytes(self._view[start : end - 1]).partition(b"\0")
        return first, second

    def _owner(self) -> tuple[int, int]:
        _, _, _, _, uid, gid, _, _, _ = IN_HEADER.unpack_from(self._view)
        return uid, gid

    def _pid(self) -> int:
        """Return the thread that sends the request; 0 where the pid namespace of the mount does not have it."""
        _, _, _, _, _, _, pid, _, _ = IN_HEADER.unpack_from(self._view)
        return int(pid)

    def _unique(self) -> int:
        """Return the number of the request, by which it can be answered later."""
        _, _, unique, _, _, _, _, _, _ = IN_HEADER.unpack_from(self._view)
        return int(unique)

    def _masked(self, directory: DirectoryInode, mode: int, umask: int) -> int:
        return masked(self.fs, directory, mode, umask) if self._masks else mode


def errno_of(error: OSError) -> int:
    """Return the reply that *error* makes. ENOSYS would switch the operation off for the life of the mount (fs/fuse)."""
    number = error.errno or errno.EIO
    return -(errno.EOPNOTSUPP if number == errno.ENOSYS else number)


def position(offset: int) -> int:
    """Return *offset* of a file as the signed number that it is; EINVAL for what is none."""
    if offset > _LAST:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return offset


def signed(offset: int) -> int:
    """Return the 64 bits of *offset* as the signed number that a loff_t is."""
    return offset - (1 << 64) if offset > _LAST else offset
