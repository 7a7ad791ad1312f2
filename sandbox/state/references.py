"""Record which environment files refer to a named volume or an unpacked archive; each start that uses one adds its file.

    DIRECTORY/references.json       {"version": 1, "archive": PATH or null, "files": [PATH, ...]}

Only `sandbox ls` and `sandbox prune` use these references, so a damaged file counts as empty. The time of the last use is the
modification time of the lock file in the same directory.
"""

from __future__ import annotations

import os
from contextlib import suppress

from sandbox.state.trusted_files import read_json, replace_json
from unionfs._stdlib.dataclasses import dataclass

_NAME = "references.json"
_VERSION = 1
_MOST_FILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The environment files whose starts used a volume or archive, and the path of the unpacked archive if known."""

    files: tuple[str, ...] = ()
    archive: str | None = None


def read_references(path: str) -> References:
    """Return the references recorded in the directory *path*."""
    try:
        value = read_json(os.path.join(path, _NAME))
    except (OSError, ValueError):
        return References()
    if not isinstance(value, dict) or not isinstance(value.get("files"), list):
        return References()
    archive = value.get("archive")
    return References(
        files=tuple(file for file in value["files"] if isinstance(file, str)),
        archive=archive if isinstance(archive, str) else None,
    )


def note_reference(path: str, file: str | None, *, lock_fd: int, archive: str | None = None) -> None:
    """Record that a start of the environment file *file*, None for no file, uses the volume or archive in *path* now.

    *lock_fd* is its lock file, whose modification time is that of the last use. Errors of writing are ignored.
    """
    with suppress(OSError):
        os.utime(lock_fd)
    known = read_references(path)
    files = known.files if file is None or file in known.files else (*known.files, file)[-_MOST_FILES:]
    if files == known.files and archive in (None, known.archive):
        return
    value = {"version": _VERSION, "archive": archive or known.archive, "files": list(files)}
    with suppress(OSError):
        replace_json(os.path.join(path, _NAME), value)
