"""A lock between tests that have the kernel drop its caches and tests that need them: runs of several accounts go on at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


def dropped() -> AbstractContextManager[None]:
    """Return the lock of a test that has the kernel drop dentries, inodes or pages of the whole machine."""
    return _locked(fcntl.LOCK_EX)


def needed() -> AbstractContextManager[None]:
    """Return the lock of a test that fails where the kernel drops what it has cached of a file system that does not answer."""
    return _locked(fcntl.LOCK_SH)


@contextmanager
def _locked(kind: int) -> Iterator[None]:
    # The root directory is what every account can open, and nobody else locks.
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)
