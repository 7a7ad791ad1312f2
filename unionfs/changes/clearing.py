"""Decides which paths of a writable layer can be cleared whole, so that the layers below show through. It makes no system calls.

:class:`unionfs.changes.discard_plan` uses it. A path can be cleared if all changes at and below it are discarded, if nothing has
to be moved into it or out of it, and if the layers below show there what they have at its old path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from unionfs._stdlib.typing import Protocol
from unionfs.changes.places import PathSet, Places, is_at_or_below, prefixes
from unionfs.changes.rows import DELETED, MOVED, Row
from unionfs.changes.selection import Selection
from unionfs.inode.numbers import Identity


class Layers(Protocol):
    """What a plan has to know about the layers, as they are before its first step."""

    #: Whether earlier layers lie between the writable one and those below.
    has_earlier: bool

    def has(self, old_path: bytes) -> bool:
        """Return whether the layers below have an object at *old_path*."""

    def shows(self, path: bytes, old_path: bytes) -> bool:
        """Return whether the union would show their object *old_path* at *path* if the writable layer had nothing there."""

    def occupied(self, path: bytes) -> bool:
        """Return whether the writable layer has an entry or a whiteout at *path*."""

    def hides(self, path: bytes, old_path: bytes, objects: Collection[Identity]) -> bool:
        """Return whether the writable layer hides one of *objects* at or below *path*, where the layers below have *old_path*."""

    def names_of(self, old_path: bytes, objects: Collection[Identity]) -> list[bytes]:
        """Return the old paths at and below *old_path* of those of *objects* that the layers below have there."""


class Clearing:
    """The paths that one plan clears. The planner changes *places* as its steps will move objects."""

    def __init__(self, rows: Sequence[Row], selection: Selection, places: Places, layers: Layers) -> None:
        """Begin without any; *rows* are all changes."""
        self._rows = rows
        self._selection = selection
        self._places = places
        self._layers = layers
        self._cleared, self._cleared_old = PathSet(), PathSet()
        #: Lower files of which some names lead to a changed copy that stays. Others must not lead there.
        self.kept_links = frozenset(
            (row.old.info.st_dev, row.old.info.st_ino)
            for names in selection.groups
            for row in names[:1]
            if row not in selection and row.old
        )
        #: Paths of the union, and old paths, at and below which something is not discarded.
        self._kept: set[bytes] = set()
        self._kept_old: set[bytes] = set()
        for row in rows:
            if row in selection:
                continue
            if row.kind != DELETED:
                self._kept.update(prefixes(row.path))
            if row.kind in (DELETED, MOVED) and row.old_path is not None:
                self._kept_old.update(prefixes(row.old_path))

    def covers(self, row: Row) -> bool:
        """Return whether *row* is at or below a cleared path."""
        return self.covers_old(row.path) if row.kind == DELETED else self.covers_path(row.path)

    def covers_path(self, path: bytes) -> bool:
        """Return whether *path*, of the union, is at or below a cleared one."""
        return self._cleared.covers(path)

    def covers_old(self, old_path: bytes) -> bool:
        """Return whether *old_path* is at or below that of a cleared path."""
        return self._cleared_old.covers(old_path)

    def topmost(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the topmost paths that can be cleared, and their old paths."""
        crossed, crossed_old = self._crossed()
        known: dict[bytes, bool] = {}
        for row in self._rows:
            if row not in self._selection or self.covers(row):
                continue
            for path, home in self._ways(row):
                if path not in known:
                    is_crossed = path in crossed or home in crossed_old
                    known[path] = not is_crossed and self._is_discarded_whole(path, home)
                if known[path]:
                    yield self._clear(path, home)
                    break

    def around(self, path: bytes) -> tuple[bytes, bytes] | None:
        """Return a path that can be cleared and contains the moved object at *path* and its place, and its old path.

        If an earlier layer has something there, what the layers below have at the old path must be copied.
        """
        moves = self._places.moves
        for at in prefixes(path):
            home = self._places.home(at)
            if home is None or any(
                is_at_or_below(new, at) != is_at_or_below(old, home) for old, new in moves.items()
            ):
                continue
            can_clear = self._is_selected_whole if self._layers.has_earlier else self._is_discarded_whole
            if is_at_or_below(self._places.sources[path], home) and can_clear(at, home):
                return self._clear(at, home)
        return None

    def _clear(self, path: bytes, home: bytes) -> tuple[bytes, bytes]:
        self._cleared.add(path)
        self._cleared_old.add(home)
        return path, home

    def _ways(self, row: Row) -> Iterator[tuple[bytes, bytes]]:
        """Yield the paths of the union that lead to the place of *row*, and their old paths, from the top down."""
        places = self._places
        if row.kind == DELETED:
            for old in prefixes(row.path):
                path = places.place(old)
                if places.home(path) == old:
                    yield path, old
            return
        for path in prefixes(row.path):
            home = places.home(path)
            if home is not None:
                yield path, home

    def _crossed(self) -> tuple[set[bytes], set[bytes]]:
        """Return the paths of the union, and the old paths, that contain only one of the two paths of a moved object."""
        crossed: set[bytes] = set()
        crossed_old: set[bytes] = set()
        for old, new in self._places.moves.items():
            for path in prefixes(new):
                home = self._places.home(path)
                if home is None or not is_at_or_below(old, home):
                    crossed.add(path)
            for path in prefixes(old):
                if not is_at_or_below(new, self._places.place(path)):
                    crossed_old.add(path)
        return crossed, crossed_old

    def _is_discarded_whole(self, path: bytes, home: bytes) -> bool:
        return (
            self._is_selected_whole(path, home)
            and self._layers.occupied(path)
            and self._layers.has(home) == self._layers.shows(path, home)
        )

    def _is_selected_whole(self, path: bytes, home: bytes) -> bool:
        return (
            path not in self._kept
            and home not in self._kept_old
            and (self._selection.tops.covers(path) or self._selection.chosen.covers(home))
            and not (self.kept_links and self._layers.hides(path, home, self.kept_links))
        )
