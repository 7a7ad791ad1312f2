"""What depends on who asks, beyond the permissions that the kernel checks: the umask, and set-group-id bits."""

from __future__ import annotations

import os
import stat

from unionfs.formats import acl
from unionfs.inode.inode import DirectoryInode
from unionfs.vfs.filesystem import Change, UnionFs

ACCESS_ACL = os.fsencode(acl.ACCESS)


def masked(fs: UnionFs, directory: DirectoryInode, mode: int, umask: int) -> int:
    """Return *mode* as something new in *directory* has it, whose maker has *umask* (umask(2)): a default list takes
    its place.
    """
    return mode if fs.has_default_acl(directory) else mode & ~umask


def drop_foreign_sgid(fs: UnionFs, inode: int, gid: int, pid: int | None) -> None:
    """Clear the set-group-id bit after a change of the access list, as for a change of the mode, unless the caller
    (process *pid*, group *gid*) is in the group. For where the kernel does not say (FUSE_SETXATTR_EXT).

    *pid* is None where the mount was made in another pid namespace than this process's: the number would be another process's
    here (fuse_conn_init, fs/fuse/inode.c). Then only *gid* counts.
    """
    shown = fs.attributes(fs.inode_table.node(inode))
    if shown.mode & stat.S_ISGID and shown.gid != gid and (pid is None or shown.gid not in _groups(pid)):
        drop_sgid(fs, inode)


def drop_sgid(fs: UnionFs, inode: int) -> None:
    """Clear the set-group-id bit."""
    shown = fs.attributes(fs.inode_table.node(inode))
    if shown.mode & stat.S_ISGID:
        fs.setattr(inode, Change(mode=stat.S_IMODE(shown.mode) & ~stat.S_ISGID), None)


def _groups(pid: int) -> set[int]:
    """Return the supplementary groups of *pid*; none if it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Groups:"):
                    return set(map(int, line.split()[1:]))
    except OSError:
        pass
    return set()
