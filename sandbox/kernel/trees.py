"""Making and removing trees by descriptors, whatever is there: following nothing, at any depth, with two more descriptors.

Two ways of renaming that not every file system has, and writing what was made to the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable

from sandbox.kernel import _libc

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX = b".removed-"


def exchange(one: str, other: str) -> None:
    """Let the paths *one* and *other* trade what they name, without a moment in between; rename(2), RENAME_EXCHANGE.

    Raises:
        OSError: EINVAL where the file system cannot.
    """
    _libc.renameat2(one, other, _libc.RENAME_EXCHANGE)


def rename_leaving_whiteout(source: str, target: str) -> None:
    """Rename *source* to *target*, leaving a whiteout (a character device 0:0) there; rename(2), RENAME_WHITEOUT.

    Raises:
        OSError: EINVAL where the file system cannot.
    """
    _libc.renameat2(source, target, _libc.RENAME_WHITEOUT)


def synchronize_file_system(fd: int) -> None:
    """Write everything on the file system of the open file *fd* to its disk: a whole tree of files takes one call.

    Raises:
        OSError: EIO, ENOSPC or EDQUOT, something could not be written (Linux 5.8 and later report that).
    """
    _libc.syncfs(fd)


def synchronize_directory(path: str) -> None:
    """Write the names in the directory *path* to its disk, where its file system can."""
    fd = os.open(path, _OPEN_DIR)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems have no such thing for directories
    finally:
        os.close(fd)


def make_directories(top_fd: int, names: Iterable[str]) -> int:
    """Make the directories *names*, each in the one before it and the first in *top_fd*, where they are missing.

    Returns a descriptor (O_PATH) of the last, or of *top_fd* without names.

    Raises:
        OSError: ENOTDIR for something else, a symbolic link as well, in the place of one.
    """
    at = os.dup(top_fd)
    try:
        for name in names:
            try:
                os.mkdir(name, 0o755, dir_fd=at)
            except FileExistsError:
                pass
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(name, flags, dir_fd=at)
            os.close(at)
            at = below
    except BaseException:
        os.close(at)
        raise
    return at


def disk_usage(top_fd: int) -> int:
    """Return the bytes of disk space of the directory *top_fd* and all below it on its file system, a file of many names once.

    At any depth with one more descriptor: the way up is "..", and a directory that somebody moves meanwhile ends the count there.

    Raises:
        OSError: EACCES where a directory may not be read.
    """
    top = os.fstat(top_fd)
    total = top.st_blocks * 512
    linked: set[int] = set()
    fd = os.open(b".", _OPEN_DIR, dir_fd=top_fd)
    try:
        # Of each directory on the way: its identity, and the names of those in it that are left.
        way: list[tuple[int, list[bytes]]] = [(top.st_ino, [])]
        while True:
            with os.scandir(fd) as found:
                for entry in found:
                    name = os.fsencode(entry.name)
                    try:
                        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if info.st_dev != top.st_dev:
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        way[-1][1].append(name)
                    elif info.st_nlink > 1:
                        if info.st_ino in linked:
                            continue
                        linked.add(info.st_ino)
                    total += info.st_blocks * 512
            while True:
                while not way[-1][1]:
                    way.pop()
                    if not way:
                        return total
                    above = os.open(b"..", _OPEN_DIR, dir_fd=fd)
                    os.close(fd)
                    fd = above
                    if os.fstat(fd).st_ino != way[-1][0]:
                        return total
                try:
                    below = os.open(way[-1][1].pop(), _OPEN_DIR, dir_fd=fd)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                break
            os.close(fd)
            fd = below
            way.append((os.fstat(fd).st_ino, []))
    finally:
        os.close(fd)


def remove_contents(top_fd: int, *, last: Collection[bytes] = ()) -> None:
    """Remove everything below the directory *top_fd*; of its entries those with a name of *last* as the last.

    Directories found inside are first moved up to the top, so that depth costs nothing; those that their
    owner may not enter are made accessible. A FileNotFoundError from a second remover at work is no error.

    Raises:
        OSError: EACCES, EPERM where the entries are another user's.
    """
    pending = sorted(_entries(top_fd), key=lambda entry: entry[0] not in last)
    # An earlier call that failed half-way has left such names.
    prefix = _PREFIX + os.urandom(4).hex().encode() + b"-"
    serial = 0
    while pending:
        name, is_directory = pending.pop()
        if not is_directory:
            _unlink(top_fd, name)
            continue
        try:
            os.chmod(name, stat.S_IRWXU, dir_fd=top_fd)
            fd = os.open(name, _OPEN_DIR, dir_fd=top_fd)
        except FileNotFoundError:
            continue
        try:
            for child, child_is_directory in _listed(fd):
                if child_is_directory:
                    serial += 1
                    moved = prefix + b"%d" % serial
                    # A directory must be writable for its ".." to change (rename(2), EACCES).
                    os.chmod(child, stat.S_IRWXU, dir_fd=fd)
                    os.rename(child, moved, src_dir_fd=fd, dst_dir_fd=top_fd)
                    pending.append((moved, True))
                else:
                    _unlink(fd, child)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=top_fd)


def _entries(fd: int) -> list[tuple[bytes, bool]]:
    """Return what is in the directory *fd*, which may be open in any way, and its position stays."""
    listing = os.open(b".", _OPEN_DIR, dir_fd=fd)
    try:
        return _listed(listing)
    finally:
        os.close(listing)


def _listed(fd: int) -> list[tuple[bytes, bool]]:
    """Return what is in the directory *fd*, just opened for reading."""
    with os.scandir(fd) as found:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found]


def _unlink(fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        pass
