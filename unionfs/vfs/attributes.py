"""Attributes: what the mount shows of an inode, and what SETATTR changes."""

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
    """What setattr is to change; None leaves a value alone. Times in nanoseconds since the epoch, size in
    bytes.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    #: The size is that of open(2) with O_TRUNC, which sets the time of an empty file, too.
    opening: bool = False
    #: The change of the size clears set-id bits: the caller has no CAP_FSETID, or it is not known whether it has.
    kill_suidgid: bool = True


class Attributes(NamedTuple):
    """What the mount shows of a node."""

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

    def of(self, node: Inode) -> Attributes:
        """Return what the mount shows of *node*."""
        info = self.info(node)
        uid, gid, mode = self._ownership.visible(info, node.layer)
        size, blocks, rdev = info.st_size, info.st_blocks, info.st_rdev
        if node.is_mount_point:
            size = blocks = 0
        elif isinstance(node, FileInode) and node.data is not None:
            blocks = node.data.info().st_blocks
        return Attributes(
            node.ino, mode, self._links(node, info), uid, gid, rdev, size, blocks,
            info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
        )  # fmt: skip

    def info(self, node: Inode) -> os.stat_result:
        info = node.info
        if info is None:
            info = node.info = node.ref.info()
        return info

    def _links(self, node: Inode, info: os.stat_result) -> int:
        if isinstance(node, DirectoryInode):
            # As kernel OverlayFS: a merged directory has 1, which find(1) and fts(3) take for "unknown"
            # (Corrections 12).
            return 0 if node.removed else 1 if node.merged or self._fs.static_nlink else info.st_nlink
        if self._writable is None:
            return info.st_nlink
        if node.indexed:
            return info.st_nlink - 1 + self._writable.index.lower_names(node.ino)
        if node.layer.writable:
            return info.st_nlink
        # The lower file keeps its names; those deleted in the union are counted apart.
        if info.st_nlink > 1 and node.names:
            return max(1, info.st_nlink - self._writable.index.lost_names(node.ino))
        return 1 if node.names else 0

    def change(self, ino: int, change: Change, handle_number: int | None) -> Inode:
        """Apply *change*: owner before mode, as a change of owner clears set-id bits; size first; times last."""
        node, mode = self._inode_table.node(ino), change.mode
        if isinstance(node, DirectoryInode):
            if change.size is not None:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            if node.removed and node.upper is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._fs.parts().copy_up.directory(node)
        else:
            resized = False
            if change.size is not None:
                self._fs.files.regular_file(ino)
                resized = change.opening or change.size != self.info(node).st_size
            contents = {None: Contents.LATER, 0: Contents.NONE}.get(change.size, Contents.COPY)
            if change.size is not None and node.layer.writable:
                kill_privileges(self._fs, node, kill_suidgid=change.kill_suidgid)
            if mode is not None and stat.S_ISLNK(node.kind):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            made_with = (
                None if change.size is None else self._fs.files.mode_when_emptied(node, change.kill_suidgid)
            )
            if not node.layer.writable and change.uid is None and change.gid is None and change.size is None:
                made_with, mode = mode, None
            emptied = self._fs.parts().copy_up.file(node, contents, mode=made_with, finishes=False)
            if change.size is not None and not emptied:
                kill_privileges(self._fs, node, kill_suidgid=change.kill_suidgid)
                self._truncate(node, change.size, handle_number, changes=resized)
        if change.uid is not None or change.gid is not None:
            self._chown(node, change.uid, change.gid)
        if mode is not None:
            fd = None
            if isinstance(node, FileInode) and node.handles and not node.metacopy:
                fd = node.handles[0].fd
            self._fs.parts().permissions.chmod(node.ref, mode, fd)
        if change.atime_ns is not None or change.mtime_ns is not None:
            _set_times(node, change.atime_ns, change.mtime_ns)
        node.touch()
        if isinstance(node, FileInode):
            node.privileged = None
            if node.xattrs:  # none of this gives a file its first one
                node.xattrs = None
        return node

    def _chown(self, node: Inode, uid: int | None, gid: int | None) -> None:
        parts = self._fs.parts()
        uid, gid = self._ownership.on_disk(uid, gid)
        if isinstance(node, FileInode) and not parts.permissions.holds_any_owner(node.ref, node.kind):
            info = self.info(node)
            wanted = (info.st_uid if uid is None else uid, info.st_gid if gid is None else gid)
            if not parts.permissions.holds_owner(node.ref, node.kind, *wanted):
                parts.copy_up.remake(node, wanted)
                return
        parts.permissions.chown(node.ref, -1 if uid is None else uid, -1 if gid is None else gid)

    def _truncate(self, node: FileInode, size: int, handle_number: int | None, *, changes: bool) -> None:
        if handle_number is not None:
            handle = self._handles.file(handle_number)
            if handle.flags & os.O_ACCMODE != os.O_RDONLY:
                self._fs.files.resize(handle.fd, size)
                return
        fd = node.ref.open(os.O_WRONLY | os.O_NONBLOCK)
        try:
            if changes:
                self._fs.files.resize(
                    fd, size
                )  # sets the modification time, also of a copy that was made empty
            else:
                os.truncate(b"/proc/self/fd/%d" % fd, size)  # leaves it alone
        finally:
            os.close(fd)


def _set_times(node: Inode, atime_ns: int | None, mtime_ns: int | None) -> None:
    ref = node.ref
    if atime_ns is None or mtime_ns is None:
        now = os.stat(ref.proc_path(), follow_symlinks=follows(ref))
        atime_ns = now.st_atime_ns if atime_ns is None else atime_ns
        mtime_ns = now.st_mtime_ns if mtime_ns is None else mtime_ns
    if isinstance(ref, PathRef):
        os.utime(ref.name, ns=(atime_ns, mtime_ns), dir_fd=ref.directory.fd(), follow_symlinks=False)
    else:
        os.utime(ref.proc_path(), ns=(atime_ns, mtime_ns))
