"""Select rows of changes by PATH arguments and `--exclude` patterns, with the rows that the selected ones need. Pure.

sandbox/changes/apply_plan.py calls it. Paths in this module have no leading slash; the path of the root is empty.

A row *needs* another one if it cannot be applied without it:

* a new path needs the directories above it that are new, were moved there, or replace something else;
* a change of a moved object needs the move;
* a directory goes only after everything that was in it: after its deleted entries, and those that were moved out of it;
* a new object needs the old one at its path to move away.

An excluded row excludes all rows that need it. A selected row selects all rows that it needs.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence

from sandbox.changes.rows import Change, OldObject

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class MoveMap:
    """Where the objects of the layers below are after some moves: pairs of an old and a new path."""

    def __init__(self) -> None:
        """Start without moves."""
        self._targets: dict[bytes, bytes] = {}

    def add(self, old: bytes, new: bytes) -> None:
        """Record that the object with the old path *old* is at *new* now."""
        self._targets[old] = new

    def of(self, old: bytes, *, itself: bool = True) -> bytes:
        """Return where the object with the old path *old* is; without *itself*, where it is if only others have moved."""
        at = old if itself else parent_of(old)
        while at:
            target = self._targets.get(at)
            if target is not None:
                return target + old[len(at) :]
            at = parent_of(at)
        return old

    def covering(self, old: bytes) -> bytes | None:
        """Return the old path of the nearest directory above *old* that has moved; None if none has."""
        at = parent_of(old)
        while at:
            if at in self._targets:
                return at
            at = parent_of(at)
        return None


class Needs:
    """What each row needs, as positions in the list of rows."""

    def __init__(self, changes: Sequence[Change]) -> None:
        """Index *changes*."""
        self._changes = changes
        self.moves = MoveMap()
        for change in changes:
            if change.kind == "R":
                self.moves.add(old_path(change), relative(change.path))
        #: Rows whose object is new at a path, or is another one than was expected there: A, R, C of another type.
        self._structure: dict[bytes, int] = {}
        #: Moves by the path at which their object is expected if only others move.
        self._movers: dict[bytes, list[int]] = {}
        #: Deleted and moved objects by the old path of their directory.
        self._entries: dict[bytes, list[int]] = {}
        for position, change in enumerate(changes):
            if changes_structure(change):
                self._structure[relative(change.path)] = position
            if change.kind in "DR":
                self._entries.setdefault(parent_of(old_path(change)), []).append(position)
            if change.kind == "R":
                self._movers.setdefault(self.moves.of(old_path(change), itself=False), []).append(position)

    def of(self, position: int) -> set[int]:
        """Return the rows that the row at *position* needs."""
        change = self._changes[position]
        needed: set[int] = set()
        if change.kind == "D":
            needed.update(self._entries.get(old_path(change), ()))
            return needed
        path = relative(change.path)
        above = self.structure_above(path)
        if above is not None:
            needed.add(above)
        if change.kind != "C":
            needed.update(self._movers.get(path, ()))
        elif (own := self._structure.get(path)) is not None:
            needed.add(own)
        for directory in directories_replaced_by(change):
            needed.update(self._entries.get(directory, ()))
        needed.discard(position)
        return needed

    def structure_above(self, path: bytes) -> int | None:
        """Return the nearest row above *path* by which a directory comes to its place."""
        at = path
        while at:
            at = parent_of(at)
            if (found := self._structure.get(at)) is not None:
                return found
        return None

    def structure_at(self, path: bytes) -> int | None:
        """Return the row by which another object is at *path* than before."""
        return self._structure.get(path)

    def movers(self, path: bytes) -> Sequence[int]:
        """Return the moves of the object that is expected at *path* to another one."""
        return self._movers.get(path, ())

    def entries(self, directory: bytes) -> Sequence[int]:
        """Return the rows of what was in the old *directory*, and was deleted or moved out of it."""
        return self._entries.get(directory, ())


def select(
    changes: Sequence[Change], needs: Needs, paths: Sequence[bytes], exclude: Sequence[str]
) -> tuple[set[int], list[int]]:
    """Return the positions of the selected rows, and of those that match but need an excluded one.

    Without *paths* every row matches.
    """
    matching, excluded = set(), set()
    for position, change in enumerate(changes):
        places = _places(change, needs.moves)
        if not paths or any(is_at_or_below(place, path) for place in places for path in paths):
            matching.add(position)
        if exclude and any(_is_excluded(place, exclude) for place in places):
            excluded.add(position)
    needed = [needs.of(position) for position in range(len(changes))]
    needing: dict[int, list[int]] = {}
    for position, others in enumerate(needed):
        for other in others:
            needing.setdefault(other, []).append(position)
    impossible = _closure(excluded, lambda position: needing.get(position, ()))
    selected = _closure(matching - impossible, lambda position: needed[position])
    return selected, sorted((matching & impossible) - excluded)


def _closure(start: set[int], following: Callable[[int], Iterable[int]]) -> set[int]:
    found, pending = set(start), list(start)
    while pending:
        for other in following(pending.pop()):
            if other not in found:
                found.add(other)
                pending.append(other)
    return found


def _places(change: Change, moves: MoveMap) -> list[bytes]:
    """Return the paths by which a user may name *change*."""
    places = [relative(change.path)]
    if change.kind == "R":
        places.append(old_path(change))
    elif change.kind == "D":
        places.append(moves.of(relative(change.path)))  # known by this path if its directory has moved
    return places


def _is_excluded(path: bytes, patterns: Sequence[str]) -> bool:
    """Return whether a pattern matches *path* or a directory above it, a pattern without a slash the name of one of them."""
    from fnmatch import fnmatchcase

    at = path
    while at:
        text = "/" + at.decode("utf-8", "surrogateescape")
        name = text.rpartition("/")[2]
        for pattern in patterns:
            wanted = pattern.rstrip("/") or "/"
            if fnmatchcase(text, wanted) or ("/" not in wanted and fnmatchcase(name, wanted)):
                return True
        at = parent_of(at)
    return False


# -- rows ------------------------------------------------------------------------------------------


def relative(path: bytes) -> bytes:
    """Return *path* without its leading slash."""
    return path.lstrip(b"/")


def parent_of(path: bytes) -> bytes:
    """Return the directory of *path*."""
    return path.rpartition(b"/")[0]


def old_path(change: Change) -> bytes:
    """Return where the layers below have the object of *change*, which is a move, a deletion or a change."""
    if change.kind == "R" and change.from_path is not None:
        return relative(change.from_path)
    if change.kind == "C" and change.old is not None:
        return relative(change.old.path)
    return relative(change.path)


def is_at_or_below(path: bytes, top: bytes) -> bool:
    """Return whether *path* is *top* or below it."""
    return not top or path == top or path.startswith(top + b"/")


def was_directory(old: OldObject | None) -> bool:
    """Return whether *old* is a directory."""
    return old is not None and old.mode is not None and stat.S_ISDIR(old.mode)


def changes_structure(change: Change) -> bool:
    """Return whether another object is at the path of *change* than before, into which or over which things may move."""
    if change.kind == "C":
        return change.type == "directory" and not was_directory(change.old)
    return change.kind in "AR"


def directories_replaced_by(change: Change) -> Iterable[bytes]:
    """Return the old paths of the directories that go because the object of *change* takes their place."""
    if change.kind == "C" and change.type != "directory" and was_directory(change.old):
        return (old_path(change),)
    return [relative(old.path) for old in change.replaced if was_directory(old)]
