"""Begins a relocation: a layer in which objects that were moved in the layers below are at their old paths.

`sandbox apply` moves objects in a layer below, as the sandbox has moved them. Redirects of the writable layer are adapted to that
(unionfs/changes/renewal.py), but earlier layers never change. Their directories and metadata-only copies lead to the old paths, and
so do those of other sandboxes and snapshots that share them. A relocation between the earlier layers and the layers below leads
on from there: it is the writable layer of a union over the layers below in which the objects were moved back. All layers above
show what they showed before.

A relocation belongs to the lowest of the earlier layers. It is not part of the name of the stack (unionfs/layer/fingerprint.py), so
records about the layers below stay valid. A later relocation replaces it, and repeats its moves.

Objects keep their inode numbers when they are moved. So what was recorded about an old path (unionfs/upper/below_facts.py) is true of
the new one. The relocation keeps the moves in a file, for readers of the records (unionfs/changes/moves_below.py).
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress

from unionfs._stdlib.dataclasses import replace
from unionfs.assemble import StackSource, open_stack
from unionfs.changes.compared_stack import open_home
from unionfs.changes.freezing import give_root_attributes
from unionfs.changes.moves_below import Group, MovesBelow, read_moves, write_moves
from unionfs.changes.places import parent_of, prefixes
from unionfs.changes.stack_copies import descriptors, duplicate, without_mount
from unionfs.changes.union_paths import UnionPaths
from unionfs.errors import UnionError
from unionfs.inode.inode import DirectoryInode
from unionfs.upper.below_facts import BelowFactsLog, copy_facts
from unionfs.vfs.filesystem import UnionFs


def relocate(source: StackSource, upper_fd: int, work_fd: int, group: Group) -> None:
    """Begin a relocation for the stack *source* in the empty directory *upper_fd* with the work directory *work_fd*.

    All descriptors are taken over. The umask must be 0.

    Args:
        source: the stack, with the relocation that is replaced, if there is one.
        upper_fd: the root of the relocation.
        work_fd: its work directory.
        group: the moves that were made since.

    Raises:
        UnionError: there are no earlier layers, or the directories cannot hold what is needed.
        OSError: an object cannot be moved.
    """
    with ExitStack() as closing:
        for fd in (*descriptors(source), upper_fd, work_fd):
            closing.callback(os.close, fd)
        if not any(lower.earlier for lower in source.lowers):
            raise UnionError("only a stack with earlier layers needs a relocation")
        present = next((lower for lower in source.lowers if lower.relocation), None)
        present_fd = None if present is None or present.work_fd is None else open_home(present.work_fd)
        if present_fd is not None:
            closing.callback(os.close, present_fd)
        before = MovesBelow() if present_fd is None else read_moves(present_fd)
        moves = MovesBelow([group, *before.groups])
        base = replace(
            source,
            lowers=tuple(lower for lower in source.lowers if not lower.earlier),
            upper_fd=upper_fd,
            work_fd=work_fd,
        )
        fs = open_stack(duplicate(without_mount(base, work_fd)))
        try:
            give_root_attributes(fs)
            home_fd = fs.parts().upper.workdir.home_fd
            write_moves(home_fd, moves)
            _record(fs, home_fd, group, present_fd)
            for each in moves.groups:
                _MovingBack(fs, each).run()
        finally:
            fs.close()


def _record(fs: UnionFs, home_fd: int, group: Group, present_fd: int | None) -> None:
    """Record what the layers below have at the new paths of *group*, for stacks that had not recorded it before.

    The records of the relocation that is replaced, *present_fd*, come first.
    """
    if present_fd is not None:
        copy_facts(present_fd, home_fd)
    log, paths = BelowFactsLog(home_fd), UnionPaths(fs)
    try:
        for _, path in group:
            with suppress(FileNotFoundError, NotADirectoryError):  # it has been removed
                log.note(b"/" + path, paths.inode(path).ref.info())
    finally:
        log.close()


class _MovingBack:
    """Moves the objects of one group to where they were, in a union that has no clients."""

    def __init__(self, fs: UnionFs, group: Group) -> None:
        self._fs = fs
        self._has_metacopies = fs.parts().upper.metacopy
        fs.parts().copy_up.least_metacopy = 0
        self._group = group
        self._paths = UnionPaths(fs)

    def run(self) -> None:
        """Move all objects aside, those in others first, and then to their old paths, those in others last."""
        aside = []
        for number, (old, new) in enumerate(sorted(self._group, key=lambda move: -move[1].count(b"/"))):
            if self._is_movable(new):
                aside.append((old, self._unused_name(number)))
                self._rename(new, aside[-1][1])
        for old, temporary in sorted(aside, key=lambda move: move[0].count(b"/")):
            for above in prefixes(parent_of(old)):
                self._make_directory(above)
            self._paths.remove(old)
            self._rename(temporary, old)

    def _is_movable(self, path: bytes) -> bool:
        """Return whether there is an object at *path* that can be moved without a copy of its contents."""
        try:
            inode = self._paths.inode(path)
        except (FileNotFoundError, NotADirectoryError):
            return False  # it has been removed since
        return isinstance(inode, DirectoryInode) or not stat.S_ISREG(inode.kind) or self._has_metacopies

    def _unused_name(self, number: int) -> bytes:
        name = b".moved-%d" % number
        while self._fs.inode_table.exists(self._fs.inode_table.root, name):
            name += b"-"
        return name

    def _rename(self, path: bytes, to: bytes) -> None:
        above, _, name = self._paths.directory_of(path)
        to_above, _, to_name = self._paths.directory_of(to)
        self._fs.names.rename(above, name, to_above, to_name, 0)
        self._fs.trim()

    def _make_directory(self, path: bytes) -> None:
        """Make *path* a directory, if it is none: that has been removed since."""
        above, _, name = self._paths.directory_of(path)
        if self._fs.inode_table.exists(above, name):
            if isinstance(self._fs.inode_table.lookup(above, name), DirectoryInode):
                return
            self._paths.remove(path)
        self._fs.names.mkdir(above, name, 0o755, (os.geteuid(), os.getegid()))
        self._fs.trim()
