"""Order the steps that apply rows of changes to a directory: each step finds what the ones before it leave. Pure.

sandbox/changes/apply_plan.py calls :func:`steps`. The order is: moves, deletions, new directories, files, attributes of
directories. A step that an earlier kind needs comes earlier: a directory must exist before something moves into it, and a deleted
directory must be empty before something moves to its place.

Moves may wait for each other, as when two objects swap their names. Then one of them first moves to a temporary name, in a
directory that no step touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from heapq import heappop, heappush

from sandbox.changes.rows import Change, OldObject
from sandbox.changes.selection import (
    MoveMap,
    Needs,
    changes_structure,
    old_path,
    parent_of,
    relative,
    was_directory,
)
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.hashlib import sha256

_STAGED_SUFFIX = b".sandbox-move"
_MAX_NAME = 255
_DIGITS = 16


class Action(Enum):
    """What a step does."""

    MOVE_ASIDE = "move aside"
    MOVE = "move"
    REMOVE = "remove"
    MAKE_DIRECTORY = "make directory"
    WRITE = "write"
    SET_ATTRIBUTES = "set attributes"


#: Actions that bring objects of the layers below to their new places. They come before all others.
STRUCTURAL = frozenset({Action.MOVE_ASIDE, Action.MOVE, Action.REMOVE, Action.MAKE_DIRECTORY})
#: Actions that need the next member of the archive.
WITH_MEMBER = frozenset({Action.MAKE_DIRECTORY, Action.WRITE, Action.SET_ATTRIBUTES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. Paths are those of the directory of the host when the step is reached, without a leading slash."""

    action: Action
    #: Where the step has its effect.
    path: bytes
    change: Change
    #: Of a move: where the object is before it.
    source: bytes = b""
    #: The object that the step moves, removes, replaces or changes; None if there is none.
    old: OldObject | None = None
    #: Of a move: the object that it replaces.
    replaced: OldObject | None = None


def steps(changes: Sequence[Change], selected: set[int], needs: Needs) -> Iterator[Step]:
    """Yield the steps for the rows of *changes* at the positions *selected*."""
    order = _Order(changes, selected, needs)
    yield from order.run()
    rest = [changes[position] for position in sorted(selected) if changes[position].kind in "AC"]
    files = [change for change in rest if change.type != "directory"]
    for change in sorted(files, key=lambda change: change.path):
        yield Step(action=Action.WRITE, path=relative(change.path), change=change, old=change.old)
    kept = [change for change in rest if change.type == "directory" and not changes_structure(change)]
    for change in sorted(kept, key=lambda change: (-_depth(change.path), change.path)):
        yield Step(action=Action.SET_ATTRIBUTES, path=relative(change.path), change=change, old=change.old)


@dataclass(slots=True)
class _Task:
    """A step that has not been reached, and how many tasks it still waits for."""

    #: Tasks of smaller keys come first: the kind, and then the order within it.
    key: tuple[int, int, bytes]
    action: Action
    change: Change
    #: The old path of what is moved or removed; the new path of a directory to make.
    place: bytes
    old: OldObject | None
    waits: int = 0
    done: bool = False
    staged: bool = False


class _Order:
    """Orders moves, deletions and new directories: a topological sort that may split a move into two."""

    def __init__(self, changes: Sequence[Change], selected: set[int], needs: Needs) -> None:
        self._changes = changes
        self._selected = selected
        self._needs = needs
        self._tasks: list[_Task] = []
        #: The tasks of each row: of a move the move itself first.
        self._of_row: dict[int, int] = {}
        #: Tasks that remove replaced objects below a moved one, by their old path.
        self._replaced: dict[bytes, int] = {}
        #: For each task, the tasks that wait for its end, and those that wait until it has moved away from its place.
        self._after: dict[int, list[int]] = {}
        self._after_leaving: dict[int, list[int]] = {}
        #: For each task, those that it waits for, and whether only until they have left their place.
        self._blockers: dict[int, list[tuple[int, bool]]] = {}
        #: Moves of an object to the place of its own directory.
        self._within_replaced: list[int] = []
        #: No task before this one is left.
        self._first = 0
        self._where = MoveMap()
        self._covering = MoveMap()
        for position in sorted(selected):
            self._add_tasks(position, changes[position])
        for position in sorted(selected):
            self._add_waits(position, changes[position])

    def _add(
        self, kind: int, depth: int, action: Action, change: Change, place: bytes, old: OldObject | None
    ) -> int:
        at = relative(change.path) if kind == 0 else place
        self._tasks.append(_Task((kind, depth, at), action, change, place, old))
        return len(self._tasks) - 1

    def _add_tasks(self, position: int, change: Change) -> None:
        path = relative(change.path)
        if change.kind == "R":
            self._of_row[position] = self._add(0, 0, Action.MOVE, change, old_path(change), change.old)
            self._covering.add(old_path(change), path)
            for old in _removed_for(change):
                place = relative(old.path)
                self._replaced[place] = self._add(1, -_depth(place), Action.REMOVE, change, place, old)
        elif change.kind == "D":
            self._of_row[position] = self._add(1, -_depth(path), Action.REMOVE, change, path, change.old)
        elif change.type == "directory" and changes_structure(change):
            self._of_row[position] = self._add(2, 0, Action.MAKE_DIRECTORY, change, path, change.old)

    def _add_waits(self, position: int, change: Change) -> None:
        task = self._of_row.get(position)
        if task is None:
            return
        path = relative(change.path)
        if change.kind == "D":
            self._wait_until_empty(task, path)
            return
        above = self._needs.structure_above(path)
        if above is not None:
            self._wait(task, self._of_row.get(above))
        for mover in self._needs.movers(path):
            self._wait_for_leaving(task, self._of_row.get(mover))
        for old in _removed_for(change):
            place = relative(old.path)
            self._wait_until_empty(self._replaced[place], place, change)
        if change.replaced:
            place = relative(change.replaced[0].path)
            if place in self._replaced:
                self._wait(task, self._replaced[place])
            elif was_directory(change.replaced[0]):
                self._wait_for_entries(task, place, change)

    def _wait_until_empty(self, task: int, place: bytes, change: Change | None = None) -> None:
        """Let *task*, which removes what was at *place*, wait for the move of its directory and for its entries."""
        covering = self._covering.covering(place)
        if covering is not None:
            self._wait(task, self._mover_from(covering))
        self._wait_for_entries(task, place, change)

    def _wait_for_entries(self, task: int, directory: bytes, change: Change | None) -> None:
        for entry in self._needs.entries(directory):
            if self._changes[entry].kind == "R":
                self._wait_for_leaving(task, self._of_row.get(entry))
            else:
                self._wait(task, self._of_row.get(entry))
        for old in change.replaced if change is not None else ():
            place = relative(old.path)
            if parent_of(place) == directory and place in self._replaced:
                self._wait(task, self._replaced[place])

    def _mover_from(self, place: bytes) -> int | None:
        for position in self._needs.entries(parent_of(place)):
            change = self._changes[position]
            if change.kind == "R" and old_path(change) == place:
                return self._of_row.get(position)
        return None

    def _wait(self, task: int, other: int | None) -> None:
        if other is not None and other != task:
            self._after.setdefault(other, []).append(task)
            self._blockers.setdefault(task, []).append((other, False))
            self._tasks[task].waits += 1

    def _wait_for_leaving(self, task: int, other: int | None) -> None:
        if other == task:
            self._within_replaced.append(task)
        elif other is not None:
            self._after_leaving.setdefault(other, []).append(task)
            self._blockers.setdefault(task, []).append((other, True))
            self._tasks[task].waits += 1

    # -- the sort ----------------------------------------------------------------------------------

    def run(self) -> Iterator[Step]:
        """Yield the steps."""
        ready: list[tuple[tuple[int, int, bytes], int]] = []
        for number, task in enumerate(self._tasks):
            if not task.waits:
                heappush(ready, (task.key, number))
        for number in self._within_replaced:
            yield self._stage(number)
            self._release(self._after_leaving.get(number, ()), ready)
        left = len(self._tasks)
        while left:
            if not ready:
                number = self._to_stage()
                yield self._stage(number)
                self._release(self._after_leaving.get(number, ()), ready)
                continue
            _, number = heappop(ready)
            task = self._tasks[number]
            yield self._step(task)
            task.done = True
            left -= 1
            self._release(self._after.get(number, ()), ready)
            if not task.staged:
                self._release(self._after_leaving.get(number, ()), ready)

    def _release(self, waiting: Sequence[int], ready: list[tuple[tuple[int, int, bytes], int]]) -> None:
        for number in waiting:
            task = self._tasks[number]
            task.waits -= 1
            if not task.waits:
                heappush(ready, (task.key, number))

    def _step(self, task: _Task) -> Step:
        path = relative(task.change.path)
        if task.action is Action.MOVE:
            source = self._where.of(task.place)
            self._where.add(task.place, path)
            replaced = task.change.replaced[0] if task.change.replaced else None
            if replaced is not None and relative(replaced.path) in self._replaced:
                replaced = None
            return Step(
                action=task.action,
                path=path,
                change=task.change,
                source=source,
                old=task.old,
                replaced=replaced,
            )
        place = self._where.of(task.place) if task.action is Action.REMOVE else path
        return Step(action=task.action, path=place, change=task.change, old=task.old)

    def _to_stage(self) -> int:
        """Return a move in a circle of tasks that wait for each other, where one waits only for it to leave its place."""
        while self._tasks[self._first].done:
            self._first += 1
        at, way = self._first, {self._first: 0}
        edges: list[tuple[int, bool]] = []
        while True:
            blockers = self._blockers[at]
            while self._is_past(*blockers[-1]):
                blockers.pop()
            at, leaving = blockers[-1]
            edges.append((at, leaving))
            if at in way:
                return min(number for number, leaving in edges[way[at] :] if leaving)
            way[at] = len(edges)

    def _is_past(self, task: int, leaving: bool) -> bool:
        return self._tasks[task].done or (leaving and self._tasks[task].staged)

    def _stage(self, number: int) -> Step:
        task = self._tasks[number]
        source, target = task.place, relative(task.change.path)
        directory = _common_directory(source, target)
        while any(self._is_touched(at) for at in _upwards(directory)):
            directory = parent_of(directory)
        name = staged_name(source)
        path = directory + b"/" + name if directory else name
        step = Step(
            action=Action.MOVE_ASIDE,
            path=path,
            change=task.change,
            source=self._where.of(source),
            old=task.old,
        )
        self._where.add(source, path)
        task.staged = True
        return step

    def _is_touched(self, directory: bytes) -> bool:
        """Return whether a step puts *directory* in its place, moves it or removes it."""
        if not directory:
            return False
        found = self._needs.structure_at(directory)
        if found is not None and found in self._selected:
            return True
        entries = self._needs.entries(parent_of(directory))
        return any(
            position in self._selected and old_path(self._changes[position]) == directory
            for position in entries
        )


def _removed_for(change: Change) -> tuple[OldObject, ...]:
    """Return the objects that the moved object of *change* replaces and that a step must remove before.

    The move itself replaces the topmost one atomically if both are directories, or neither is.
    """
    if change.replaced and was_directory(change.replaced[0]) == was_directory(change.old):
        return change.replaced[1:]
    return change.replaced


def staged_name(old: bytes) -> bytes:
    """Return the temporary name of the object that was at *old*."""
    name = old.rpartition(b"/")[2]
    digest = sha256(old).hexdigest()[:_DIGITS].encode()
    return b".%s.%s%s" % (name[: _MAX_NAME - _DIGITS - 2 - len(_STAGED_SUFFIX)], digest, _STAGED_SUFFIX)


def _common_directory(one: bytes, other: bytes) -> bytes:
    """Return the innermost directory that contains both paths."""
    common = []
    for a, b in zip(one.split(b"/")[:-1], other.split(b"/")[:-1], strict=False):
        if a != b:
            break
        common.append(a)
    return b"/".join(common)


def _upwards(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = parent_of(path)


def _depth(path: bytes) -> int:
    return path.strip(b"/").count(b"/")
