"""Count the disk space of directories, as root of the ids of their files where this user may not read them."""

from __future__ import annotations

import os

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.errors import SandboxError
from sandbox.kernel.trees import disk_usage

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.plan import IdPlan

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def measure(places: Sequence[tuple[str, IdPlan | None]]) -> dict[str, int | None]:
    """Return the disk space of each path, counted as root of its ids if this user may not read all of it; None on failure."""
    found: dict[str, int | None] = {}
    closed: dict[str, tuple[IdPlan, list[str]]] = {}
    for path, ids in places:
        try:
            found[path] = _usage(path)
        except OSError:
            found[path] = None
            if ids is not None:
                closed.setdefault(repr(ids), (ids, []))[1].append(path)
    for ids, paths in closed.values():
        found |= _measure_with_ids(ids, paths)
    return found


def _measure_with_ids(ids: IdPlan, paths: list[str]) -> dict[str, int | None]:
    def measured(path: str) -> str:
        try:
            return str(_usage(path))
        except OSError:
            return ""

    try:
        # One child process counts everything that was created under the same ids.
        output = run_with_ids(with_own_id(ids), lambda: "\n".join(map(measured, paths)))
    except SandboxError:
        return {}
    sizes = [int(size) if size else None for size in output.split("\n")]
    return dict(zip(paths, sizes, strict=True))


def _usage(path: str) -> int:
    fd = os.open(path, _OPEN_DIR)
    try:
        return disk_usage(fd)
    finally:
        os.close(fd)
