"""Let the earlier layers of a sandbox follow the moves that `sandbox apply` makes in the layers below.

Earlier layers never change, and other sandboxes and snapshots may share them. So `unionfs changes --relocate` begins a relocation, a
layer between the lowest of them and the layers below, in which the moved objects are at their old paths
(unionfs/changes/relocation.py). It is in the directory of that earlier layer, so all that share it get the relocation, too::

    LAYER/relocated/N/upper, work    the relocation; the one with the highest number N counts
    LAYER/relocated/begun.json       the moves that a command is about to make

The moves are recorded before the first one. A command that finds the record of one that was killed looks for each object, by its
inode number, and begins the relocation for those that have moved.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from sandbox.changes.apply_plan import Plan
from sandbox.changes.exclusive import exclusively
from sandbox.changes.frozen_layers import open_parts
from sandbox.changes.host_tree import HostTree
from sandbox.changes.reader import output_of, state_directory
from sandbox.changes.selection import old_path, relative
from sandbox.changes.step_order import Action
from sandbox.changes.writable_layers import WritableLayer, list_layers
from sandbox.errors import SandboxError, StateError
from sandbox.kernel import open_paths
from sandbox.kernel.trees import synchronize_file_system
from sandbox.state import snapshots
from sandbox.state.earlier_layers import RELOCATED, relocation_of, sharing
from sandbox.state.removal import remove_directory
from sandbox.state.trusted_files import read_json, replace_json
from unionfs._stdlib.dataclasses import dataclass

_BEGUN = "begun.json"
_NEW = ".new"
_VERSION = 1
_LARGEST = 1 << 28
"""The most bytes of a record, which has a few hundred bytes for each move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One object that a plan moves. Paths have no leading slash."""

    old: bytes
    new: bytes
    #: Its temporary path between the two, if it has one.
    aside: bytes | None
    ino: int
    #: "file", "directory" or another type of a row.
    type: str


def moves_of(plan: Plan) -> list[Move]:
    """Return the moves of *plan*."""
    aside = {old_path(step.change): step.path for step in plan.steps if step.action is Action.MOVE_ASIDE}
    return [
        Move(
            old=old_path(row),
            new=relative(row.path),
            aside=aside.get(old_path(row)),
            ino=row.old.ino,
            type=row.type,
        )
        for row in plan.changes
        if row.kind == "R" and row.old is not None and row.old.ino is not None
    ]


# -- other sandboxes with the same layers --------------------------------------------------------------


def running_sharers(layer: WritableLayer) -> list[str]:
    """Return the running sandboxes that share the earlier layers of *layer*.

    Raises:
        StateError: a record cannot be read.
    """
    return [other.id for other in _sharers(layer) if other.in_use]


@contextmanager
def sharers_locked(layer: WritableLayer) -> Iterator[None]:
    """Keep sandboxes that share the earlier layers of *layer* from starting, and from being frozen or forked.

    Raises:
        StateError: one of them is running, or another command uses its snapshots.
    """
    with ExitStack() as undo:
        for other in _sharers(layer):
            refused = f"shares layers of {layer.id}, below which objects are to be moved"
            undo.enter_context(exclusively(state_directory(), other, refused))
            undo.enter_context(snapshots.locked(other.path, other.id))
        yield


def _sharers(layer: WritableLayer) -> list[WritableLayer]:
    if not layer.stack.earlier:
        return []
    homes = set(sharing(state_directory(), layer.stack.earlier[0])) - {layer.path}
    return [other for other in list_layers(state_directory()) if other.path in homes]


# -- the steps of an application -----------------------------------------------------------------------


def begin(layer: WritableLayer, target: str, moves: Sequence[Move]) -> None:
    """Record that *moves* are about to be made in the directory *target*, a layer of *layer*, which has earlier layers.

    Raises:
        OSError: it cannot be recorded.
    """
    place = _place(layer)
    os.makedirs(place, mode=0o700, exist_ok=True)
    value = {
        "version": _VERSION,
        "number": _number_of(relocation_of(layer.stack.earlier)) + 1,
        "target": target,
        "moves": [
            {
                "old": os.fsdecode(move.old),
                "new": os.fsdecode(move.new),
                "aside": None if move.aside is None else os.fsdecode(move.aside),
                "ino": move.ino,
                "type": move.type,
            }
            for move in moves
        ],
    }
    replace_json(os.path.join(place, _BEGUN), value, lasting=True)


def has_begun(layer: WritableLayer) -> bool:
    """Return whether moves were recorded that the earlier layers of *layer* do not follow yet."""
    return bool(layer.stack.earlier) and os.path.lexists(os.path.join(_place(layer), _BEGUN))


def follow(layer: WritableLayer) -> list[str]:
    """Let the earlier layers of *layer* follow those of the recorded moves that were made. Return the old and new paths of these.

    The caller has locked the layer and those that share it. It then renews the records of the paths, and calls :func:`end`.

    Raises:
        StateError: the record cannot be read.
        SandboxError: the relocation cannot be begun. The same call continues.
    """
    number, target, moves = _read(layer)
    places = _made(target, moves)
    if places and not os.path.lexists(os.path.join(_place(layer), str(number))):
        _begin_relocation(layer, number, places)
    return [os.fsdecode(b"/" + path) for place in places for path in place]


def end(layer: WritableLayer) -> None:
    """Remove the record of :func:`begin`, relocations that were replaced, and what killed commands left.

    Raises:
        OSError: something cannot be removed.
    """
    place, present = _place(layer), relocation_of(layer.stack.earlier)
    for name in os.listdir(place):
        path = os.path.join(place, name)
        if name.startswith(_BEGUN):
            os.unlink(path)
        elif path != present:
            remove_directory(path, layer.ids)


def _place(layer: WritableLayer) -> str:
    return os.path.join(layer.stack.earlier[0], RELOCATED)


def _number_of(relocation: str | None) -> int:
    return 0 if relocation is None else int(os.path.basename(relocation))


def _read(layer: WritableLayer) -> tuple[int, str, list[Move]]:
    path = os.path.join(_place(layer), _BEGUN)
    try:
        value = read_json(path, _LARGEST)
        if value["version"] != _VERSION:
            raise StateError(f"{path} was written by a newer version", hint="use that version of sandbox")
        moves = [
            Move(
                old=os.fsencode(one["old"]),
                new=os.fsencode(one["new"]),
                aside=None if one["aside"] is None else os.fsencode(one["aside"]),
                ino=int(one["ino"]),
                type=str(one["type"]),
            )
            for one in value["moves"]
        ]
        return int(value["number"]), str(value["target"]), moves
    except (OSError, ValueError, KeyError, TypeError):
        raise StateError(f"{path} is damaged", hint="restore the file") from None


def _made(target: str, moves: Sequence[Move]) -> list[tuple[bytes, bytes]]:
    """Return the old paths of the objects that have left them in the directory *target*, and where they are now."""
    root_fd = open_paths.open_real(target, directory=True)
    try:
        tree, found = HostTree(root_fd, target), []
        for move in moves:
            place = _place_of(tree, move)
            if place is not None:
                found.append((move.old, place))
        return found
    finally:
        os.close(root_fd)


def _place_of(tree: HostTree, move: Move) -> bytes | None:
    """Return where the object of *move* is now; None if it has not been moved, or not by itself."""
    for path in (move.new, move.aside, move.old):
        here = None if path is None else tree.lstat(path)
        if here is not None and here.st_ino == move.ino and stat.S_ISDIR(here.st_mode) == _is_directory(move):
            return None if path == move.old else path
    # A changed file replaces the moved one.
    return move.new if not _is_directory(move) and tree.lstat(move.new) is not None else None


def _is_directory(move: Move) -> bool:
    return move.type == "directory"


def _begin_relocation(layer: WritableLayer, number: int, places: Sequence[tuple[bytes, bytes]]) -> None:
    place = _place(layer)
    made = os.path.join(place, _NEW)
    remove_directory(made, layer.ids)  # of a command that was killed
    os.mkdir(made, 0o700)
    try:
        with ExitStack() as undo:
            group = [os.fsdecode(path) for pair in places for path in pair]
            output_of(layer, ["--relocate"], group, next_fds=open_parts(made, layer.ids, undo))
            fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, fd)
            synchronize_file_system(fd)
        os.rename(made, os.path.join(place, str(number)))
    except BaseException:
        with suppress(SandboxError, OSError):  # the first error matters
            remove_directory(made, layer.ids)
        raise
