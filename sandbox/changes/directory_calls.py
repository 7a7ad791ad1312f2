"""System calls on open directories of the host that HostTree (sandbox/changes/host_tree.py) needs for its promises."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable

from sandbox.changes.host_attributes import proc_path
from sandbox.images.attributes import ACLS
from sandbox.kernel.trees import exchange_at, rename_to_new_name
from unionfs._stdlib.hashlib import sha256
from unionfs._stdlib.typing import TypeVar

T = TypeVar("T")

#: Receives the status of the object that is about to be replaced, None if there is none. It raises to keep that object.
Check = Callable[[os.stat_result | None], None]

TEMPORARY_SUFFIX = b".sandbox-new"
_MAX_NAME = 255
_DIGITS = 16
_NO_XATTR = (errno.ENODATA, errno.ENOTSUP)


def temporary_name(name: bytes) -> bytes:
    """Return the name under which *name* is prepared, in the same directory."""
    made = b"." + name + TEMPORARY_SUFFIX
    if len(made) <= _MAX_NAME:
        return made
    digest = sha256(name).hexdigest()[:_DIGITS].encode()
    return b".%s.%s%s" % (name[: _MAX_NAME - _DIGITS - 2 - len(TEMPORARY_SUFFIX)], digest, TEMPORARY_SUFFIX)


def lstat_at(parent: int, name: bytes) -> os.stat_result | None:
    """Return the status of *name* in the directory *parent*; None if there is none."""
    try:
        return os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return None


def move(
    source_fd: int, source: bytes, target_fd: int, target: bytes, check: Check | None, *, replace: bool
) -> None:
    """Rename *source* to *target*, also if one of them is a directory and the other is not."""
    old = lstat_at(target_fd, target)
    if check is not None:
        check(old)
    if old is None or not replace:
        rename_to_new_name(source_fd, source, target_fd, target)
        return
    new = os.lstat(source, dir_fd=source_fd)
    if os.path.samestat(old, new):
        # Two names of one file, of which rename(2) would leave both.
        os.unlink(source, dir_fd=source_fd)
        return
    is_directory = stat.S_ISDIR(old.st_mode)
    if is_directory == stat.S_ISDIR(new.st_mode):
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        return
    if is_directory and not may_be_empty(target_fd, target):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    remove = os.rmdir if is_directory else os.unlink
    try:
        exchange_at(source_fd, source, target_fd, target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        remove(target, dir_fd=target_fd)
        rename_to_new_name(source_fd, source, target_fd, target)
        return
    try:
        remove(source, dir_fd=source_fd)
    except OSError:
        exchange_at(source_fd, source, target_fd, target)
        raise


def may_be_empty(parent: int, name: bytes) -> bool:
    """Return whether the directory *name* has no entries, or cannot be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except PermissionError:
        return True
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)


def copy_acl(parent: int, name: bytes, fd: int, mode: int) -> None:
    """Give the file *fd* the access control list of the regular file *name*, if there is one, and then *mode*."""
    try:
        old = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISREG(os.fstat(old).st_mode):
            return
        try:
            os.setxattr(fd, ACLS[0], os.getxattr(proc_path(old), ACLS[0]))
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise
            _remove_acl(fd)
    finally:
        os.close(old)
    os.chmod(fd, mode)


def _remove_acl(fd: int) -> None:
    try:
        os.removexattr(fd, ACLS[0])
    except OSError as error:
        if error.errno not in _NO_XATTR:
            raise


def granted(fds: Iterable[int], call: Callable[[], T]) -> T:
    """Return the result of *call*; if a directory of *fds* forbids it to its owner, make it writable meanwhile."""
    try:
        return call()
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise
        closed = [(fd, mode) for fd in fds if (mode := _closed_mode(fd)) is not None]
        if not closed:
            raise
    restore = []
    try:
        for fd, mode in closed:
            os.chmod(proc_path(fd), mode | stat.S_IRWXU)
            restore.append((fd, mode))
        return call()
    finally:
        for fd, mode in restore:
            os.chmod(proc_path(fd), mode)


def _closed_mode(fd: int) -> int | None:
    """Return the mode of the directory *fd* if its owner, this user, may not read, write and enter it; otherwise None."""
    info = os.fstat(fd)
    mode = stat.S_IMODE(info.st_mode)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or mode & stat.S_IRWXU == stat.S_IRWXU:
        return None
    # chmod(2) would clear the set-group-ID bit for a user who is not in the group.
    if mode & stat.S_ISGID and info.st_gid not in {os.getegid(), *os.getgroups()}:
        return None
    return mode
