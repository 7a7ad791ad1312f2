"""Selects the changes that are discarded together: those at some paths, and those that cannot be kept without them.

:mod:`unionfs.changes.discard_plan` calls it. A row is selected if its path is at or below a chosen path. These are, too:

* a moved object whose old path is at or below one, and with it everything at its new path;
* all names of a changed hard link, if one of them is;
* the deleted directories above a deleted object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import NamedTuple
from unionfs.changes.places import PathSet, is_at_or_below, prefixes
from unionfs.changes.rows import CHANGED, DELETED, MOVED, Row


class Shown(NamedTuple):
    """An object of the layers below that is to be shown again, except for what is at and below the paths *holes* in it."""

    old_path: bytes
    holes: frozenset[bytes] = frozenset()

    def contains(self, old_path: bytes) -> bool:
        """Return whether the object at *old_path* is shown again, too."""
        return is_at_or_below(old_path, self.old_path) and not any(
            is_at_or_below(old_path, hole) for hole in self.holes
        )


@dataclass(slots=True)
class Unfinished:
    """What a killed process was about to do to objects that the chosen paths do not select."""

    #: Deleted objects that it was about to show.
    shown: list[Shown] = field(default_factory=list)
    #: Paths of names of changed hard links that it was about to restore.
    restored: set[bytes] = field(default_factory=set)

    def add(self, other: Unfinished) -> None:
        """Add what is in *other*."""
        self.shown += other.shown
        self.restored |= other.restored

    def selects(self, row: Row) -> bool:
        """Return whether *row* is to be selected."""
        if row.kind == DELETED:
            return any(each.contains(row.path) for each in self.shown)
        return row.kind == CHANGED and row.path in self.restored


class Selection:
    """The selected rows of one comparison."""

    def __init__(self, rows: Sequence[Row], chosen: Iterable[bytes], unfinished: Unfinished) -> None:
        """Select those of *rows* at and below the paths *chosen*, and those of *unfinished*."""
        self._rows = rows
        self._unfinished = unfinished
        self.chosen = PathSet(chosen)
        #: The chosen paths, and the paths of moved objects that are selected. They are paths of the union.
        self.tops = PathSet(chosen)
        self._taken: set[int] = set()
        self._deleted = {row.path: row for row in rows if row.kind == DELETED}
        #: The names of each changed hard link.
        self.groups = list(_grouped(rows))
        self._select()

    def __contains__(self, row: Row) -> bool:
        """Return whether *row* is selected."""
        return id(row) in self._taken

    def rows(self) -> list[Row]:
        """Return the selected rows."""
        return [row for row in self._rows if row in self]

    def _select(self) -> None:
        before = None
        while before != (before := (len(self._taken), len(self.tops))):
            for row in self._rows:
                if row not in self and self._is_wanted(row):
                    self._take(row)
            for names in self.groups:
                if any(row in self for row in names):
                    for row in names:
                        self._take(row)

    def _is_wanted(self, row: Row) -> bool:
        if self._unfinished.selects(row):
            return True
        if row.kind == DELETED:  # a path in the layers below
            return self.chosen.covers(row.path)
        if self.tops.covers(row.path):
            return True
        return row.kind == MOVED and row.old_path is not None and self.chosen.covers(row.old_path)

    def _take(self, row: Row) -> None:
        self._taken.add(id(row))
        if row.kind == MOVED:
            self.tops.add(row.path)
        elif row.kind == DELETED:
            for path in prefixes(row.path):
                if path in self._deleted:
                    self._taken.add(id(self._deleted[path]))


def _grouped(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each object that has, or had, several names."""
    groups: dict[tuple[int, int, int, int], list[Row]] = {}
    for row in rows:
        new, old = row.new, row.old
        if row.kind != CHANGED or new is None or old is None or new.is_dir or old.is_dir:
            continue
        if new.info.st_nlink > 1 or old.info.st_nlink > 1:
            key = new.info.st_dev, new.info.st_ino, old.info.st_dev, old.info.st_ino
            groups.setdefault(key, []).append(row)
    yield from groups.values()


def printable(path: bytes) -> str:
    """Return *path* with a leading slash, and with everything escaped that would break a line or that a terminal interprets."""
    text = "/" + path.decode(errors="surrogateescape")
    return "".join(each if each.isprintable() and each != "\\" else ascii(each)[1:-1] for each in text)
