"""System calls that fail when a test wants them to, as on a full or a broken disk, or that the process does not
live to make.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Any

import pytest

from unionfs import _libc

#: What changes something on disk.
_CHANGING = (
    "chmod chown copy_file_range fdatasync fsync ftruncate link mkdir mknod pwrite removexattr rename rmdir "
    "setxattr symlink unlink utime write"
).split()
#: What asks something. A full disk does not fail these, a broken one does.
_READING = "fstat getxattr listdir listxattr lseek pread readlink scandir stat".split()
_LIBC_CHANGING = ("renameat2", "link_fd", "fallocate")


class Faults:
    """Counts calls and lets one of them fail, or all from one on."""

    def __init__(
        self, fails_at: int, fail: Callable[[], None], *, reading: bool = False, lasting: bool = False
    ) -> None:
        """Call *fail*, which raises or ends the process, in the place of the call *fails_at*, counted from 1.

        Args:
            fails_at: the number of the call.
            fail: what it does instead.
            reading: count calls that only ask, too.
            lasting: all calls from that one on fail.
        """
        self.names: list[str] = []
        self._fails_at = fails_at
        self._fail = fail
        self._reading = reading
        self._lasting = lasting

    @property
    def reached(self) -> bool:
        """Whether the call that had to fail was made at all."""
        return len(self.names) >= self._fails_at

    @property
    def call(self) -> str:
        """The call that failed, for messages."""
        return f"call {self._fails_at}, {self.names[self._fails_at - 1]}"

    def _count(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self._fails_at or (self._lasting and self.reached):
            self._fail()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand between the program and the system calls."""
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
    """Return what a call does that ends with errno *number*."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail
