"""Find the directory on a path that a user without capabilities over the files of this machine may not search.

A process in a child user namespace is in that position, even as root (user_namespaces(7)): its CAP_DAC_OVERRIDE and
CAP_DAC_READ_SEARCH apply only to files whose owner is mapped in the namespace.
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
    """A directory that *user* may not search (path_resolution(7)): its permission bits, owner and group."""

    path: str
    user: int
    mode: int
    owner: int
    group: int


def closed_directories(paths: Iterable[str]) -> dict[str, ClosedDirectory]:
    """Return the first closed directory on each of *paths* that has one. The paths are absolute, without symbolic links.

    Returns an empty result if this thread does not have these capabilities: opening the paths then fails anyway.
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
                return None  # the object is gone; opening it later will report that
            os.close(fd)
            fd, here = below, f"{here}/{name}"
        return None
    finally:
        os.close(fd)
