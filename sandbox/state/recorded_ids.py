"""Check whether a sandbox may use files created under other id maps, and create directories with the right owner."""

from __future__ import annotations

import os

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.errors import StateError
from sandbox.kernel.idmaps import covers
from sandbox.plan import IdPlan
from sandbox.state.layer_records import ids_from_json
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import Any

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_owned(path: str, ids: IdPlan, mode: int) -> None:
    """Create the directory *path* with *mode*, owned by id 0 of *ids*. Complete one that an interrupted start has left."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    fd = os.open(path, _OPEN_DIR)
    try:
        uid, gid = ids.root
        if os.geteuid() == 0:
            os.chown(fd, uid, gid)
            os.chmod(fd, mode)
        elif (uid, gid) == (os.geteuid(), os.getegid()):
            os.chmod(fd, mode)
        else:
            run_with_ids(with_own_id(ids), lambda: _own(fd, mode))
    finally:
        os.close(fd)


def _own(fd: int, mode: int) -> None:
    os.chown(fd, 0, 0)
    os.chmod(fd, mode)


def contains_ids_of(ids: IdPlan, others: IdPlan) -> bool:
    """Return whether *ids* map every host id that *others* map, whatever its id inside is."""
    return all(
        covers([replace(entry, inside=entry.outside) for entry in own], other)
        for own, other in ((ids.uid_map, others.uid_map), (ids.gid_map, others.gid_map))
    )


def other_ids(path: str, recorded: Any, ids: IdPlan) -> StateError | None:
    """Return an error if files created under the *recorded* ids cannot be used with *ids*; otherwise None."""
    before = ids_from_json(recorded)
    if before is not None and (before.uid_map, before.gid_map) == (ids.uid_map, ids.gid_map):
        return None
    made = "an unknown one" if before is None else _in_words(before)
    return StateError(
        f"the writable layer in {path} was created under another id map: {made}, not {_in_words(ids)}",
        hint="use its former ids, or set another sandbox.name; or discard it: "
        f"sandbox rm layer:{os.path.basename(path)}",
    )


def _in_words(ids: IdPlan) -> str:
    """Return the lines of both maps as text, the group map only if it differs: "0 1000 1, 1 100000 65535"."""
    users, groups = (", ".join(map(str, id_map)) for id_map in (ids.uid_map, ids.gid_map))
    return users if users == groups else f"{users} (groups {groups})"
