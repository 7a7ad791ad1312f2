"""Complete copies of metadata alone in their place: give them the contents of the lower file, or none.

A file with several names is completed so, because a new object would replace one of them only. The functions own no state;
:class:`unionfs.copyup.copyup.CopyUp` calls them.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from unionfs.copyup.transaction import CAPABILITY, CopyUpContext, reopen, times_of
from unionfs.inode.inode import FileInode
from unionfs.layer.objects import NO_XATTR, follows


def fill_in_place(context: CopyUpContext, inode: FileInode) -> None:
    """Copy the contents into *inode*, and then remove its mark: until then its contents are those of the lower file.

    Afterwards, restore what writing removes or changes. If the server is killed in between, the file keeps the time of that.
    """
    info = os.stat(inode.ref.proc_path(), follow_symlinks=follows(inode.ref))
    path, follow = inode.ref.proc_path(), follows(inode.ref)
    capability = _getxattr(path, CAPABILITY, follow=follow)
    with ExitStack() as undo:
        if not info.st_mode & stat.S_IWUSR:
            os.chmod(path, stat.S_IMODE(info.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
            undo.callback(os.chmod, path, stat.S_IMODE(info.st_mode))
        fd = inode.ref.open(os.O_RDWR)
        undo.callback(os.close, fd)
        reopened = ExitStack()
        undo.push(reopened)
        moves = [(handle, reopen(fd, handle.flags, reopened)) for handle in inode.handles]
        try:
            context.copy_data(inode.contents, fd, info.st_size)
            if context.durable:
                os.fdatasync(fd)
            if capability is not None:
                os.setxattr(path, CAPABILITY, capability, follow_symlinks=follow)
            context.upper.clear_metacopy(path, follow=follow)
        finally:
            if stat.S_IMODE(os.fstat(fd).st_mode) != stat.S_IMODE(info.st_mode):
                os.chmod(path, stat.S_IMODE(info.st_mode))
            os.utime(path, ns=times_of(info), follow_symlinks=follow)
        reopened.pop_all()
        for handle, replacement in moves:
            handle.replace(replacement)
    inode.metacopy, inode.data = False, None


def empty_in_place(context: CopyUpContext, inode: FileInode) -> None:
    """Make *inode* an empty file of its own, because it is about to be truncated.

    The file is truncated first, and then its mark is removed: in between it is empty already, and its size can be restored.
    """
    path, follow = inode.ref.proc_path(), follows(inode.ref)
    info = os.stat(path, follow_symlinks=follow)
    with ExitStack() as undo:
        fd = inode.ref.open(os.O_RDWR)
        undo.callback(os.close, fd)
        reopened = ExitStack()
        undo.push(reopened)
        moves = [(handle, reopen(fd, handle.flags, reopened)) for handle in inode.handles]
        os.ftruncate(fd, 0)
        try:
            context.upper.clear_metacopy(path, follow=follow)
        except OSError:
            os.ftruncate(fd, info.st_size)
            os.utime(path, ns=times_of(info), follow_symlinks=follow)
            raise
        reopened.pop_all()
        for handle, replacement in moves:
            handle.replace(replacement)
    inode.metacopy, inode.data = False, None
    inode.touch()


def _getxattr(path: bytes, name: str, *, follow: bool) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return None
