"""Fold the rows of what was in a deleted or replaced directory, for texts that show one line for such a directory. Pure.

The paths of deleted objects are paths in the layers below. Directories above them may have moved, so sandbox/changes/render.py
follows the moves with `Folding.old_path`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.changes.rows import Change


class Folding:
    """Which rows of one list of changes are below a directory that is gone, and how many are below each."""

    def __init__(self, changes: Sequence[Change]) -> None:
        """Fold the deleted entries of *changes*."""
        #: For the position of each row that has no line of its own, that of the row that stands for its directory.
        self.hidden: dict[int, int] = {}
        #: For the position of the row that stands for a directory, the number of hidden rows.
        self.entries: dict[int, int] = {}
        self._sources = {change.path: change.from_path for change in changes if change.from_path is not None}
        self._moved = frozenset(self._sources.values())
        deleted = [(index, change.path) for index, change in enumerate(changes) if change.kind == "D"]
        if not deleted:
            return
        tops = self._tops(changes)
        for index, path in deleted:
            top = self._top(path, tops)
            if top is not None:
                self.hidden[index] = top
                self.entries[top] = self.entries.get(top, 0) + 1

    def old_path(self, path: bytes) -> bytes:
        """Return the path in the layers below of what the sandbox shows at *path*, if they have it."""
        at = path if self._sources else b""
        while at:
            source = self._sources.get(at)
            if source is not None:
                return source + path[len(at) :]
            at = at.rpartition(b"/")[0]
        return path

    def _tops(self, changes: Sequence[Change]) -> dict[bytes, int]:
        """Return the path in the layers below of each directory that is gone, with the position of its row.

        It was deleted, or another object is in its place.
        """
        tops: dict[bytes, int] = {}
        for index, change in enumerate(changes):
            if change.type != "directory" and change.kind != "D":
                parent, _, name = change.path.rpartition(b"/")
                tops[self.old_path(parent) + b"/" + name] = index
        tops.update(
            (change.path, index)
            for index, change in enumerate(changes)
            if change.type == "directory" and change.kind == "D"
        )
        return tops

    def _top(self, path: bytes, tops: dict[bytes, int]) -> int | None:
        """Return the highest of *tops* that *path* was in; None if there is none.

        A directory that moved ends the search: *path* was deleted at the new place, and the directories above are not above it.
        """
        found = None
        at = path.rpartition(b"/")[0]
        while at and at not in self._moved:
            found = tops.get(at, found)
            at = at.rpartition(b"/")[0]
        return found
