"""The place of the state directory, and results that are kept there because making them anew takes longer than a start has.

    STATE/NAME/KEY      a line with a digest, and the content

A kept file is used only if it is a file of this user that no other user may write, and its digest was made with the secret of the
run directory (sandbox/run_directory.py): write access to the state directory is not enough to make one. KEY names all that the
content depends on, so no file is ever out of date. The oldest files make room for new ones.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from sandbox.errors import StateError
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import blake2b
    from hmac import compare_digest
else:
    # Without OpenSSL, which hashlib and hmac load: milliseconds of each start.
    try:
        from _blake2 import blake2b
        from _operator import _compare_digest as compare_digest
    except ImportError:  # an interpreter that was built without
        from hashlib import blake2b
        from hmac import compare_digest

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def default_path(environ: Mapping[str, str], uid: int) -> str:
    """Return where the state is kept: /var/lib/sandbox for root, else below XDG_STATE_HOME (~/.local/state).

    Raises:
        StateError: an ordinary user has no home directory to keep it in.
    """
    if chosen := environ.get("SANDBOX_STATE_DIR"):
        return os.path.abspath(chosen)
    if uid == 0:
        return "/var/lib/sandbox"
    base = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if not base.startswith("/"):
        raise StateError(
            "there is no home directory to keep state in",
            hint="set HOME or SANDBOX_STATE_DIR to a directory of yours",
        )
    return os.path.join(base, "sandbox")


ELSEWHERE = "set SANDBOX_STATE_DIR to a directory of yours"
"""What to do where a state directory is of no use."""

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


class Shelf:
    """One directory of kept files, open."""

    def __init__(self, fd: int, secret: bytes) -> None:
        """Take *fd* over; see :meth:`open`."""
        self._fd = fd
        self._secret = secret

    @classmethod
    def open(cls, state_fd: int, name: str, *, secret: bytes) -> Shelf | None:
        """Open the shelf *name* of the state directory, made where it is missing; None where it cannot be trusted or made."""
        try:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=state_fd)
            fd = os.open(name, _OPEN_DIR, dir_fd=state_fd)
        except OSError:
            return None
        if distrust(os.fstat(fd)) is None:
            return cls(fd, secret)
        os.close(fd)
        return None

    def get(self, key: str, *, at_most: int) -> bytes | None:
        """Return what is kept as *key*; None if there is nothing that can be trusted, or more than *at_most* bytes."""
        opened = open_trusted(key, dir_fd=self._fd)
        if opened is None:
            return None
        fd, info = opened
        with open(fd, "rb") as file:
            if info.st_nlink != 1:
                return None
            whole = file.read(at_most + 128)
        head, _, content = whole.partition(b"\n")
        return content if compare_digest(head, self._digest(key, content)) else None

    def put(self, key: str, content: bytes, *, entries: int) -> None:
        """Keep *content* as *key*, and the last *entries* of all in any case.

        Raises:
            OSError: it cannot be kept; nothing is left of it.
        """
        temporary = f"{key}.{os.getpid()}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

        def opener(name: str, _flags: int) -> int:
            return os.open(name, flags, 0o600, dir_fd=self._fd)

        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._fd)  # of a process that had this pid and was killed
        try:
            with open(temporary, "wb", opener=opener) as file:
                file.write(self._digest(key, content) + b"\n" + content)
            os.rename(temporary, key, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._fd)
            raise
        self._make_room(entries)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def _make_room(self, entries: int) -> None:
        names = os.listdir(self._fd)
        if len(names) <= entries:
            return

        def written(name: str) -> int:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime_ns

        for name in sorted(names, key=written)[: len(names) - entries]:
            os.unlink(name, dir_fd=self._fd)

    def _digest(self, key: str, content: bytes) -> bytes:
        # With the key in it, one entry cannot stand for another. No file name has a NUL.
        digest = blake2b(key.encode() + b"\0" + content, digest_size=32, key=self._secret)
        return digest.hexdigest().encode()
