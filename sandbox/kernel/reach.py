"""Which directory on a path is closed to an account that has no capabilities over the files of this machine.

A process in a child user namespace is such an account, root included (user_namespaces(7)): CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
hold over files whose owner the namespace maps.
"""

from __future__ import annotations

import os
import stat

from sandbox.kernel.capabilities import lowered
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_OPEN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedDirectory:
    """A directory that *user* may not search (path_resolution(7)): its permission bits, the user and group who own it."""

    path: str
    user: int
    mode: int
    owner: int
    group: int


def closed_directories(paths: Iterable[str]) -> dict[str, ClosedDirectory]:
    """Return for each of *paths*, absolute and without symbolic links, the first closed directory on it, where there is one.

    Empty if this thread has no such capability: then it finds out by itself what is closed.
    """
    with lowered("DAC_OVERRIDE", "DAC_READ_SEARCH") as is_lowered:
        if not is_lowered:
            return {}
        return {path: closed for path in paths if (closed := _first_closed(path)) is not None}


def _first_closed(path: str) -> ClosedDirectory | None:
    here = ""
    fd = os.open("/", _OPEN)
    try:
        for name in path.strip("/").split("/"):
            try:
                below = os.open(name or ".", _OPEN, dir_fd=fd)
            except PermissionError:
                info = os.fstat(fd)
                return ClosedDirectory(
                    path=here or "/",
                    user=os.geteuid(),
                    mode=stat.S_IMODE(info.st_mode),
                    owner=info.st_uid,
                    group=info.st_gid,
                )
            except OSError:
                return None  # gone meanwhile: it is missing when it is opened
            os.close(fd)
            fd, here = below, f"{here}/{name}"
        return None
    finally:
        os.close(fd)
