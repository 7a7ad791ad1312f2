"""Open the run directory of one user, which contains files that concern this machine alone and that no program may access.

    RUN/key         32 random bytes, the secret for the digests of cached files
    RUN/lock, run/  the directories of runs (sandbox/state/directory.py)

Its path is `SANDBOX_RUN_DIR`, or /var/tmp/sandbox-UID, which is on a local file system and survives a logout. It is used only if
it is a directory of this user with mode 0700. A symbolic link is refused, because any user can create one in /var/tmp. If it
cannot be used, the directories of runs are in the state directory, and there is no key.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress

from sandbox.state.trusted_files import open_trusted

_KEY = "key"
_KEY_BYTES = 32
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def default_path(environ: Mapping[str, str], uid: int) -> str:
    """Return the path of the run directory of the user *uid*, without checking it."""
    chosen = environ.get("SANDBOX_RUN_DIR")
    return os.path.abspath(chosen) if chosen else f"/var/tmp/sandbox-{uid}"


def prepare(path: str, warn: Callable[[str], None]) -> tuple[str | None, bytes | None]:
    """Create the run directory *path* if it is missing; return the path and its key, None for each that is unavailable.

    *warn* receives a message if the directory cannot be used.
    """
    directory = open_run_directory(path)
    if directory is None:
        warn(
            f"run directory {path} {why_unusable(path)}: locks and writable layers are stored in the state directory instead; set SANDBOX_RUN_DIR to another directory"
        )
        return None, None
    try:
        return path, read_key(directory)
    finally:
        os.close(directory)


def open_run_directory(path: str) -> int | None:
    """Open the run directory *path*, creating it (mode 0700) if it is missing; None if it cannot be used."""
    with suppress(OSError):  # open(2) fails below if these fail
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    try:
        fd = os.open(path, _OPEN_DIR)
    except OSError:
        return None
    if (
        distrust_run_directory(os.fstat(fd)) is None
        and os.access(path, os.W_OK, effective_ids=True)
        and _has_locks(fd)
    ):
        return fd
    os.close(fd)
    return None


def distrust_run_directory(info: os.stat_result) -> str | None:
    """Return why a directory with the status *info* cannot be the run directory ("belongs to another user"), None if it can."""
    if info.st_uid != os.geteuid():
        return "belongs to another user"
    return "can be searched by other users" if info.st_mode & 0o077 else None


def why_unusable(path: str) -> str:
    """Return why the run directory *path* cannot be used, as a part of a message: "belongs to another user"."""
    try:
        info = os.lstat(path)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            return f"cannot be used: {(error.strerror or str(error)).lower()}"
        return "cannot be made"
    if stat.S_ISLNK(info.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(info.st_mode):
        return "is not a directory"
    if (reason := distrust_run_directory(info)) is not None:
        return reason
    return "does not support locks" if os.access(path, os.W_OK, effective_ids=True) else "is not writable"


def _has_locks(fd: int) -> bool:
    """Return whether the file system of the directory *fd* supports flock(2)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return True  # systemd-tmpfiles(8) has locked it briefly
    except OSError:
        return False
    return True


def read_key(directory: int) -> bytes | None:
    """Return the key in the run directory open as *directory*, creating it if missing; None if that fails."""
    try:
        return _read(directory) or _make(directory)
    except OSError:
        return None


def _read(directory: int) -> bytes | None:
    opened = open_trusted(_KEY, dir_fd=directory)
    if opened is None:
        return None
    fd, info = opened
    with open(fd, "rb") as file:
        key = file.read(_KEY_BYTES + 1)
    return key if len(key) == _KEY_BYTES and info.st_nlink == 1 and not info.st_mode & 0o077 else None


def _make(directory: int) -> bytes:
    """Replace the key file by a new key.

    If two starts do this at the same time, the later key stays. Files that the other start cached fail verification and are
    created again.
    """
    new = f"{_KEY}.{os.getpid()}.new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)  # left by a killed process that had this pid
    key = os.urandom(_KEY_BYTES)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(key)
        os.rename(new, _KEY, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise
    return key
