"""Paths of the union and old paths: where the union has an old object, and what the layers below have at a path of it.

:mod:`unionfs.changes.discard_plan` uses it, and changes it as its steps will move objects back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unionfs.changes.rows import MOVED, Row


class Places:
    """The moves of one comparison."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Begin with the moves among *rows*."""
        #: Where the union has each old object that moved, and the reverse.
        self.moves: dict[bytes, bytes] = {}
        self.sources: dict[bytes, bytes] = {}
        for row in rows:
            if row.kind == MOVED and row.old_path is not None:
                self.add(row.old_path, row.path)

    def add(self, old_path: bytes, path: bytes) -> None:
        """Record that the object of *old_path* is at *path*."""
        self.moves[old_path] = path
        self.sources[path] = old_path

    def remove(self, path: bytes) -> None:
        """Record that the moved object at *path* is at its old path again."""
        del self.moves[self.sources.pop(path)]

    def new_path(self, old_path: bytes) -> bytes:
        """Return where the union has the object of *old_path*, or would have it if it were not deleted."""
        return _translated(old_path, self.moves)

    def old_path(self, path: bytes) -> bytes:
        """Return the old path of the object that the union has at *path*; of an added one, the path that it would have."""
        return _translated(path, self.sources)

    def place(self, old_path: bytes) -> bytes:
        """Return the place of *old_path*: its name in the directory that contained it, wherever that is now."""
        above = parent_of(old_path)
        return self.new_path(above) + old_path[len(above) :]

    def home(self, path: bytes) -> bytes | None:
        """Return the old path whose place *path* is; None if its directory is new."""
        above = parent_of(path)
        old = self.old_path(above)
        return old + path[len(above) :] if self.new_path(old) == above else None


class PathSet:
    """Paths, each of which stands for everything at and below it."""

    def __init__(self, paths: Iterable[bytes] = ()) -> None:
        """Begin with *paths*."""
        self._paths = set(paths)

    def __len__(self) -> int:
        """Return the number of paths that were added."""
        return len(self._paths)

    def add(self, path: bytes) -> None:
        """Add *path*."""
        self._paths.add(path)

    def covers(self, path: bytes) -> bool:
        """Return whether *path* is at or below one of the paths."""
        return b"" in self._paths or any(above in self._paths for above in prefixes(path))


def is_at_or_below(path: bytes, top: bytes) -> bool:
    """Return whether *path* is *top*, or is below it."""
    return not top or path == top or path.startswith(top + b"/")


def topmost(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield those of *paths* that are not below another one, sorted."""
    seen = PathSet()
    for path in sorted(paths):
        if not seen.covers(path):
            seen.add(path)
            yield path


def parent_of(path: bytes) -> bytes:
    """Return the path of the directory of *path*; that of the root is empty."""
    return path.rpartition(b"/")[0]


def prefixes(path: bytes) -> Iterator[bytes]:
    """Yield the paths that lead to *path*, without the root, from the top down to *path* itself."""
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)
    if path:
        yield path


def _translated(path: bytes, moved: dict[bytes, bytes]) -> bytes:
    """Return *path* with its longest beginning that is in *moved* replaced."""
    if not moved:
        return path
    at = path
    while at:
        to = moved.get(at)
        if to is not None:
            return to + path[len(at) :]
        at = parent_of(at)
    return path
