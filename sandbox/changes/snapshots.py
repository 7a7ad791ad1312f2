"""Make, list and remove snapshots of a sandbox, return to one, and make another sandbox from the present state."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.changes.exclusive import exclusively
from sandbox.changes.frozen_layers import (
    begin,
    earlier_layers_after,
    freeze,
    make_parts,
    remove_unused_layers,
)
from sandbox.changes.reader import state_directory
from sandbox.changes.writable_layers import WritableLayer, find, read_again
from sandbox.errors import StateError
from sandbox.plan import LayerRecord
from sandbox.state import locks, snapshots
from sandbox.state.earlier_layers import origins_of, settle
from sandbox.state.layer_records import ids_as_json
from sandbox.state.locks import exclusively_locked
from sandbox.state.removal import NEW, remove_directory
from sandbox.state.sandbox_directory import write_state
from sandbox.state.snapshots import Snapshot
from sandbox.state.stack_record import RecordedStack
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import replace


def make(argument: str, name: str) -> WritableLayer:
    """Give the present state of the sandbox that *argument* selects the name *name*; return its layer.

    Raises:
        StateError: there is no such layer, it does not outlive its sandbox, or it has such a snapshot.
        SandboxError: the layer cannot be frozen.
    """
    with _locked(argument) as layer:
        known = snapshots.read_snapshots(layer.path)
        if any(one.name == name for one in known):
            raise StateError(
                f"sandbox {layer.id} has a snapshot {name} already",
                hint=f"choose another name, or remove it: sandbox snapshot {layer.id} --remove {name}",
            )
        made = Snapshot(name=name, time=time.time(), layers=earlier_layers_after(layer))
        # Written before the layer is frozen, so that a full disk does not leave a frozen layer that no snapshot names.
        with snapshots.new_list(layer.path, [*known, made]) as replace_list:
            if made.layers != layer.stack.earlier:
                freeze(layer)
            replace_list()
    return layer


def list_snapshots(argument: str) -> tuple[WritableLayer, list[Snapshot]]:
    """Return the layer of the sandbox that *argument* selects, and its snapshots, oldest first.

    Raises:
        StateError: there is no such layer, or its snapshots cannot be read.
    """
    layer = find(state_directory(), argument)
    return layer, snapshots.read_snapshots(layer.path)


def remove(argument: str, name: str) -> WritableLayer:
    """Remove the snapshot *name* of the sandbox that *argument* selects; return its layer.

    The layers of the snapshot are removed with it if the sandbox, another snapshot or a fork does not need them.

    Raises:
        StateError: there is no such layer or snapshot.
        SandboxError: a layer cannot be removed.
    """
    with _locked(argument) as layer:
        removed = _named(layer, name)
        known, origins = snapshots.read_snapshots(layer.path), origins_of(layer.path)
        snapshots.write_snapshots(layer.path, [one for one in known if one.name != removed.name])
        remove_unused_layers(layer, origins)
    return layer


def roll_back(argument: str, name: str) -> WritableLayer:
    """Return the sandbox that *argument* selects to the state of its snapshot *name*; return its layer.

    Later changes are removed, unless another snapshot has them.

    Raises:
        StateError: there is no such layer or snapshot, or the sandbox is running.
        SandboxError: the new writable layer cannot be created; the sandbox is as before.
    """
    refused = "rolling back would change files that its programs have open"
    with _locked(argument) as layer, exclusively(state_directory(), layer, refused):
        begin(layer, _named(layer, name).layers)
    return layer


def fork(argument: str, name: str) -> WritableLayer:
    """Create the sandbox *name* with the present state of the one that *argument* selects; return the layer of the latter.

    The two share the layers up to now, and have a writable layer each.

    Raises:
        StateError: there is no such layer, it does not outlive its sandbox, or *name* is in use.
        SandboxError: the layer cannot be frozen.
    """
    base = os.path.join(state_directory(), "sandboxes")
    target = os.path.join(base, name)
    with _locked(argument) as layer:
        if os.path.lexists(target):
            raise StateError(
                f"there is a persistent layer {name} already",
                hint=f"choose another name, or remove it: sandbox rm layer:{name}",
            )
        earlier = earlier_layers_after(layer)
        made, lock_fd = _begin_fork(base)
        try:
            # Written before the layer is frozen, so that a full disk does not leave a frozen layer that no sandbox needs.
            _write_fork(layer, made, earlier)
            if earlier != layer.stack.earlier:
                freeze(layer)
            with exclusively_locked(state_directory()):
                if os.path.lexists(target):
                    raise StateError(
                        f"a persistent layer {name} was made meanwhile", hint="choose another name"
                    )
                os.rename(made, target)
        except BaseException:
            remove_directory(made, layer.ids)
            raise
        finally:
            os.close(lock_fd)
    return layer


def _begin_fork(base: str) -> tuple[str, int]:
    """Create a directory in *base* for a fork, with its lock; return its path and the descriptor of the lock.

    If this process is killed, the lock is free, and `sandbox prune` removes the directory.
    """
    made = os.path.join(base, f"{NEW}{os.urandom(4).hex()}")
    with exclusively_locked(state_directory()):
        os.mkdir(made, 0o700)
        try:
            lock_fd = locks.take(os.path.join(made, "lock"), wait=True)
        except BaseException:
            os.rmdir(made)
            raise
    assert lock_fd is not None
    return made, lock_fd


def _write_fork(layer: WritableLayer, home: str, earlier: tuple[str, ...]) -> None:
    """Write the record of a sandbox with the layers *earlier* of *layer* in the directory *home*."""
    stack = RecordedStack(writable=home, layers=layer.stack.layers, earlier=earlier)
    record = LayerRecord.read(read_json(os.path.join(layer.path, "state.json")))
    state = {"ids": ids_as_json(layer.ids), "started": False, **record.as_json(), **stack.as_json(home)}
    make_parts(replace(layer, path=home, stack=stack))
    write_state(home, state, lasting=True)


def _named(layer: WritableLayer, name: str) -> Snapshot:
    known = snapshots.read_snapshots(layer.path)
    for one in known:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in known)
    raise StateError(
        f"sandbox {layer.id} has no snapshot {name}",
        hint=f"it has {names}" if known else f"it has none; sandbox snapshot {layer.id} SNAPSHOT makes one",
    )


@contextmanager
def _locked(argument: str) -> Iterator[WritableLayer]:
    """Give the layer that *argument* selects, with its snapshots locked within the context."""
    layer = find(state_directory(), argument)
    if layer.kind == "running":
        raise StateError(
            f"the writable layer of sandbox {layer.id} is removed at its end, and has no snapshots",
            hint='set root.writable = "persistent", or start the sandbox with --keep-changes',
        )
    with snapshots.locked(layer.path, layer.id):
        again = read_again(layer)
        yield replace(again, stack=settle(again.stack, again.ids))
