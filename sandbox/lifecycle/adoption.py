"""Giving a persistent layer that is kept to another environment file: its record, and its name where that follows the file's."""

from __future__ import annotations

import os

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.errors import StateError
from sandbox.lifecycle.inventory import list_names
from sandbox.plan import LayerRecord
from sandbox.state.directory import RunDirectory, StateDirectory
from sandbox.state.layer_records import damaged, ids_from_json, read_record
from sandbox.state.removal import remove_directory
from sandbox.state.runs import users_of
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import IdPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What was done: the layer by its name of before and its name of now, and the file of before and that of now."""

    was: str
    name: str
    old_file: str | None
    file: str


def adopt(state: StateDirectory, layer: str, name: str, file: str) -> Adoption:
    """Record that the persistent layer *layer* is kept from *file*, and call it *name*, as sandboxes of *file* look for it.

    A layer that is called *name* already makes room if it holds nothing.

    Raises:
        StateError: there is no such layer, one of the two is in use or damaged, or the one in the way holds something.
        OSError: the state cannot be written.
    """
    base = os.path.join(state.path, "sandboxes")
    source, target = os.path.join(base, layer), os.path.join(base, name)
    found = None if "/" in layer or layer in ("", ".", "..") else read_record(source)
    if found is None:
        names = ", ".join(kept_layers(state.path)) or "none"
        raise StateError(f"no persistent layer {layer} is kept", hint=f"name one of those that are: {names}")
    before = LayerRecord.read(found)
    if users := users_of(state.path, layer=layer):
        raise StateError(f"sandbox {layer} is running: {users[0].shown()}", hint="wait for it to end")
    with _Locked(source, layer, before) as locked:
        if source != target:
            _make_room(target, name, layer)
        locked.directory.record({"file": file})
        if source != target:
            os.rename(source, target)
    return Adoption(was=layer, name=name, old_file=before.file, file=file)


def kept_layers(state_directory: str) -> list[str]:
    """Return the names of the persistent layers that are kept."""
    return list_names(state_directory, "layer")


class _Locked:
    """The persistent layer *name*, which no sandbox uses meanwhile."""

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


def _make_room(path: str, name: str, layer: str) -> None:
    found = read_record(path)
    if found is None and not os.path.lexists(path):
        return
    if found is None:
        raise damaged(path, "is missing")
    with _Locked(path, name, LayerRecord.read(found)) as locked:
        if not _is_unused(os.path.join(path, "upper"), locked.ids):
            raise StateError(
                f"there is a persistent layer {name} with changes of its own, which {layer} would replace",
                hint=f"set sandbox.name = {layer} in the file to use that one; or discard it: sandbox rm layer:{name}, and adopt again",
            )
        remove_directory(path, locked.ids)


def _is_unused(upper: str, ids: IdPlan) -> bool:
    """Tell whether nothing is in the directory *upper*, which may be readable under *ids* only."""
    try:
        return not os.listdir(upper)
    except FileNotFoundError:
        return True
    except PermissionError:
        return run_with_ids(with_own_id(ids), lambda: "" if os.listdir(upper) else "unused") == "unused"
