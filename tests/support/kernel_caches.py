"""A lock between tests that drop the kernel's caches and tests that need them, in runs of several accounts at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


def dropped() -> AbstractContextManager[None]:
    """Return the lock of a test that drops dentries, inodes or pages of the whole machine."""
    return _locked(fcntl.LOCK_EX)


def needed() -> AbstractContextManager[None]:
    """Return the lock of a test that needs the cached data of a file system whose server is stopped."""
    return _locked(fcntl.LOCK_SH)


@contextmanager
def _locked(kind: int) -> Iterator[None]:
    # Every account can open the root directory, and no other program locks it.
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)
