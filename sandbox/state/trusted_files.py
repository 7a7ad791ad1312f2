"""Files of the state that this user wrote and no other user could: opened, read as JSON, and replaced as a whole."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from sandbox.state.location import ELSEWHERE
from unionfs._stdlib.typing import Any

_LARGEST = 1 << 20
"""Bytes of a JSON file that are read; a real one has a few thousand."""

_ANOTHERS = "is another user's"


def distrust(info: os.stat_result) -> str | None:
    """Return why a directory or file of the state with the status *info* may not be used ("is another user's"), None where it may."""
    if info.st_uid != os.geteuid():
        return _ANOTHERS
    return "can be written by others" if info.st_mode & 0o022 else None


def remedy(path: str, reason: str) -> str:
    """Return what to do about the directory *path*, which may not be used for *reason*: only its owner can change its mode."""
    return ELSEWHERE if reason == _ANOTHERS else f"chmod 700 {path}, or {ELSEWHERE}"


def open_trusted(name: str, *, dir_fd: int | None = None) -> tuple[int, os.stat_result] | None:
    """Open the file *name* of the state, in *dir_fd* where that is given; returns a descriptor to read it and its status, None
    where it is no regular file that may be used.
    """
    try:
        # Not blocking: what lies there may be a FIFO.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=dir_fd)
    except OSError:
        return None
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and distrust(info) is None:
        return fd, info
    os.close(fd)
    return None


def read_json(path: str) -> Any:
    """Return the value of the file *path* of the state, of which a MiB is read.

    Raises:
        OSError: there is none that can be read.
        ValueError: it is no regular file, or does not hold what :func:`decode_json` takes.
    """
    # Not blocking: what lies there may be a FIFO.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with open(fd, "rb", closefd=False) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("no regular file")
            return decode_json(file.read(_LARGEST))
    finally:
        os.close(fd)


def replace_json(path: str, value: object) -> None:
    """Replace the file *path* of the state, which this user alone may read, by the JSON text of *value* as a whole.

    Raises:
        OSError: it cannot be written; the old one is still there, and nothing is left of the new one.
    """
    import json

    new = f"{path}.{os.urandom(4).hex()}.new"
    try:
        with open(new, "x", encoding="utf-8", opener=_for_us_alone) as file:
            json.dump(value, file)
        os.rename(new, path)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise


def _for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def decode_json(data: bytes) -> Any:
    """Return the value of the JSON text *data*, a file of the state. Every string of it can be a path.

    Raises:
        ValueError: it is no such text, or is nested too deeply.
    """
    import json

    try:
        value = json.loads(data)
        _check_strings(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _check_strings(value: object) -> None:
    if isinstance(value, str):
        if b"\0" in os.fsencode(value):  # which raises UnicodeEncodeError, a ValueError
            raise ValueError("a NUL character")
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key)
            _check_strings(item)
