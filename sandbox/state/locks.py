"""Locks of the state: flock(2) on files, gone with the process that has them however it ends."""

from __future__ import annotations

import fcntl
import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.run_record import Lock

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def take(path: str, *, wait: bool) -> int | None:
    """Lock the file *path*, made where it is missing, for this process; returns a descriptor, None if another process has it.

    Raises:
        OSError: it cannot be opened or locked (ENOLCK).
    """
    return _flock(os.open(path, _FLAGS | os.O_CREAT, 0o600), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def claim(path: str) -> tuple[Lock, int]:
    """Lock the file *path* unless another process has it; returns what it was, and a descriptor where it was free, else -1.

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
    """Return what is known of the lock on the file *path*, and leave it as it is.

    Raises:
        OSError: it cannot be opened or locked (ENOLCK).
    """
    try:
        # Not blocking: what lies there may be a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    shared = _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    if shared is None:
        return "held"
    os.close(shared)
    return "free"


def has_name(fd: int, path: str) -> bool:
    """Tell whether the lock file that is open as *fd* is still the one at *path*: another process may have removed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def keep_from_ageing(path: str) -> int:
    """Open the directory *path* with a shared lock, for as long as the descriptor is open.

    systemd-tmpfiles(8) removes old files of /var/tmp, but nothing below a directory that is locked (tmpfiles.d(5), "Age").
    Where no lock can be had, nothing else depends on it.
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
    except BaseException:  # ENOLCK, or a signal that ends the start
        os.close(fd)
        raise
    return fd
