"""Lock files of the state by flock(2): the kernel releases the lock when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.run_record import Lock

#: flock(2) has no timeout.
_RETRY_SECONDS = 0.02
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def take(path: str, *, wait: bool) -> int | None:
    """Lock the file *path* exclusively, creating it if missing; return a descriptor, None if another process has the lock.

    Raises:
        OSError: it cannot be opened or locked (ENOLCK).
    """
    return _flock(os.open(path, _FLAGS | os.O_CREAT, 0o600), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextmanager
def exclusively_locked(directory: str) -> Iterator[None]:
    """Lock the state or run directory *directory* exclusively."""
    fd = take(os.path.join(directory, "lock"), wait=True)
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def created_and_locked(directory: str, name: str, *, seconds: float | None = None) -> Iterator[None]:
    """Lock the file *name* in *directory* exclusively, creating both if they are missing.

    Another process that has the lock may remove both, the lock last.

    Args:
        directory: has the file.
        name: of the file.
        seconds: how long to wait for another process that has the lock; None for any time.

    Raises:
        TimeoutError: another process still has the lock.
        OSError: they cannot be created or locked.
    """
    path = os.path.join(directory, name)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            fd = take(path, wait=deadline is None)
        except FileNotFoundError:
            continue  # the directory was removed meanwhile
        if fd is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process keeps it locked", path)
            time.sleep(_RETRY_SECONDS)
            continue
        if has_name(fd, path):
            break
        os.close(fd)
    try:
        yield
    finally:
        os.close(fd)


def claim(path: str) -> tuple[Lock, int]:
    """Lock the existing file *path* exclusively if it is free; return its former state, and a descriptor of the lock or -1.

    Raises:
        OSError: it cannot be opened or locked (ENOLCK).
    """
    try:
        fd = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return "missing", -1
    claimed = _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return ("held", -1) if claimed is None else ("free", claimed)


def probe(path: str) -> Lock:
    """Return the state of the lock on the file *path*, without keeping it.

    Raises:
        OSError: it cannot be opened or locked (ENOLCK).
    """
    try:
        # O_NONBLOCK: the file may be a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    shared = _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    if shared is None:
        return "held"
    os.close(shared)
    return "free"


def has_name(fd: int, path: str) -> bool:
    """Return whether the lock file open as *fd* is still the one at *path*: another process may have removed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def keep_from_ageing(path: str) -> int:
    """Open the directory *path* and keep a shared lock on it for as long as the descriptor is open.

    systemd-tmpfiles(8) removes old files of /var/tmp, but nothing below a locked directory (tmpfiles.d(5), "Age"). Nothing else
    depends on this lock, so a failure is ignored.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass
    return fd


def _flock(fd: int, operation: int) -> int | None:
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:  # ENOLCK, or the exception of a signal that ends the start
        os.close(fd)
        raise
    return fd
