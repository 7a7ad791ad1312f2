"""What the host paths of a spec are, looked at once, before the plan: facts as values. Nothing here raises."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["directory", "file", "missing", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFact:
    """One host path: where it really is, what is there, and which object that is."""

    path: str
    #: The path without symbolic links.
    real: str
    kind: Kind
    identity: tuple[int, int] | None = None
    #: Permission bits, for a directory that becomes the root.
    mode: int = 0o755
    #: The user who owns it.
    owner: int | None = None
    #: Why it cannot be used, for "missing" and "refused".
    reason: str = ""


def inspect(path: str) -> PathFact:
    """Look at *path* on the host, through symbolic links."""
    real = os.path.realpath(path)
    try:
        info = os.stat(path)
        is_directory = stat.S_ISDIR(info.st_mode)
        if not os.access(path, os.R_OK | os.X_OK if is_directory else os.R_OK, effective_ids=True):
            return PathFact(path=path, real=real, kind="refused", reason="permission denied")
    except PermissionError:
        return PathFact(path=path, real=real, kind="refused", reason="permission denied")
    except (OSError, ValueError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        return PathFact(path=path, real=real, kind="missing", reason=reason)
    return PathFact(
        path=path,
        real=real,
        kind="directory" if is_directory else "file",
        identity=(info.st_dev, info.st_ino),
        mode=stat.S_IMODE(info.st_mode),
        owner=info.st_uid,
    )


def inspect_all(paths: Iterable[str]) -> Mapping[str, PathFact]:
    """Look at each of *paths* once."""
    return {path: inspect(path) for path in dict.fromkeys(paths)}
