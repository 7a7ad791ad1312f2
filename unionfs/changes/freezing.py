"""Freeze the writable layer of a stack that no server uses: it becomes an earlier layer, and an empty one takes its place."""

from __future__ import annotations

import os
from contextlib import ExitStack

from unionfs.assemble import StackSource, open_stack
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.sources import descriptors, duplicate, without_mount
from unionfs.errors import UnionError


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
