"""Let system calls fail on request of a test, as on a full or broken disk, or end the process
before a call.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Any

import pytest

from unionfs import _libc

#: Calls that change the disk.
_CHANGING = (
    "chmod chown copy_file_range fdatasync fsync ftruncate link mkdir mknod pwrite removexattr rename rmdir "
    "setxattr symlink unlink utime write"
).split()
#: Calls that only read. They do not fail on a full disk, but on a broken one.
_READING = "fstat getxattr listdir listxattr lseek pread readlink scandir stat".split()
_LIBC_CHANGING = ("renameat2", "link_fd", "fallocate")


class Faults:
    """Counts calls, and lets one call, or all calls from one on, fail."""

    def __init__(
        self, fails_at: int, fail: Callable[[], None], *, reading: bool = False, lasting: bool = False
    ) -> None:
        """Call *fail*, which raises or ends the process, instead of the call number *fails_at*, counted from 1.

        Args:
            fails_at: the number of the call.
            fail: called instead.
            reading: also count calls that only read.
            lasting: all later calls fail, too.
        """
        self.names: list[str] = []
        self._fails_at = fails_at
        self._fail = fail
        self._reading = reading
        self._lasting = lasting

    @property
    def reached(self) -> bool:
        """Return whether the call that had to fail was made."""
        return len(self.names) >= self._fails_at

    @property
    def call(self) -> str:
        """Return the name of the call that failed, for messages."""
        return f"call {self._fails_at}, {self.names[self._fails_at - 1]}"

    def _count(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self._fails_at or (self._lasting and self.reached):
            self._fail()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the functions for system calls."""
        for name in (*_CHANGING, *(_READING if self._reading else ())):
            self._wrap(monkeypatch, os, name)
        for name in _LIBC_CHANGING:
            self._wrap(monkeypatch, _libc, name)
        self._wrap(monkeypatch, fcntl, "ioctl")
        really_open = os.open

        def opening(path: bytes, flags: int, *args: Any, **kwargs: Any) -> int:
            makes = flags & (os.O_CREAT | os.O_TRUNC) or flags & os.O_TMPFILE == os.O_TMPFILE
            if self._reading or makes:
                self._count("open")
            return really_open(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", opening)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        really = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count(name)
            return really(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)


def failing_with(number: int) -> Callable[[], None]:
    """Return a function that raises the errno *number*."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail
