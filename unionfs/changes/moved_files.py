"""Finds files that moved among the rows of a comparison: one row each, where a file is gone at one path and new at another."""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass
from unionfs.changes.equality import Equality
from unionfs.changes.merged_tree import VANISHED, Entry, MergedTree, joined
from unionfs.changes.rows import ADDED, CHANGED, MOVED, Moves, Row
from unionfs.layer.metacopy import redirect_of
from unionfs.layer.objects import PathRef
from unionfs.types import Ino


class MovedFiles:
    """Finds the moved files of one comparison. It borrows the trees, and adds to the moves."""

    def __init__(
        self, union: MergedTree, below: MergedTree, equality: Equality, moves: Moves, *, earlier: bool
    ) -> None:
        """Compare objects of *union* with those of *below*; *earlier*: the union has earlier layers."""
        self._union = union
        self._below = below
        self._equality = equality
        self._moves = moves
        self._earlier = earlier

    def joined_rows(self, rows: list[Row], deleted: list[Row]) -> list[Row]:
        """Return *rows* and *deleted*, where a file that is gone at one path and new at another is one row.

        A copy records the inode number of the old file, and a metadata-only copy has a redirect to it.
        """
        sources = _Sources(self._below)
        for row in deleted:
            sources.add(row)
        takers = []
        for row in rows:
            new, old = row.new, row.old
            if row.kind == MOVED or new is None or new.is_dir or not isinstance(new.ref, PathRef):
                continue
            copied = self._union.may_be_copy(new)
            number = None if old is None or old.is_dir else self._below.number(old.info)
            origin = self._origin(new, number, sources) if copied else None
            if row.kind == CHANGED and number is not None:
                if origin in (None, number):
                    # A file that was written anew has no origin. Its old object may have moved all the same.
                    if origin is None:
                        sources.add(row)
                    continue
                sources.add(row)
            if copied:
                takers.append((row, origin))
        moved: list[Row] = []
        for row, origin in takers:
            assert row.new is not None
            source = sources.take(self._redirect(row.new), origin)
            if source is None:
                continue
            self._moves.add(source.path, row.path)
            if row.kind == CHANGED and row.old_path is not None and row.old is not None:
                row.replaced.append((row.old_path, row.old))
            row.kind, row.old_path, row.old = MOVED, source.path, source.old
            moved.append(row)
        for row in moved:
            if id(row) in sources.taken:
                row.replaced.clear()  # what was there has moved itself
        for row in rows:
            if row.kind == CHANGED and id(row) in sources.taken:
                row.kind, row.old_path, row.old = ADDED, None, None
        changed = [
            Row(CHANGED, row.path, row.new, row.old_path, row.old)
            for row in moved
            if row.new is not None and row.old is not None and not self._equality.equal(row.new, row.old)
        ]
        return rows + changed + [row for row in deleted if id(row) not in sources.taken]

    def _origin(self, new: Entry, expected: Ino | None, sources: _Sources) -> Ino | None:
        return self._union.origin(new, lambda number: number == expected or sources.has(number))

    def _redirect(self, new: Entry) -> bytes | None:
        """Return the path of the contents of the metadata-only copy *new* in the layers below; None for another object."""
        try:
            contents = self._union.metadata_copy_of(new)
            if contents is None or not isinstance(new.ref, PathRef):
                return None
            if not self._earlier:
                return (redirect_of(new.ref) or b"").removeprefix(b"/") or None
        except VANISHED:
            return None  # removed meanwhile
        if contents.layer.has_changes:
            return None
        return joined(contents.directory.path(), contents.name)  # as these layers have no redirects


@dataclass(slots=True)
class _Source:
    """An old file that is no longer at its path."""

    path: bytes
    old: Entry
    #: The row that says so: "deleted", or "changed" as another object is there now.
    row: Row


class _Sources:
    """Old files that are no longer at their path, each of which may have moved to one other path."""

    def __init__(self, below: MergedTree) -> None:
        """Start with none; *below* numbers the files."""
        self._below = below
        self._by_path: dict[bytes, _Source] = {}
        self._by_number: dict[Ino, list[_Source]] = {}
        #: The rows of those that were taken, by identity.
        self.taken: set[int] = set()

    def add(self, row: Row) -> None:
        """Add the old object of *row*, unless it is a directory."""
        if row.old is not None and row.old_path is not None and not row.old.is_dir:
            source = _Source(row.old_path, row.old, row)
            self._by_path[source.path] = source
            self._by_number.setdefault(self._below.number(source.old.info), []).append(source)

    def has(self, number: Ino) -> bool:
        """Return whether one of the files has the inode *number*."""
        return number in self._by_number

    def take(self, path: bytes | None, number: Ino | None) -> _Source | None:
        """Take the file at *path*, or else one with the inode *number*; None if there is none."""
        found = [] if path is None or path not in self._by_path else [self._by_path[path]]
        found += self._by_number.get(number, []) if number is not None else []
        for source in found:
            if id(source.row) not in self.taken:
                self.taken.add(id(source.row))
                return source
        return None
