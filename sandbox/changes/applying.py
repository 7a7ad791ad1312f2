"""Apply the changes of a sandbox to the host directory that is a layer of it: choose the layer, plan, and execute the plan.

The plan is made by sandbox/changes/apply_plan.py and executed by sandbox/changes/apply.py. Files are written where their owners can
be set: by real root with the ids of the host, and otherwise in the user namespace of the sandbox's ids.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext, suppress

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.changes import apply, apply_plan, relocating
from sandbox.changes.apply_plan import Conflict, Plan, Rules
from sandbox.changes.host_tree import HostTree
from sandbox.changes.reader import changes_of, has_changes, output_of, start, state_directory
from sandbox.changes.rows import Change
from sandbox.changes.writable_layers import WritableLayer, find, read_again
from sandbox.errors import SandboxError, StateError
from sandbox.kernel import idmaps, open_paths
from sandbox.plan import IdPlan
from sandbox.state import locks, snapshots
from sandbox.state.earlier_layers import settle
from sandbox.state.stack_record import RecordedLayer
from unionfs._stdlib.dataclasses import dataclass, replace

_MOVED = "an object that moved can be applied only when the sandbox has ended"
_SHARED = (
    "{} shares layers with this sandbox: an object that moved can be applied only when it has ended, too"
)
_LOCK = "changes.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What is about to be applied, and where."""

    layer: WritableLayer
    #: The `dir:` layer whose directory is written.
    target: RecordedLayer
    plan: Plan


def prepare(
    argument: str, paths: Sequence[str] = (), *, exclude: Sequence[str] = (), to: str | None = None
) -> Application:
    """Plan the changes at and below *paths* (all, if there are none) of the sandbox that *argument* selects.

    *exclude* are patterns of paths that are left out. *to* is the directory of the layer that is written, needed if there are
    several.

    Raises:
        StateError: there is no such sandbox, or no such layer.
        SandboxError: the changes cannot be read.
    """
    found = find(state_directory(), argument)
    layer = replace(found, stack=settle(found.stack, found.ids))
    position, target = choose_layer(layer, to)
    rules = Rules(
        layer=position,
        paths=tuple(os.fsencode(path) for path in paths),
        exclude=tuple(exclude),
        is_own=_owned_places(target.path),
        is_own_id=_own_ids(layer.ids),
    )
    if not layer.in_use and has_changes(layer):
        # A killed command may have left a moved object that the writable layer still looks for at its old place.
        with ExitStack() as undo:
            _lock(layer, undo)
            _refuse_if_frozen(layer, undo)
            _finish_killed(layer)
    plan = apply_plan.make(changes_of(layer, facts=True), rules)
    if layer.in_use:
        plan = _without_moves(plan, _MOVED)
    elif any(row.kind == "R" for row in plan.changes) and (running := relocating.running_sharers(layer)):
        plan = _without_moves(plan, _SHARED.format(" and ".join(running)))
    return Application(layer=layer, target=target, plan=plan)


def _without_moves(plan: Plan, reason: str) -> Plan:
    """Return *plan* with *reason* as a conflict of each moved object."""
    moved = tuple(Conflict(row, row.path, reason) for row in plan.changes if row.kind == "R")
    return replace(plan, conflicts=(*plan.conflicts, *moved))


def choose_layer(layer: WritableLayer, to: str | None) -> tuple[int, RecordedLayer]:
    """Return the `dir:` layer that is written, and its position; 0 is the topmost of the layers below the writable one.

    Raises:
        StateError: there is none, or *to* is needed or names none of them.
    """
    below = layer.stack.layers[::-1]
    found = [(position, one) for position, one in enumerate(below) if one.kind == "dir"]
    shown = ", ".join(one.path for _, one in found)
    if not found:
        kinds = ", ".join(one.shown() for one in below)
        raise StateError(
            f"the layers of {layer.id} are no directories of the host: {kinds}",
            hint=f"copy files out of it: sandbox export {layer.id} PATH... DEST",
        )
    if to is None:
        if len(found) > 1:
            raise StateError(
                f"{layer.id} has several directory layers: {shown}", hint="choose one with --to DIR"
            )
        return found[0]
    for position, one in found:
        if os.path.realpath(to) == os.path.realpath(one.path):
            return position, one
    raise StateError(f"{to} is not a layer of {layer.id}", hint=f"its directory layers: {shown}")


def execute(application: Application) -> list[str]:
    """Write the planned changes; return notices about what could not be set.

    Raises:
        StateError: another command is applying changes of this layer.
        SandboxError: the host has changed since the plan was made, or something cannot be written.
    """
    layer, plan, target = application.layer, application.plan, application.target
    with ExitStack() as undo:
        _lock(layer, undo)
        _refuse_if_frozen(layer, undo)
        root_fd = open_paths.open_real(target.path, directory=True)
        undo.callback(os.close, root_fd)
        said = ""
        if any(row.kind == "R" for row in plan.changes):
            # What is written afterwards is read in the sandbox, where contents may come from an object that moves.
            said += _move(layer, plan, target, root_fd)
        said += _write(layer, plan, target, root_fd, structural=False)
        _renew(layer, _paths_of(plan.changes))
    return [f"{notice}: the attribute was left out" for notice in said.splitlines()]


def _move(layer: WritableLayer, plan: Plan, target: RecordedLayer, root_fd: int) -> str:
    """Execute the structural steps of *plan*, and let *layer* follow. Return the same as :func:`_write`."""
    moved = _paths_of([row for row in plan.changes if row.kind == "R"])
    if not layer.stack.earlier:
        said = _write(layer, plan, target, root_fd, structural=True)
        _renew(layer, moved)
        return said
    with relocating.sharers_locked(layer):
        relocating.begin(layer, target.path, relocating.moves_of(plan))
        try:
            said = _write(layer, plan, target, root_fd, structural=True)
        except SandboxError:
            with suppress(SandboxError, OSError):  # the first error matters
                _follow(layer)
            raise
        relocating.follow(layer)
        _renew(layer, moved)
        relocating.end(layer)
    return said


def _write(layer: WritableLayer, plan: Plan, target: RecordedLayer, root_fd: int, *, structural: bool) -> str:
    """Execute the steps of *plan*, or the structural ones alone; return a line about each attribute that could not be set."""
    members = list(map(os.fsdecode, plan.structural_members if structural else plan.members))
    with ExitStack() as undo:
        process = start(layer, ["--archive=members"], members, undo) if members else None

        def write(owners: Callable[[int, int], tuple[int, int]]) -> str:
            tree = HostTree(root_fd, target.path, keep_acls=layer.ids.single)
            if process is None:
                done = apply.execute(plan, tree, None, owners, structural=structural)
            else:
                with open(process.output_fd, "rb", closefd=False) as stream:
                    done = apply.execute(plan, tree, stream, owners, structural=structural)
            return "".join(f"{one.text()}\n" for one in done.left_out)

        with nullcontext() if process is None else process.explaining():
            if os.geteuid() == 0:
                return write(owners_of(layer.ids))
            return run_with_ids(with_own_id(layer.ids), lambda: write(lambda uid, gid: (uid, gid)))


def owners_of(ids: IdPlan) -> Callable[[int, int], tuple[int, int]]:
    """Return the function that gives the owner on the host for one of the sandbox, as a layer of the host's directories shows it.

    Such a layer shows root of the host as root of the sandbox.

    Raises (the function):
        SandboxError: an id is not mapped.
    """

    def outside(id_map: tuple[idmaps.IdMap, ...], inside: int) -> int:
        if inside == 0:
            return 0
        found = idmaps.lookup(id_map, inside)
        if found is None:
            raise SandboxError(f"the id {inside} of the sandbox is not mapped to one of the host")
        return found

    return lambda uid, gid: (outside(ids.uid_map, uid), outside(ids.gid_map, gid))


def _lock(layer: WritableLayer, undo: ExitStack) -> None:
    """Lock the changes of *layer*, and the layer itself if no sandbox uses it."""
    names = [_LOCK] if layer.in_use else [_LOCK, "lock"]
    for name in names:
        fd = locks.take(os.path.join(layer.path, name), wait=False)
        if fd is None:
            raise StateError(
                f"the changes of {layer.id} are in use by another command or sandbox",
                hint="wait for it to end, and run the command again",
            )
        undo.callback(os.close, fd)


def _refuse_if_frozen(layer: WritableLayer, undo: ExitStack) -> None:
    """Raise StateError if *layer* was frozen since the plan was made; *undo* ends a lock against that.

    The plan may then show other changes than the layer has now. And programs may be reading a frozen layer: nothing may be written
    to it.
    """
    undo.enter_context(snapshots.locked(layer.path, layer.id))
    before, now = (settle(one.stack, one.ids) for one in (layer, read_again(layer)))
    if (before.writable, before.earlier) != (now.writable, now.earlier):
        raise StateError(
            f"{layer.id} has been given another writable layer meanwhile, by a snapshot, a fork or a rollback",
            hint="run the command again",
        )


def _finish_killed(layer: WritableLayer) -> None:
    """Let *layer* follow the moves that a command made which was killed afterwards."""
    if not layer.stack.earlier:
        output_of(layer, ["--applied"])
    elif relocating.has_begun(layer):
        with relocating.sharers_locked(layer):
            _follow(layer)


def _follow(layer: WritableLayer) -> None:
    _renew(layer, relocating.follow(layer))
    relocating.end(layer)


def _renew(layer: WritableLayer, paths: Iterable[str]) -> None:
    """Let the writable layer follow what is below it at *paths* now."""
    chosen = sorted(set(paths))
    if chosen:
        output_of(layer, ["--applied"], chosen)


def _paths_of(rows: Iterable[Change]) -> list[str]:
    return [os.fsdecode(path) for row in rows for path in (row.path, row.from_path) if path is not None]


def _owned_places(top: str) -> Callable[[bytes], bool]:
    """Return whether the directory of a path belongs to this user: the nearest one that exists below *top*."""
    known: dict[bytes, bool] = {}

    def is_own(path: bytes) -> bool:
        directory = path.rstrip(b"/").rpartition(b"/")[0]
        if directory not in known:
            known[directory] = _belongs_to_user(os.fsencode(top), directory)
        return known[directory]

    return is_own


def _belongs_to_user(top: bytes, directory: bytes) -> bool:
    while True:
        try:
            info = os.lstat(top + b"/" + directory)
        except OSError:
            if not directory:
                return False
            directory = directory.rpartition(b"/")[0]
            continue
        return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()


def _own_ids(ids: IdPlan) -> Callable[[int, int], bool]:
    """Return whether a user of the sandbox is this user on the host."""

    def is_own_id(uid: int, _gid: int) -> bool:
        if uid == 0 and os.geteuid() == 0:
            return True
        return idmaps.lookup(ids.uid_map, uid) == os.geteuid()

    return is_own_id
