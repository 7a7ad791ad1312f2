"""The run directory of one user: files that concern this machine alone, and that no program may reach.

    RUN/key         32 random bytes, with which the digests of kept files are made
    RUN/lock, run/  the directories of runs (sandbox/state/directory.py)

It is `SANDBOX_RUN_DIR`, else /var/tmp/sandbox-UID: on a local file system, where it survives a logout. It is used only if it is a
directory of this user with mode 0700. A symbolic link is refused, as any user can make one in /var/tmp. Where it cannot be used,
the state directory has the directories of runs, and there is no key.
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
    """Return where the run directory of the user *uid* is; whether it exists or can be used is not known."""
    chosen = environ.get("SANDBOX_RUN_DIR")
    return os.path.abspath(chosen) if chosen else f"/var/tmp/sandbox-{uid}"


def prepare(path: str, warn: Callable[[str], None]) -> tuple[str | None, bytes | None]:
    """Make the run directory *path* unless it is there; returns the path and its key, None for what there cannot be.

    *warn* is told if it cannot be used.
    """
    directory = open_run_directory(path)
    if directory is None:
        warn(
            f"run directory {path} {why_unusable(path)}: locks and writable layers are kept in the state directory instead; "
            "SANDBOX_RUN_DIR names another one"
        )
        return None, None
    try:
        return path, read_key(directory)
    finally:
        os.close(directory)


def open_run_directory(path: str) -> int | None:
    """Open the run directory *path*, making it (mode 0700) where it is missing; None where it cannot be used."""
    with suppress(OSError):  # opening it tells
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
    """Return why a directory with the status *info* is not used as the run directory ("is another user's"), None where it is."""
    if info.st_uid != os.geteuid():
        return "is another user's"
    return "can be entered by others" if info.st_mode & 0o077 else None


def why_unusable(path: str) -> str:
    """Return why the run directory *path* cannot be used, for people: "is another user's"."""
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
    return "cannot hold locks" if os.access(path, os.W_OK, effective_ids=True) else "cannot be written"


def _has_locks(fd: int) -> bool:
    """Tell whether the file system of the directory *fd* has flock(2)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return True  # systemd-tmpfiles has it for a moment
    except OSError:
        return False
    return True


def read_key(directory: int) -> bytes | None:
    """Return the key in the run directory that is open as *directory*, made where it is missing; None where there can be none."""
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
    """Put a new key in place of what is there.

    If two starts do this at once, the later key stays. Files that the other start keeps do not verify and are made again.
    """
    new = f"{_KEY}.{os.getpid()}.new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)  # of a process that had this pid and was killed
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
