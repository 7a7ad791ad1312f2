"""Assign a persistent layer to another environment file: change its record, and rename it to the name that the file uses."""

from __future__ import annotations

import os

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.errors import StateError
from sandbox.lifecycle.inventory import list_names
from sandbox.plan import LayerRecord
from sandbox.state.directory import StateDirectory
from sandbox.state.earlier_layers import refuse_if_forked
from sandbox.state.layer_records import damaged, ids_from_json, read_record
from sandbox.state.location import Locations
from sandbox.state.removal import remove_directory
from sandbox.state.runs import users_of
from sandbox.state.sandbox_directory import RunDirectory
from sandbox.state.snapshots import locked_to_remove, read_snapshots
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import IdPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """The result of an adoption: the layer's old and new name, and its old and new environment file."""

    was: str
    name: str
    old_file: str | None
    file: str


def adopt(state: StateDirectory, layer: str, name: str, file: str) -> Adoption:
    """Record *file* as the environment file of the persistent layer *layer*, and rename the layer to *name*, the name it uses.

    An existing layer *name* is removed if it is empty.

    Raises:
        StateError: there is no such layer, one of the two is in use or damaged, or the existing layer *name* is not empty.
        OSError: the state cannot be written.
    """
    base = os.path.join(state.path, "sandboxes")
    source, target = os.path.join(base, layer), os.path.join(base, name)
    found = None if "/" in layer or layer in ("", ".", "..") else read_record(source)
    if found is None:
        where = Locations(state=state.path, images=state.images)
        names = ", ".join(list_names(where, "layer")) or "none"
        raise StateError(f"there is no persistent layer {layer}", hint=f"name an existing one: {names}")
    before = LayerRecord.read(found)
    if users := users_of(state.path, layer=layer):
        raise StateError(f"sandbox {layer} is running: {users[0].shown()}", hint="wait for it to end")
    with _Locked(source, layer, before) as locked, locked_to_remove(source, layer):
        if source != target:
            refuse_if_forked(state.path, source, layer)  # a fork names its directories
            _make_room(state.path, target, name, layer)
        locked.directory.record({"file": file})
        if source != target:
            os.rename(source, target)
    return Adoption(was=layer, name=name, old_file=before.file, file=file)


class _Locked:
    """The persistent layer *name*, locked within the context so that no sandbox uses it."""

    def __init__(self, path: str, name: str, record: LayerRecord) -> None:
        self.ids = _ids(path)
        self.directory = RunDirectory(
            path, self.ids, in_use=f"sandbox {name} is running", resume=True, record=record, before=record
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.directory.close()


def _ids(path: str) -> IdPlan:
    ids = ids_from_json((read_record(path) or {}).get("ids"))
    if ids is None:
        raise damaged(path)
    return ids


def _make_room(state_directory: str, path: str, name: str, layer: str) -> None:
    """Remove the persistent layer *name* in *path*, which *layer* replaces, if there is one and it is empty."""
    found = read_record(path)
    if found is None and not os.path.lexists(path):
        return
    if found is None:
        raise damaged(path, "is missing")
    with _Locked(path, name, LayerRecord.read(found)) as locked, locked_to_remove(path, name):
        refuse_if_forked(state_directory, path, name)
        if (content := _content(path, locked)) is not None:
            raise StateError(
                f"the persistent layer {name} exists and has {content}, and {layer} would replace it",
                hint=f"set sandbox.name = {layer} in the file to use {layer} under its own name; or remove {name} with sandbox rm layer:{name}, and adopt again",
            )
        remove_directory(path, locked.ids)


def _content(path: str, locked: _Locked) -> str | None:
    """Return what would be lost with the persistent layer in *path*; None if it is empty."""
    stack = locked.directory.stack
    upper = os.path.join(path if stack is None else stack.writable, "upper")
    if (stack is not None and stack.earlier) or not _is_unused(upper, locked.ids):
        return "changes"
    return "snapshots" if read_snapshots(path) else None


def _is_unused(upper: str, ids: IdPlan) -> bool:
    """Return whether the directory *upper*, which may be readable under *ids* only, is empty or missing."""
    try:
        return not os.listdir(upper)
    except FileNotFoundError:
        return True
    except PermissionError:
        return run_with_ids(with_own_id(ids), lambda: "" if os.listdir(upper) else "unused") == "unused"
