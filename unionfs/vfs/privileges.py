"""Clear set-id bits and file capabilities when a file's contents change.

The kernel leaves this to the server (FUSE_HANDLE_KILLPRIV_V2). File capabilities are always cleared. Set-id bits are
cleared unless the caller has CAP_FSETID, which the kernel reports in WRITE, SETATTR and OPEN. If the server has CAP_FSETID
itself, the underlying file system clears neither.
"""

from __future__ import annotations

import os
import stat

from unionfs.formats.xattrs import stored_name
from unionfs.layer.objects import follows
from unionfs.upper.permissions import without_privileges

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.inode.inode import FileInode
    from unionfs.vfs.filesystem import UnionFs

CAPABILITY = "security.capability"


def is_privileged(fs: UnionFs, inode: FileInode) -> bool:
    """Return whether *inode* has file capabilities, or set-id bits that a change of its contents clears."""
    if inode.privileged is None:
        mode = _mode(inode)
        inode.privileged = without_privileges(mode) != mode or CAPABILITY in fs.xattrs.list(inode.ino)
    return inode.privileged


def kill_privileges(fs: UnionFs, inode: FileInode, *, kill_suidgid: bool) -> None:
    """Clear the file capabilities of *inode*, which is in the writable layer, and with *kill_suidgid* also its set-id bits.

    A file that its group may not execute keeps its set-group-ID bit (inode(7)).
    """
    if not is_privileged(fs, inode):
        return
    assert fs.writable is not None
    mode = _mode(inode)
    cleared = without_privileges(mode) if kill_suidgid else mode
    if cleared != mode:
        fs.writable.permissions.chmod(inode.ref, cleared)
        # The reply to WRITE does not contain the mode, and execve(2) uses the one in the kernel's cache.
        if fs.inode_table.on_attributes_invalid is not None:
            fs.inode_table.on_attributes_invalid([inode.ino])
    if CAPABILITY in fs.xattrs.list(inode.ino):
        name = stored_name(CAPABILITY, override=inode.layer.policy.override_stat)
        os.removexattr(inode.ref.proc_path(), name, follow_symlinks=follows(inode.ref))
        inode.xattrs = None
    inode.privileged = without_privileges(cleared) != cleared
    inode.touch()


def _mode(inode: FileInode) -> int:
    return stat.S_IMODE((inode.info or inode.ref.stat()).st_mode)
