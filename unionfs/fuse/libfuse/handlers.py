"""Handlers of FUSE requests for pyfuse3: each calls the synchronous :class:`UnionFs`.

No request may end the mount: :func:`replies` converts an OSError to its errno, and any other exception to a logged EIO.
ENOSYS would switch an operation off for the life of the mount (fs/fuse), so only flush replies it, where that is intended.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from unionfs.fuse.notify import KernelNotifier
from unionfs.fuse.umask import ACCESS_ACL, drop_foreign_sgid, masked
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.vfs.attributes import Change
from unionfs.vfs.filesystem import UnionFs

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Validity of names and attributes in seconds: for ever, because layers are immutable and this server is the only writer.
_FOREVER = 1e9


def _negative() -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = 0  # no such name, which the kernel caches (struct fuse_entry_out)
    entry.entry_timeout = _FOREVER
    return entry


def replies(
    handler: Callable[Concatenate[UnionOperations, P], T],
) -> Callable[Concatenate[UnionOperations, P], Coroutine[Any, Any, T]]:
    """Convert a plain method to a pyfuse3 handler, which counts requests and converts exceptions to an errno."""
    name = handler.__name__

    async def request(self: UnionOperations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.requests[name] += 1
        try:
            return handler(self, *args, **kwargs)
        except OSError as error:
            number = error.errno or errno.EIO
            raise FUSEError(errno.EOPNOTSUPP if number == errno.ENOSYS else number) from None
        except FUSEError:
            raise
        except Exception:
            log.exception("request %s failed", name)
            raise FUSEError(errno.EIO) from None
        finally:
            self.fs.trim()

    request.__name__ = name
    request.__doc__ = handler.__doc__
    return request


class UnionOperations(pyfuse3.Operations):
    """Handles the requests of one mount. Only these methods increase lookup counts, when a reply names an inode."""

    enable_writeback_cache = False
    supports_dot_lookup = False
    enable_acl = False

    def __init__(
        self, fs: UnionFs, *, masks: bool, connection: int | None = None, callers_visible: bool = True
    ) -> None:
        """Serve *fs*.

        Args:
            fs: the file system.
            masks: the kernel leaves the umask to the server (FUSE_DONT_MASK).
            connection: the /dev/fuse of the mount, for notifications; None if there is none.
            callers_visible: process ids in requests belong to this process's own pid namespace.
        """
        super().__init__()
        self.enable_acl = fs.acls
        self._masks = masks
        self.fs = fs
        self._none = _negative()
        self._notifier = KernelNotifier(fs.inode_table, connection)
        self._callers_visible = callers_visible
        #: Number of requests by kind.
        self.requests: Counter[str] = Counter()

    # -- replies -----------------------------------------------------------------------------------

    def _entry(self, inode: Inode) -> EntryAttributes:
        cached = inode.reply
        if cached is not None:
            return cached  # type: ignore[return-value]
        shown = self.fs.attributes.of(inode)
        entry = EntryAttributes()
        entry.st_ino = shown.ino
        entry.entry_timeout = _FOREVER
        entry.attr_timeout = _FOREVER
        entry.st_mode = shown.mode
        entry.st_nlink = shown.nlink
        entry.st_uid = shown.uid
        entry.st_gid = shown.gid
        entry.st_rdev = shown.rdev
        entry.st_size = shown.size
        entry.st_blocks = shown.blocks
        entry.st_atime_ns = shown.atime_ns
        entry.st_mtime_ns = shown.mtime_ns
        entry.st_ctime_ns = shown.ctime_ns
        inode.reply = entry
        if isinstance(inode, FileInode):
            inode.info = None  # the cached reply contains the attributes, in a third of the memory
        self._notifier.check()
        return entry

    def _known(self, inode: Inode) -> EntryAttributes:
        """Return the entry of *inode* for a reply, which increases the kernel's lookup count by one."""
        entry = self._entry(inode)
        inode.lookups += 1
        return entry

    # -- names -------------------------------------------------------------------------------------

    @replies
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Look up a name. The kernel caches it, even if it does not exist."""
        try:
            return self._known(self.fs.inode_table.lookup(self.fs.inode_table.directory(parent_inode), name))
        except FileNotFoundError:
            return self._none

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Decrease lookup counts. Never fails: pyfuse3 calls this without handling exceptions."""
        self.requests["forget"] += len(inode_list)
        try:
            for inode, count in inode_list:
                self.fs.inode_table.forget(inode, count)
            self.fs.trim()
        except Exception:
            log.exception("request forget failed")

    @replies
    def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Create a file or special file."""
        directory = self.fs.inode_table.directory(parent_inode)
        mode = self._masked(directory, mode, ctx)
        return self._known(self.fs.names.mknod(directory, name, mode, rdev, (ctx.uid, ctx.gid)))

    @replies
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Create a directory."""
        directory = self.fs.inode_table.directory(parent_inode)
        mode = self._masked(directory, mode, ctx)
        return self._known(self.fs.names.mkdir(directory, name, mode, (ctx.uid, ctx.gid)))

    def _masked(self, directory: DirectoryInode, mode: int, ctx: RequestContext) -> int:
        return masked(self.fs, directory, mode, ctx.umask) if self._masks else mode

    @replies
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Create a symbolic link."""
        directory = self.fs.inode_table.directory(parent_inode)
        return self._known(self.fs.names.symlink(directory, name, target, (ctx.uid, ctx.gid)))

    @replies
    def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Create a hard link."""
        directory = self.fs.inode_table.directory(new_parent_inode)
        return self._known(self.fs.names.link(self.fs.inode_table.file(inode), directory, new_name))

    @replies
    def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a name."""
        self.fs.names.unlink(self.fs.inode_table.directory(parent_inode), name)

    @replies
    def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a directory."""
        self.fs.names.rmdir(self.fs.inode_table.directory(parent_inode), name)

    @replies
    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Rename, replace or exchange."""
        old, new = (
            self.fs.inode_table.directory(parent_inode_old),
            self.fs.inode_table.directory(parent_inode_new),
        )
        self.fs.names.rename(old, name_old, new, name_new, flags)

    # -- attributes --------------------------------------------------------------------------------

    @replies
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Return attributes."""
        return self._entry(self.fs.inode_table.inode(inode))

    @replies
    def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Change attributes."""
        change = Change(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(self.fs.attributes.change(inode, change, fh))

    @replies
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Return the target of a symbolic link."""
        return self.fs.files.readlink(inode)

    @replies
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Return the statistics of the file system."""
        info = self.fs.statfs()
        data = StatvfsData()
        for field in (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        ):
            setattr(data, field, getattr(info, field))
        return data

    @replies
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute."""
        self.fs.xattrs.set(inode, os.fsdecode(name), value)
        # libfuse does not support FUSE_SETXATTR_EXT, with which the kernel would report callers outside the group.
        if name == ACCESS_ACL and ctx.uid != 0:
            drop_foreign_sgid(self.fs, inode, ctx.gid, ctx.pid if self._callers_visible else None)

    @replies
    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Return an extended attribute."""
        return self.fs.xattrs.get(inode, os.fsdecode(name))

    @replies
    def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        """List extended attributes."""
        return [os.fsencode(name) for name in self.fs.xattrs.list(inode)]

    @replies
    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        self.fs.xattrs.remove(inode, os.fsdecode(name))

    # -- files -------------------------------------------------------------------------------------

    @replies
    def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a file. The kernel's cached contents stay valid: this server is the only writer."""
        return FileInfo(fh=self.fs.files.open(inode, flags), keep_cache=True)

    @replies
    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Create a file and open it."""
        mode = self._masked(self.fs.inode_table.directory(parent_inode), mode, ctx)
        handle, inode = self.fs.files.create(parent_inode, name, mode, flags, (ctx.uid, ctx.gid))
        return FileInfo(fh=handle, keep_cache=True), self._known(inode)

    @replies
    def read(self, fh: int, off: int, size: int) -> bytes:
        """Read from a file."""
        return self.fs.files.read(fh, off, size)

    @replies
    def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write to a file."""
        return self.fs.files.write(fh, off, buf)

    async def flush(self, fh: int) -> None:
        """Reply ENOSYS: there is nothing to do at close(2), and the kernel sends no more FLUSH."""
        raise FUSEError(errno.ENOSYS)

    @replies
    def release(self, fh: int) -> None:
        """Close a file."""
        self.fs.handles.close_file(fh)

    @replies
    def fsync(self, fh: int, datasync: bool) -> None:
        """Sync a file."""
        self.fs.files.fsync(fh, data_only=datasync)

    # -- directories -------------------------------------------------------------------------------

    @replies
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a directory stream."""
        return self.fs.directories.open(inode)

    @replies
    def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """List entries with their attributes. This increases the lookup count of each inode, except those of ``.`` and ``..``."""
        replied = False
        entries = self.fs.directories.entries(fh, start_id)
        while True:
            try:
                found = next(entries, None)
                if found is None:
                    return
                name, inode, after = found
                entry = self._entry(inode)
            except FileNotFoundError:  # another process changed the layer; leave the entry out
                continue
            except OSError:
                # The kernel counts the entries in the buffer as lookups, so they have to be sent. The next request starts
                # at this entry and gets the error.
                if replied:
                    return
                raise
            if not pyfuse3.readdir_reply(token, name, entry, after):
                self.fs.inode_table.drop_if_unused(inode)
                return
            replied = True
            if after > 2:
                inode.lookups += 1

    @replies
    def releasedir(self, fh: int) -> None:
        """Close a directory stream."""
        self.fs.handles.close_directory(fh)

    @replies
    def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Sync a directory."""
        self.fs.directories.fsync(fh)
