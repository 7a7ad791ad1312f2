"""Create and remove directory trees by descriptors, without following links, at any depth, with two more descriptors.

The module also has the kinds of rename that not every file system supports, and functions that flush to disk.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable

from sandbox.kernel import _libc, constants

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX = b".removed-"


def exchange(one: str, other: str) -> None:
    """Atomically exchange the paths *one* and *other*; rename(2), RENAME_EXCHANGE.

    Raises:
        OSError: EINVAL if the file system does not support it.
    """
    _libc.renameat2(one, other, constants.RENAME_EXCHANGE)


def exchange_at(source_fd: int, source: bytes, target_fd: int, target: bytes) -> None:
    """Exchange the names *source* and *target* in the directories *source_fd* and *target_fd*, as :func:`exchange` does.

    Raises:
        OSError: EINVAL if the file system does not support it.
    """
    names = os.fsdecode(source), os.fsdecode(target)
    _libc.renameat2(*names, constants.RENAME_EXCHANGE, source_fd=source_fd, target_fd=target_fd)


def rename_to_new_name(source_fd: int, source: bytes, target_fd: int, target: bytes) -> None:
    """Rename *source* in the directory *source_fd* to *target* in *target_fd*, which must not exist.

    On a file system without RENAME_NOREPLACE (rename(2)), an object that appears during the call is replaced.

    Raises:
        OSError: EEXIST if *target* exists.
    """
    names = os.fsdecode(source), os.fsdecode(target)
    try:
        _libc.renameat2(*names, constants.RENAME_NOREPLACE, source_fd=source_fd, target_fd=target_fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        try:
            os.lstat(target, dir_fd=target_fd)
        except FileNotFoundError:
            os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None


def rename_leaving_whiteout(source: str, target: str) -> None:
    """Rename *source* to *target* and leave a whiteout (character device 0:0) at *source*; rename(2), RENAME_WHITEOUT.

    Raises:
        OSError: EINVAL if the file system does not support it.
    """
    _libc.renameat2(source, target, constants.RENAME_WHITEOUT)


def synchronize_file_system(fd: int) -> None:
    """Write the whole file system of the open file *fd* to its disk: one call covers a whole tree of files.

    Raises:
        OSError: EIO, ENOSPC or EDQUOT if something could not be written (reported since Linux 5.8).
    """
    _libc.syncfs(fd)


def synchronize_directory(path: str) -> None:
    """Write the entries of the directory *path* to disk, if its file system supports that."""
    fd = os.open(path, _OPEN_DIR)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems do not support fsync(2) on directories
    finally:
        os.close(fd)


def make_directories(top_fd: int, names: Iterable[str]) -> int:
    """Create the missing directories of the path *names*, of which the first is in *top_fd*.

    Returns an O_PATH descriptor of the last directory, or of *top_fd* if *names* is empty.

    Raises:
        OSError: ENOTDIR if one of them is something else, such as a symbolic link.
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
    """Return the disk space in bytes of the directory *top_fd* and everything below it; a file with several links counts once.

    Other file systems are left out. The function works at any depth with one more descriptor, because it goes up by "..". If a
    directory is moved meanwhile, the count ends there.

    Raises:
        OSError: EACCES if a directory is not readable.
    """
    top = os.fstat(top_fd)
    total = top.st_blocks * 512
    linked: set[int] = set()
    fd = os.open(b".", _OPEN_DIR, dir_fd=top_fd)
    try:
        # For each directory on the way: its inode number, and the names of its subdirectories that are left.
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
    """Remove everything below the directory *top_fd*; entries with a name in *last* are removed last.

    Each subdirectory is first moved up to *top_fd*, so that depth does not matter. Directories that their owner may not enter are
    made accessible. FileNotFoundError is ignored: another process may remove the same tree.

    Raises:
        OSError: EACCES or EPERM if the entries belong to another user.
    """
    pending = sorted(_entries(top_fd), key=lambda entry: entry[0] not in last)
    # The random part avoids names that an earlier, failed call has left.
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
    """Return the entries of the directory *fd*, which may be open with any flags; its file offset does not change."""
    listing = os.open(b".", _OPEN_DIR, dir_fd=fd)
    try:
        return _listed(listing)
    finally:
        os.close(listing)


def _listed(fd: int) -> list[tuple[bytes, bool]]:
    """Return the entries of the directory *fd*, just opened for reading."""
    with os.scandir(fd) as found:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found]


def _unlink(fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        pass
