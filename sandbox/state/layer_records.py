"""Read the records of persistent layers and named volumes in the state directory. Changes nothing.

    STATE/sandboxes/NAME/state.json     ids, file and layers of a persistent layer (sandbox/plan/persistent_state.py)
    STATE/volumes/NAME/state.json       ids of a named volume

A record that exists but cannot be read is an error: without it, the owners of the files could not be checked.
"""

from __future__ import annotations

import os

from sandbox.errors import StateError
from sandbox.kernel.files import open_regular
from sandbox.kernel.idmaps import IdMap
from sandbox.plan import IdPlan, LayerRecord, PersistentLayer, PersistentState, default_name
from sandbox.state.file_digests import sha256_of
from sandbox.state.stack_record import RecordedStack
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import asdict, replace
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.spec.model import Spec


def read_record(path: str) -> dict[str, Any] | None:
    """Return the record of the persistent layer or volume in the directory *path*; None if there is none yet.

    Raises:
        StateError: the record cannot be read or decoded.
    """
    name = os.path.join(path, "state.json")
    if not os.path.lexists(name):
        return None
    try:
        state = read_json(name)
        LayerRecord.read(state)
    except OSError as error:
        raise damaged(path, (error.strerror or str(error)).lower()) from None
    except ValueError:
        raise damaged(path) from None
    assert isinstance(state, dict)
    return state


def damaged(path: str, reason: str = "it is damaged") -> StateError:
    """Return the error about a damaged record in the directory *path*."""
    return StateError(
        f"{path}/state.json: {reason}: the ids of its files are unknown",
        hint=f"restore the file, or choose another name; or discard the directory by removing {path}",
    )


def look(spec: Spec, state_directory: str) -> PersistentState:
    """Return the persistent layer and the volumes that *spec* would use; none if *state_directory* is "".

    Raises:
        StateError: a record cannot be read.
    """
    if not state_directory:
        return PersistentState()
    named = {volume.source for volume in spec.volumes if volume.type == "named" and volume.source is not None}
    volumes = frozenset(
        name for name in named if os.path.isdir(os.path.join(state_directory, "volumes", name))
    )
    if spec.root.writable != "persistent":
        return PersistentState(volumes=volumes)
    base = os.path.join(state_directory, "sandboxes")
    own = find_layer(base, spec.sandbox.name or default_name(spec.file), spec.file)
    if own is not None:
        own = replace(own, unchanged=frozenset(_unchanged(own.record)))
    orphans = () if own is not None or spec.sandbox.name else _orphans(base)
    return PersistentState(own=own, orphans=orphans, volumes=volumes)


def find_layer(base: str, name: str, file: str) -> PersistentLayer | None:
    """Return the persistent layer *name* below *base*, for a start of *file*; None if there is none.

    Raises:
        StateError: its record cannot be read.
    """
    path = os.path.join(base, name)
    state = read_record(path)
    if state is None:
        return None
    record = LayerRecord.read(state)
    has_file = record.file is not None and os.path.lexists(record.file)
    stack = RecordedStack.read(state, path)
    return PersistentLayer(
        name=name,
        path=path,
        record=record,
        has_file=has_file,
        same_file=_is_same(record.file, file),
        earlier=0 if stack is None else len(stack.earlier),
    )


def _unchanged(record: LayerRecord) -> list[str]:
    """Return the archives of *record* whose modification time has changed, but not their recorded content.

    Only these are read, because reading may take seconds.
    """
    digests = dict(record.digests)
    found = []
    for kind, path, version in record.layers or ():
        if kind != "tar" or version is None or path not in digests:
            continue
        try:
            fd = open_regular(path, links=False)
        except OSError:
            continue  # the plan reports the problem
        try:
            info = os.fstat(fd)
            changed = info.st_mtime_ns != version[1]
            if changed and info.st_size == version[0] and sha256_of(fd) == digests[path]:
                found.append(path)
        except OSError:
            continue
        finally:
            os.close(fd)
    return found


def _is_same(one: str | None, other: str) -> bool:
    """Return whether both paths lead to the same file now. A recorded inode number would not prove it, because it is reused."""
    try:
        return one is not None and os.path.samefile(one, other)
    except OSError:
        return False


def _orphans(base: str) -> tuple[PersistentLayer, ...]:
    try:
        # Others are being made or removed.
        names = sorted(name for name in os.listdir(base) if not name.startswith("."))
    except OSError:
        return ()
    found = []
    for name in names:
        try:
            layer = find_layer(base, name, "")
        except StateError:
            continue  # reported when that layer is used
        if layer is not None and layer.record.file is not None and not layer.has_file:
            found.append(layer)
    return tuple(layer for layer in found if layer.record.file != "<stdin>")


def ids_as_json(ids: IdPlan) -> dict[str, Any]:
    """Return *ids* as JSON, to be recorded beside files that were created under these ids."""
    return {
        "uid_map": [asdict(entry) for entry in ids.uid_map],
        "gid_map": [asdict(entry) for entry in ids.gid_map],
        "helpers": list(ids.helpers) if ids.helpers else None,
        "single": ids.single,
        "setgroups": ids.setgroups,
    }


def ids_from_json(value: Any) -> IdPlan | None:
    """Return the ids that :func:`ids_as_json` encoded; None if *value* is something else."""
    try:
        return IdPlan(
            uid_map=tuple(IdMap(**entry) for entry in value["uid_map"]),
            gid_map=tuple(IdMap(**entry) for entry in value["gid_map"]),
            helpers=tuple(value["helpers"]) if value["helpers"] else None,
            single=bool(value["single"]),
            setgroups=bool(value.get("setgroups", True)),
        )
    except (KeyError, TypeError):
        return None
