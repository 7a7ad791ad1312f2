"""Set-id bits and file capabilities, which a change of a file's contents takes away.

The kernel leaves this to the server (FUSE_HANDLE_KILLPRIV_V2): file capabilities always go, set-id bits unless the caller
has CAP_FSETID, which the kernel reports in WRITE, SETATTR and OPEN. The file system below clears neither for a server that
has CAP_FSETID itself.
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


def is_privileged(fs: UnionFs, node: FileInode) -> bool:
    """Return whether *node* has file capabilities, or set-id bits that a change of its contents clears."""
    if node.privileged is None:
        mode = _mode(node)
        node.privileged = without_privileges(mode) != mode or CAPABILITY in fs.listxattr(node.ino)
    return node.privileged


def kill_privileges(fs: UnionFs, node: FileInode, *, kill_suidgid: bool) -> None:
    """Clear the file capabilities of *node*, which is in the writable layer, and with *kill_suidgid* its set-id bits.

    The set-group-id bit stays on a file that its group may not execute (inode(7)).
    """
    if not is_privileged(fs, node):
        return
    assert fs.writable is not None
    mode = _mode(node)
    cleared = without_privileges(mode) if kill_suidgid else mode
    if cleared != mode:
        fs.writable.permissions.chmod(node.ref, cleared)
        # No reply to WRITE has the mode, and execve(2) uses the one that the kernel remembers.
        if fs.inode_table.on_touched is not None:
            fs.inode_table.on_touched([node.ino])
    if CAPABILITY in fs.listxattr(node.ino):
        name = stored_name(CAPABILITY, override=node.layer.policy.override_stat)
        os.removexattr(node.ref.proc_path(), name, follow_symlinks=follows(node.ref))
        node.xattrs = None
    node.privileged = without_privileges(cleared) != cleared
    node.touch()


def _mode(node: FileInode) -> int:
    return stat.S_IMODE((node.info or node.ref.stat()).st_mode)
