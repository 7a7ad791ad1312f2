"""Link an inode to one more name, and count new entries in the quota.

`creation` and `renaming` call these functions, which have no state.
"""

from __future__ import annotations

import os

from unionfs import _libc
from unionfs.inode.inode import FileInode, Inode
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import DescriptorRef
from unionfs.upper.quota import Quota


def hard_link(inode: FileInode, dirfd: int, name: bytes) -> None:
    """Create a hard link *name* to the object of *inode* in the directory *dirfd*."""
    ref = inode.ref
    if isinstance(ref, DescriptorRef):
        _libc.link_fd(ref.fd, dirfd, name)
    else:
        os.link(ref.name, name, src_dir_fd=ref.directory.fd(), dst_dir_fd=dirfd, follow_symlinks=False)


def require_room(quota: Quota | None, directory: LayerDir, objects: int = 1) -> int:
    """Raise ENOSPC unless *quota* has room for *objects* new objects with a name in *directory*.

    Return the blocks of *directory*, for `count_entry`.
    """
    if quota is None:
        return 0
    quota.require(1, objects)
    return directory.stat().st_blocks


def count_entry(quota: Quota | None, inode: Inode | None, directory: LayerDir, blocks: int) -> None:
    """Count the new object *inode*, if there is one, and the growth of *directory*, which had *blocks* before its name."""
    if quota is not None:
        if inode is not None:
            quota.made(inode.info or inode.ref.stat())
        quota.changed(blocks, directory.stat().st_blocks)
