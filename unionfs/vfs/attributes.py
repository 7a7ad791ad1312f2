"""Read and change the attributes of inodes (GETATTR, SETATTR)."""

from __future__ import annotations

import errno
import os
import stat

from unionfs._stdlib.typing import NamedTuple
from unionfs.copyup.plan import Contents
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.layer.objects import PathRef, follows
from unionfs.types import Ino
from unionfs.vfs.privileges import kill_privileges

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.vfs.filesystem import UnionFs


class Change(NamedTuple):
    """The changes that a SETATTR requests; None keeps the value.

    Times are in nanoseconds since the epoch, the size in bytes.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    #: The size is changed by open(2) with O_TRUNC, which sets the modification time even if the file is empty already.
    opening: bool = False
    #: The change of the size clears set-id bits, because the caller has no CAP_FSETID or the kernel does not report it.
    kill_suidgid: bool = True


class Attributes(NamedTuple):
    """The attributes of an inode as the mount shows them."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class FileAttributes:
    """Reads and changes the attributes of inodes. The facade creates it; it has no state of its own."""

    def __init__(self, fs: UnionFs) -> None:
        """Serve *fs*."""
        self._fs = fs
        self._inode_table = fs.inode_table
        self._handles = fs.handles
        self._ownership = fs.ownership
        self._writable = fs.writable

    def of(self, inode: Inode) -> Attributes:
        """Return the attributes of *inode* as the mount shows them."""
        info = self.info(inode)
        uid, gid, mode = self._ownership.visible(info, inode.layer)
        size, blocks, rdev = info.st_size, info.st_blocks, info.st_rdev
        if inode.is_mount_point:
            size = blocks = 0
        elif isinstance(inode, FileInode) and inode.data is not None:
            blocks = inode.data.info().st_blocks
        return Attributes(
            inode.ino, mode, self._links(inode, info), uid, gid, rdev, size, blocks,
            info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
        )  # fmt: skip

    def info(self, inode: Inode) -> os.stat_result:
        info = inode.info
        if info is None:
            info = inode.info = inode.ref.info()
        return info

    def _links(self, inode: Inode, info: os.stat_result) -> int:
        if isinstance(inode, DirectoryInode):
            # As in kernel OverlayFS, a merged directory has a link count of 1, which means "unknown" to find(1) and fts(3).
            return 0 if inode.removed else 1 if inode.merged or self._fs.static_nlink else info.st_nlink
        if self._writable is None:
            return info.st_nlink
        if inode.indexed:
            return info.st_nlink - 1 + self._writable.index.lower_names(inode.ino)
        if inode.layer.writable:
            return info.st_nlink
        # The lower file keeps all its names. The link index counts those that were deleted in the union.
        if not inode.names:
            return max(0, self._inode_table.names_elsewhere(inode, info.st_nlink))
        if info.st_nlink > 1:
            return max(1, info.st_nlink - self._writable.index.lost_names(inode.ino))
        return 1

    def change(self, ino: int, change: Change, handle_number: int | None) -> Inode:
        """Apply *change* to the inode *ino*: size, owner, mode, times, in this order.

        The owner comes before the mode, because chown(2) clears set-id bits.
        """
        inode, mode = self._inode_table.inode(ino), change.mode
        if isinstance(inode, DirectoryInode):
            if change.size is not None:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            if inode.removed and inode.upper is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._fs.parts().copy_up.directory(inode)
        else:
            resized = False
            if change.size is not None:
                self._fs.files.regular_file(ino)
                resized = change.opening or change.size != self.info(inode).st_size
            contents = Contents.LATER if change.size is None else Contents.COPY
            if change.size == 0 and resized:  # a copy that is made empty has a new modification time
                contents = Contents.NONE
            if change.size is not None and inode.layer.writable:
                kill_privileges(self._fs, inode, kill_suidgid=change.kill_suidgid)
            if mode is not None and stat.S_ISLNK(inode.kind):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            made_with = (
                None if change.size is None else self._fs.files.mode_when_emptied(inode, change.kill_suidgid)
            )
            if not inode.layer.writable and change.uid is None and change.gid is None and change.size is None:
                made_with, mode = mode, None
            emptied = self._fs.parts().copy_up.file(inode, contents, mode=made_with, finishes=False)
            if change.size is not None and not emptied:
                kill_privileges(self._fs, inode, kill_suidgid=change.kill_suidgid)
                self._truncate(inode, change.size, handle_number, changes=resized)
        if change.uid is not None or change.gid is not None:
            self._chown(inode, change.uid, change.gid)
        if mode is not None:
            fd = None
            if isinstance(inode, FileInode) and inode.handles and not inode.metacopy:
                fd = inode.handles[0].fd
            self._fs.parts().permissions.chmod(inode.ref, mode, fd)
        if change.atime_ns is not None or change.mtime_ns is not None:
            _set_times(inode, change.atime_ns, change.mtime_ns)
        inode.touch()
        if isinstance(inode, FileInode):
            inode.privileged = None
            if inode.xattrs:  # no change adds the first attribute to a file
                inode.xattrs = None
        return inode

    def _chown(self, inode: Inode, uid: int | None, gid: int | None) -> None:
        parts = self._fs.parts()
        uid, gid = self._ownership.on_disk(uid, gid)
        if isinstance(inode, FileInode) and not parts.permissions.can_store_any_owner(inode.ref, inode.kind):
            info = self.info(inode)
            wanted = (info.st_uid if uid is None else uid, info.st_gid if gid is None else gid)
            if not parts.permissions.can_store_owner(inode.ref, inode.kind, *wanted):
                parts.copy_up.remake(inode, wanted)
                return
        parts.permissions.chown(inode.ref, -1 if uid is None else uid, -1 if gid is None else gid)

    def _truncate(self, inode: FileInode, size: int, handle_number: int | None, *, changes: bool) -> None:
        if handle_number is not None:
            handle = self._handles.file(handle_number)
            if handle.flags & os.O_ACCMODE != os.O_RDONLY:
                self._fs.files.resize(handle.fd, size)
                return
        fd = inode.ref.open(os.O_WRONLY | os.O_NONBLOCK)
        try:
            if changes:
                self._fs.files.resize(
                    fd, size
                )  # sets the modification time, also of a copy that was created empty
            else:
                os.truncate(b"/proc/self/fd/%d" % fd, size)  # keeps the modification time
        finally:
            os.close(fd)


def _set_times(inode: Inode, atime_ns: int | None, mtime_ns: int | None) -> None:
    ref = inode.ref
    if atime_ns is None or mtime_ns is None:
        now = os.stat(ref.proc_path(), follow_symlinks=follows(ref))
        atime_ns = now.st_atime_ns if atime_ns is None else atime_ns
        mtime_ns = now.st_mtime_ns if mtime_ns is None else mtime_ns
    if isinstance(ref, PathRef):
        os.utime(ref.name, ns=(atime_ns, mtime_ns), dir_fd=ref.directory.fd(), follow_symlinks=False)
    else:
        os.utime(ref.proc_path(), ns=(atime_ns, mtime_ns))
