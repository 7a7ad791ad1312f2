"""Open paths below a directory descriptor with openat2(2), and identify what a descriptor refers to.

The sandbox controls the content of its root, so a path below it is opened once, by :func:`open_in_root`, which cannot leave the
root. All later calls take that descriptor. The descriptors are O_PATH; the callers own and close them.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.kernel import _libc, constants

# openat2(2) fails with EAGAIN if something on the machine is renamed during the walk. systemd tries as often.
_EAGAIN_TRIES = 128

# Bytes of a path that are given to one call; it takes up to 4095 (limits.h, PATH_MAX).
_PART = 4000


def open_in_root(root_fd: int, path: str, *, directory: bool = False, links: bool = True) -> int:
    """Open *path*, absolute or relative, as a process with the root *root_fd* resolves it.

    Symbolic links and ``..`` are followed but stay below the root (RESOLVE_IN_ROOT); magic links of /proc are refused. Mounts
    are crossed: the topmost one at *path* is opened. Without *links* a symbolic link is refused.

    Raises:
        OSError: ENOENT; ENOTDIR (with *directory* for anything else as well); ELOOP (too many links); EXDEV (a magic link).
    """
    resolve = constants.RESOLVE_IN_ROOT | (0 if links else constants.RESOLVE_NO_SYMLINKS)
    return _open_path(root_fd, path, resolve, directory=directory)


def open_beneath(top_fd: int, path: str, *, directory: bool = False) -> int:
    """Open the relative *path* below the directory *top_fd*; mounts are crossed, and a path that leads out is refused.

    Raises:
        OSError: EXDEV for a symbolic link or ``..`` that leads out; else as :func:`open_in_root`.
    """
    return _open_path(
        top_fd, path, constants.RESOLVE_BENEATH | constants.RESOLVE_NO_MAGICLINKS, directory=directory
    )


def open_within(top_fd: int, path: str) -> int:
    """Open the directory at the relative *path* below the directory *top_fd*, without following links or crossing mounts.

    Raises:
        OSError: ELOOP for a link; EXDEV for a mount or ``..`` that leads out; ENOENT, ENOTDIR.
    """
    resolve = constants.RESOLVE_BENEATH | constants.RESOLVE_NO_SYMLINKS | constants.RESOLVE_NO_XDEV
    return _open_path(top_fd, path, resolve, directory=True)


def open_directory_beneath(top_fd: int, path: bytes) -> int:
    """Open the directory at the relative *path*, of any length, below the directory *top_fd*; b"" is that directory itself.

    Mounts are crossed. Each component must be a real directory.

    Raises:
        OSError: ELOOP for a symbolic link; EXDEV for ``..`` that leads out; ENOENT, ENOTDIR, EACCES.
    """
    resolve = constants.RESOLVE_BENEATH | constants.RESOLVE_NO_SYMLINKS | constants.RESOLVE_NO_MAGICLINKS
    fd = _open_path(top_fd, ".", resolve, directory=True)
    rest = path
    while rest:
        cut = len(rest) if len(rest) <= _PART else rest.rfind(b"/", 0, _PART + 1)
        part, rest = (rest, b"") if cut <= 0 else (rest[:cut], rest[cut + 1 :])
        try:
            inner = _open_path(fd, os.fsdecode(part), resolve, directory=True)
        finally:
            os.close(fd)
        fd = inner
    return fd


def open_real(path: str, *, directory: bool = False) -> int:
    """Open the absolute *path*, which was resolved before and therefore must have no symbolic links.

    Raises:
        OSError: ELOOP if a symbolic link has been put there since.
    """
    return _open_path(constants.AT_FDCWD, path, constants.RESOLVE_NO_SYMLINKS, directory=directory)


def _open_path(top_fd: int, path: str, resolve: int, *, directory: bool) -> int:
    flags = os.O_PATH | (os.O_DIRECTORY if directory else 0)
    for _ in range(_EAGAIN_TRIES - 1):
        try:
            return _libc.openat2(top_fd, path, flags, 0, resolve)
        except BlockingIOError:
            continue
    return _libc.openat2(top_fd, path, flags, 0, resolve)


def path_of(fd: int) -> str:
    """Return the path of *fd* from /proc/self/fd, for messages."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"


def mount_id(fd: int) -> int:
    """Return the id, as in mountinfo, of the mount that *fd* was opened through; proc_pid_fdinfo(5)."""
    # Not "ascii": Python would import that codec, and process 1 must not import from the sandbox's files.
    with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.ENODATA, "no mnt_id in fdinfo", path_of(fd))


def is_directory(fd: int) -> bool:
    """Return whether *fd* refers to a directory."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)
