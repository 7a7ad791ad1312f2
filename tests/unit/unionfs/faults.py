"""System calls that fail when a test wants them to, as on a full disk, or that the process does not live to make."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import Any

import pytest

from unionfs import _libc

#: What changes something on disk. Reading never fails here: a test of ENOSPC is not one of EIO.
_CHANGING = (
    "chmod chown copy_file_range fdatasync fsync ftruncate link mkdir mknod pwrite removexattr rename rmdir "
    "setxattr symlink unlink utime"
).split()


class Faults:
    """Counts calls that change something, and lets one of them fail."""

    def __init__(self, fails_at: int, fail: Callable[[], None]) -> None:
        """Call *fail*, which raises or ends the process, in the place of the call *fails_at*, counted from 1."""
        self.names: list[str] = []
        self._fails_at = fails_at
        self._fail = fail

    @property
    def reached(self) -> bool:
        """Whether the call that had to fail was made at all."""
        return len(self.names) >= self._fails_at

    def _count(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self._fails_at:
            self._fail()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand between the program and the system calls."""
        for name in _CHANGING:
            self._wrap(monkeypatch, os, name)
        for name in ("renameat2", "link_fd"):
            self._wrap(monkeypatch, _libc, name)
        self._wrap(monkeypatch, fcntl, "ioctl")
        really_open = os.open

        def opening(path: bytes, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self._count("open")
            return really_open(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", opening)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        really = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count(name)
            return really(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)


def disk_full() -> None:
    """Raise what a file system says that has no room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
