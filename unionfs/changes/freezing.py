"""Freeze the writable layer of a stack that no server uses: it becomes an earlier layer, and an empty one takes its place."""

from __future__ import annotations

import os
from contextlib import ExitStack

from unionfs.assemble import StackSource, open_stack
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.stack_copies import descriptors, duplicate, without_mount
from unionfs.errors import UnionError
from unionfs.inode.inode import DirectoryInode
from unionfs.vfs.filesystem import UnionFs


def remaining_names(source: StackSource) -> list[bytes]:
    """Return the paths from which only the link index leads to a copy. The descriptors of *source* are taken over.

    Raises:
        UnionError: there is no writable layer.
        OSError: a layer cannot be read.
    """
    stack = open_stack_to_compare(source)
    try:
        return Comparison(stack, contents=False).remaining_names()
    finally:
        stack.close()


def freeze(source: StackSource, upper_fd: int, work_fd: int) -> None:
    """Freeze the writable layer of *source*, and begin the empty directory *upper_fd* with the work directory *work_fd*.

    The descriptors are taken over. The umask must be 0.

    Raises:
        UnionError: there is no writable layer, or the new directories cannot hold what the present ones can.
        OSError: as :meth:`unionfs.vfs.filesystem.UnionFs.freeze`. The layer is still writable.
    """
    with ExitStack() as closing:
        for fd in descriptors(source):
            closing.callback(os.close, fd)
        with ExitStack() as undo:
            undo.callback(os.close, upper_fd)
            undo.callback(os.close, work_fd)
            if source.upper_fd is None or source.work_fd is None:
                raise UnionError("only a writable layer can be frozen: give upperdir and workdir")
            source = without_mount(source, source.work_fd)
            fs = open_stack(duplicate(source))
            closing.callback(fs.close)
            stamp = fs.search_stamp
            fs.link_remaining_names(remaining_names(duplicate(source)))
            undo.pop_all()
        fs.freeze(upper_fd, work_fd, searched=stamp)


def begin(source: StackSource) -> None:
    """Give the empty writable layer of *source* the attributes of the root directory below, which it covers.

    The descriptors are taken over. The umask must be 0.

    Raises:
        UnionError: there is no writable layer, or it cannot hold what is needed.
        OSError: an attribute cannot be set.
    """
    if source.upper_fd is None or source.work_fd is None:
        raise UnionError("there is no writable layer to begin: give upperdir and workdir")
    fs = open_stack(source)
    try:
        give_root_attributes(fs)
    finally:
        fs.close()


def give_root_attributes(fs: UnionFs) -> None:
    """Give the writable layer of *fs*, which has just been opened and is empty, the attributes of the root directory below.

    Raises:
        OSError: an attribute cannot be set.
    """
    root = fs.inode_table.root
    below = DirectoryInode(root.ino, root.parts[1].info(), root.parts[1:], None, b"")
    fs.parts().copy_up.root(below, root.parts[0])
