"""Open, read and replace files of the state that only this user can have written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sandbox.kernel.trees import synchronize_directory
from sandbox.state.location import ELSEWHERE
from unionfs._stdlib.typing import Any

LARGEST = 1 << 20
"""The most bytes of a JSON file that are read; a real file has a few thousand."""

NEW_SUFFIX = ".new"
"""The end of the name of a file that is going to replace another one. A process that is killed leaves it."""
_FOREIGN = "belongs to another user"


def distrust(info: os.stat_result) -> str | None:
    """Return why a file or directory of the state with the status *info* is not trusted ("belongs to another user"), None if it is."""
    if info.st_uid != os.geteuid():
        return _FOREIGN
    return "can be written by other users" if info.st_mode & 0o022 else None


def remedy(path: str, reason: str) -> str:
    """Return the hint about the directory *path*, which may not be used for *reason*: only its owner can change its mode."""
    return ELSEWHERE if reason == _FOREIGN else f"chmod 700 {path}, or {ELSEWHERE}"


def open_trusted(name: str, *, dir_fd: int | None = None) -> tuple[int, os.stat_result] | None:
    """Open the file *name* of the state, in *dir_fd* if given; return a descriptor for reading and its status.

    Return None if it is not a regular file that may be used.
    """
    try:
        # O_NONBLOCK: the file may be a FIFO.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=dir_fd)
    except OSError:
        return None
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and distrust(info) is None:
        return fd, info
    os.close(fd)
    return None


def read_json(path: str, largest: int = LARGEST) -> Any:
    """Return the JSON value in the file *path* of the state. At most *largest* bytes are read.

    Raises:
        OSError: there is no file that can be read.
        ValueError: it is not a regular file, or :func:`decode_json` refuses its content.
    """
    # O_NONBLOCK: the file may be a FIFO.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with open(fd, "rb", closefd=False) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("not a regular file")
            return decode_json(file.read(largest))
    finally:
        os.close(fd)


def replace_json(path: str, value: object, *, lasting: bool = False) -> None:
    """Replace the file *path* of the state, mode 0600, atomically by the JSON text of *value*.

    With *lasting*, fsync(2) the file before the rename and its directory after it.

    Raises:
        OSError: it cannot be written; the old file remains, and no part of the new one.
    """
    with new_json(path, value, lasting=lasting) as replace:
        replace()


@contextmanager
def new_json(path: str, value: object, *, lasting: bool = False) -> Iterator[Callable[[], None]]:
    """Write the JSON text of *value* beside the file *path* of the state, and give a function that replaces the file by it.

    So a full disk is noticed before something that cannot be undone. Without a call of the function, the old file remains.
    *lasting* is that of :func:`replace_json`.

    Raises:
        OSError: it cannot be written.
    """
    import json

    new = f"{path}.{os.urandom(4).hex()}{NEW_SUFFIX}"

    def replace() -> None:
        os.rename(new, path)
        if lasting:
            synchronize_directory(os.path.dirname(path))

    try:
        try:
            with open(new, "x", encoding="utf-8", opener=_open_private) as file:
                json.dump(value, file)
                if lasting:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            if error.filename is None:  # write(2) and fsync(2) set no file name
                error.filename = path
            raise
        yield replace
    finally:
        with suppress(OSError):
            os.unlink(new)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def decode_json(data: bytes) -> Any:
    """Return the value of the JSON text *data*, a file of the state. Every string in it is a valid path.

    Raises:
        ValueError: it is not valid JSON, is nested too deeply, or a string contains NUL or cannot be encoded.
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
        if b"\0" in os.fsencode(value):  # os.fsencode raises UnicodeEncodeError, a ValueError
            raise ValueError("a NUL character")
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key)
            _check_strings(item)
