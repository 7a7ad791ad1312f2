"""Find the writable layer that a name or an environment file selects: of a running sandbox, kept, or persistent.

    STATE/sandboxes/NAME/   a persistent layer
    STATE/changes/ID/       an ephemeral layer that `up --keep-changes` kept; ID is that of its run
    RUN/run/ID/             the ephemeral layer of a run that has not ended

Changes nothing. Each directory's state.json names the layers below (sandbox/state/stack_record.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sandbox.errors import StateError
from sandbox.plan import IdPlan
from sandbox.state.layer_records import ids_from_json
from sandbox.state.locks import probe
from sandbox.state.runs import Run, list_runs, paths_in
from sandbox.state.selection import by_prefix, is_file, selects
from sandbox.state.stack_record import RecordedStack
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Literal

Kind = Literal["running", "kept", "persistent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableLayer:
    """A writable layer on disk, and what its record tells."""

    #: Of the sandbox, and the id of the run whose layer it is; the same for a persistent layer.
    name: str
    id: str
    kind: Kind
    #: The directory of the record.
    path: str
    #: The environment file, if it is known.
    file: str | None
    ids: IdPlan
    stack: RecordedStack
    #: Whether a sandbox uses it now.
    in_use: bool
    #: The time of the record, in seconds since the epoch.
    time: float
    #: Whether a sandbox has used it. A fork that was never started has not.
    started: bool = True


def find(state_directory: str, argument: str) -> WritableLayer:
    """Return the writable layer that *argument*, an environment file or a name, selects.

    A running sandbox comes before one that has ended, a fork that was never started after all others, and a later one before an
    earlier one.

    Raises:
        StateError: there is none, or a record cannot be read.
    """
    layers = list_layers(state_directory)
    found = [layer for layer in layers if _is_selected(layer, argument)]
    if not found and not is_file(argument):
        found = by_prefix(argument, layers, lambda layer: layer.id)
    if not found:
        raise _read_only(state_directory, argument) or _nothing(argument, layers)
    return max(found, key=lambda layer: (layer.in_use, layer.started, layer.time))


def read_again(layer: WritableLayer) -> WritableLayer:
    """Return *layer*, which is locked now, with its present record: another command may have frozen it since it was found.

    Raises:
        StateError: it was removed.
    """
    again = _read(layer.path, layer.kind, in_use=layer.in_use)
    if again is None:
        raise StateError(f"the writable layer of {layer.id} was removed meanwhile")
    return again


def _is_selected(layer: WritableLayer, argument: str) -> bool:
    return selects(argument, (layer.name, layer.id), layer.file)


def _read_only(state_directory: str, argument: str) -> StateError | None:
    """Return the error about a running sandbox that *argument* selects, but that has no writable layer; None if there is none."""
    for run in list_runs(state_directory):
        record = run.record
        if (
            run.state == "running"
            and record is not None
            and selects(argument, (record.name, run.id), record.file)
        ):
            return StateError(
                f"sandbox {run.id} has no writable layer",
                hint='set root.writable = "persistent", or remove root.writable and start it with --keep-changes',
            )
    return None


def _nothing(argument: str, layers: Sequence[WritableLayer]) -> StateError:
    if is_file(argument):
        if not os.path.lexists(argument):
            return StateError(f"{argument}: no such file", hint="give a file or the name of a sandbox")
        return StateError(
            f"no sandbox of {argument} has a writable layer that was kept",
            hint='start it once with root.writable = "persistent", or run it with --keep-changes or --diff',
        )
    hint = "list the layers: sandbox ls; to keep that of a run, start it with sandbox up --keep-changes"
    kind, colon, name = argument.partition(":")
    names = {layer.name for layer in layers} | {layer.id for layer in layers}
    if colon and kind in ("layer", "changes") and name in names:
        hint = f"write the name without {kind}:"
    else:
        from difflib import get_close_matches  # slow to import, and only needed for a mistake

        if close := get_close_matches(argument, sorted(names), n=1):
            hint = f"did you mean {close[0]}?"
    return StateError(f"there is no writable layer of a sandbox {argument}", hint=hint)


def list_layers(state_directory: str) -> list[WritableLayer]:
    """Return all writable layers that can be read on this machine.

    Raises:
        OSError: the state directory cannot be listed.
    """
    runs = [run for run in list_runs(state_directory) if run.state == "running"]
    found = [layer for run in runs if (layer := _of_run(run)) is not None]
    in_use = {run.record.layer for run in runs if run.record is not None}
    for path in _homes_in(os.path.join(state_directory, "sandboxes")):
        layer = _read(path, "persistent", in_use=os.path.basename(path) in in_use)
        found += [layer] if layer is not None else []
    for path in _homes_in(os.path.join(state_directory, "changes")):
        layer = _read(path, "kept", in_use=probe(os.path.join(path, "lock")) == "held")
        found += [layer] if layer is not None else []
    return found


def _homes_in(base: str) -> list[str]:
    """Return the directories in *base*, except those that a fork is making or a command is removing."""
    return [path for path in paths_in(base) if not os.path.basename(path).startswith(".")]


def _of_run(run: Run) -> WritableLayer | None:
    """Return the ephemeral layer of *run*; None if it has none, or keeps it elsewhere."""
    layer = _read(run.path, "running", in_use=True)
    if layer is None or run.record is None or run.record.layer is not None:
        return None
    if layer.stack.writable != run.record.run_directory:
        return None  # `up --keep-changes`: it is listed among those that are kept
    return layer if os.path.isdir(os.path.join(layer.stack.writable, "upper")) else None


def _read(path: str, kind: Kind, *, in_use: bool) -> WritableLayer | None:
    name = os.path.join(path, "state.json")
    try:
        state: Any = read_json(name)
        time = os.stat(name).st_mtime
    except (OSError, ValueError):
        return None
    stack = RecordedStack.read(state, path)
    ids = ids_from_json(state.get("ids")) if isinstance(state, dict) else None
    if stack is None or ids is None:
        return None
    base = os.path.basename(path)
    file = state.get("file")
    return WritableLayer(
        name=base if kind == "persistent" else str(state.get("name") or base),
        id=base,
        kind=kind,
        path=path,
        file=file if isinstance(file, str) else None,
        ids=ids,
        stack=stack,
        in_use=in_use,
        time=time,
        started=state.get("started") is not False,
    )
