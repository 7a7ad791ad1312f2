"""Birth times of objects of the union. Like the inode number, the birth time stays the same when an object is copied up."""

from __future__ import annotations

from collections.abc import Sequence

from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import PathRef
from unionfs.layer.resolve import resolve


def birth_time_ns(inode_table: InodeTable, inode: Inode) -> int | None:
    """Return the birth time of *inode* in nanoseconds since the epoch, or None if no file system recorded it.

    A copy has the birth time of its original, as long as the lower layers have the original under a name of the copy.
    """
    if isinstance(inode, DirectoryInode):
        part = inode.original
        return None if part.shown_empty else part.birth_time_ns()
    if inode.is_mount_point:
        return None
    ref = _original(inode_table, inode) if inode.ino != inode.identity else None
    return (ref or inode.ref).birth_time_ns()


def _original(inode_table: InodeTable, inode: FileInode) -> PathRef | None:
    """Return the lower file that *inode* is a copy of, if the lower layers have it under a name of *inode*."""
    for directory, name in inode.names:
        parts: Sequence[LayerDir] = directory.parts
        while parts and (parts[0].layer.writable or parts[0].layer.frozen):
            parts = parts[1:]
            found = resolve([part for part in parts if not part.skeleton], name)
            if found is None or found.is_dir:
                continue
            ref = parts[found.sources[0]].entry(name)
            info = ref.stat()
            if inode_table.numbers.number((info.st_dev, info.st_ino)) == inode.ino:
                return ref
    return None
