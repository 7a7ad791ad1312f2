"""Create files without a name (O_TMPFILE of open(2)), which linkat(2) may give one later."""

from __future__ import annotations

import errno
import os
import stat

from unionfs.inode.handles import FileHandle
from unionfs.layer.objects import DescriptorRef

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.inode.inode import DirectoryInode, FileInode
    from unionfs.vfs.filesystem import UnionFs

_SET_ID = stat.S_ISUID | stat.S_ISGID


def create_unnamed(
    fs: UnionFs, parent: DirectoryInode, mode: int, flags: int, owner: tuple[int, int]
) -> tuple[int, FileInode]:
    """Create a file without a name in *parent*, which is copied up, and open it with *flags* (access mode).

    It inherits from *parent* like a file with a name. Return the number of the handle and the inode.

    Raises:
        OSError: EOPNOTSUPP if the underlying file system does not support such files, EROFS, ENOENT for a removed *parent*,
            ENOSPC.
    """
    parts = fs.parts()
    if parent.removed:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    parts.copy_up.directory(parent)
    directory = parent.upper
    assert directory is not None
    uid, gid, mode, inherits = parts.names.owner_for_new(parent, owner, stat.S_IFREG | stat.S_IMODE(mode))
    if fs.quota is not None:
        fs.quota.require(1, 1)
    fd = _make(directory.fd(), flags, stat.S_IMODE(mode) & ~_SET_ID)
    try:
        # Open it again, because the client may close its handle before it links the file.
        ref = DescriptorRef(os.open(b"/proc/self/fd/%d" % fd, os.O_PATH | os.O_CLOEXEC), directory.layer)
        try:
            if not parts.permissions.is_complete_when_made(mode, uid, gid, inherits=inherits):
                parts.permissions.settle_unnamed(ref, uid, gid, mode, inherits=inherits)
            inode = fs.inode_table.add_unnamed_file(ref, ref.stat())
        except OSError:
            ref.close()
            raise
    except OSError:
        os.close(fd)
        raise
    if fs.quota is not None:
        fs.quota.made(inode.info or inode.ref.stat())
    return fs.handles.add_file(FileHandle(inode, fd, flags)), inode


def _make(dirfd: int, flags: int, mode: int) -> int:
    try:
        return os.open(b".", flags | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=dirfd)
    except OSError as error:
        # A file system without O_TMPFILE treats it as O_DIRECTORY (open(2), "O_TMPFILE").
        if error.errno in (errno.EISDIR, errno.ENOENT):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None
        raise
