"""Apply rules that depend on the calling process and that the kernel leaves to the server: umask and set-group-ID bits."""

from __future__ import annotations

import os
import stat

from unionfs.formats import acl
from unionfs.inode.inode import DirectoryInode
from unionfs.vfs.attributes import Change
from unionfs.vfs.filesystem import UnionFs

ACCESS_ACL = os.fsencode(acl.ACCESS)


def masked(fs: UnionFs, directory: DirectoryInode, mode: int, umask: int) -> int:
    """Return the mode of a new object in *directory* that was requested with *mode* and *umask*.

    A default ACL of the directory replaces the umask (umask(2)).
    """
    return mode if fs.xattrs.has_default_acl(directory) else mode & ~umask


def drop_foreign_sgid(fs: UnionFs, ino: int, gid: int, pid: int | None) -> None:
    """Clear the set-group-ID bit after a change of the access ACL, unless the caller belongs to the file's group.

    chmod(2) does the same. This is for kernels that do not report it themselves (FUSE_SETXATTR_EXT).

    Args:
        fs: the file system.
        ino: number of the file.
        gid: group of the caller.
        pid: process id of the caller. None if the mount was made in another pid namespace, as the number would be that of
            another process here (fuse_conn_init, fs/fuse/inode.c). Then only *gid* counts.
    """
    shown = fs.attributes.of(fs.inode_table.inode(ino))
    if shown.mode & stat.S_ISGID and shown.gid != gid and (pid is None or shown.gid not in _groups(pid)):
        drop_sgid(fs, ino)


def drop_sgid(fs: UnionFs, ino: int) -> None:
    """Clear the set-group-ID bit."""
    shown = fs.attributes.of(fs.inode_table.inode(ino))
    if shown.mode & stat.S_ISGID:
        fs.attributes.change(ino, Change(mode=stat.S_IMODE(shown.mode) & ~stat.S_ISGID), None)


def _groups(pid: int) -> set[int]:
    """Return the supplementary groups of process *pid*; the empty set if it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Groups:"):
                    return set(map(int, line.split()[1:]))
    except OSError:
        pass
    return set()
