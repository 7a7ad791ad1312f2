"""Which environment files refer to a named volume or an unpacked archive, as the starts that used it have noted.

    DIRECTORY/references.json       {"version": 1, "archive": PATH or null, "files": [PATH, ...]}

Nothing depends on these notes but what `sandbox ls` shows and `sandbox prune` removes: a damaged one counts as empty. The time of
the last use is that of the lock file in the same directory.
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
    """The environment files that were started with something that is kept, and the archive that was unpacked, if that is known."""

    files: tuple[str, ...] = ()
    archive: str | None = None


def read_references(path: str) -> References:
    """Return the notes in the directory *path*."""
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
    """Note that what is kept in the directory *path* is used now, by a start of the environment file *file*, None for no file.

    *lock_fd* is its lock file, whose time tells the last use. Where nothing can be written, nothing is noted.
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
