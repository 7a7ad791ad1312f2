"""Birth times of objects of the union. Like the inode number, the birth time stays the same when an object is copied up."""

from __future__ import annotations

from unionfs import _libc
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.table import InodeTable
from unionfs.layer.objects import PathRef
from unionfs.layer.objects import birth_time_ns as birth_time_of


def birth_time_ns(inode_table: InodeTable, inode: Inode) -> int | None:
    """Return the birth time of *inode* in nanoseconds since the epoch, or None if no file system recorded it.

    A copy has the birth time of its original, as long as the lower layers have the original under a name of the copy.
    """
    if isinstance(inode, DirectoryInode):
        # The part that provides the inode number.
        part = inode.parts[1] if inode.upper is not None and len(inode.parts) > 1 else inode.parts[0]
        return None if part.shown_empty else _libc.birth_time_ns(part.fd())
    if inode.is_mount_point:
        return None
    ref = _original(inode_table, inode) if inode.ino != inode.identity else None
    return birth_time_of(ref or inode.ref)


def _original(inode_table: InodeTable, inode: FileInode) -> PathRef | None:
    """Return the lower file that *inode* is a copy of, if the lower layers have it under a name of *inode*."""
    for directory, name in inode.names:
        found = inode_table.below(directory, name)
        if found is None or found.is_dir:
            continue
        parts = directory.parts if directory.upper is None else directory.parts[1:]
        ref = parts[found.sources[0]].entry(name)
        info = ref.stat()
        if inode_table.numbers.number((info.st_dev, info.st_ino)) == inode.ino:
            return ref
    return None
