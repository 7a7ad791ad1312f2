"""What the host paths of a spec are, looked at once, before the plan: facts as values. Nothing here raises."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

MAX_CONTENT = 1 << 20
"""Bytes of a file that is read: more than execve(2) would take as an environment."""

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
    #: What is in the file, where that was asked for; it may be secret.
    content: bytes | None = field(default=None, repr=False)


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


def inspect_all(paths: Iterable[str], *, read: Collection[str] = ()) -> Mapping[str, PathFact]:
    """Look at each of *paths* once; into those that are to be *read*, too."""
    facts = {path: inspect(path) for path in dict.fromkeys(paths)}
    return {path: _read(fact) if path in read else fact for path, fact in facts.items()}


def _read(fact: PathFact) -> PathFact:
    """Return *fact* with the content of a regular file, or with the reason why there is none."""
    if fact.kind != "file":
        return fact
    try:
        # Opening a device can do something, and a FIFO would wait for a writer, should it have come there meanwhile.
        if not stat.S_ISREG(os.stat(fact.path).st_mode):
            return replace(fact, reason="is not a regular file")
        fd = os.open(fact.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            content = file.read(MAX_CONTENT + 1)
    except OSError as error:
        return replace(fact, reason=(error.strerror or str(error)).lower())
    if len(content) > MAX_CONTENT:
        return replace(fact, reason="is larger than 1 MiB")
    return replace(fact, content=content)
