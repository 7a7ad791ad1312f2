"""Read a file, and replace its content atomically.

The new content is written to a temporary file beside the file, synchronised (fsync(2)), and renamed over it (rename(2)).
A process that opens the file, also after a crash, sees the old content or the new one. The new file gets the mode, owner,
access control lists and other extended attributes of the old one. A symlink stays; its target is replaced.

A file with several hard links is refused before anything is written, because the other names would keep the old content.
If the process is killed before the rename, a file named `.NAME.*.tmp` remains.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.errors import EditError
from sandbox.spec.load import MAX_FILE_SIZE, STDIN
from unionfs._stdlib.dataclasses import dataclass, field

_NEW_FILE_MODE = 0o666  # open(2) removes the bits of the umask


@dataclass(frozen=True, slots=True)
class Original:
    """A file as it was read: its name as the user gave it, the path without symlinks, the content and the result of fstat(2)."""

    name: str
    path: str
    data: bytes = field(repr=False)
    status: os.stat_result = field(repr=False)


def read_original(name: str) -> Original:
    """Read the file *name*, for a later `replace`.

    Raises EditError for standard input, and for a file that is missing, unreadable, not regular, or too large.
    """
    if name == STDIN:
        raise EditError(
            "standard input cannot be changed in place", hint="give the path of an environment file"
        )
    try:
        path = os.path.realpath(name, strict=True)
        status, data = _read(path, name)
    except FileNotFoundError:
        raise EditError(
            f"{name}: no such file", hint=f"`sandbox init {name}` writes one to start from"
        ) from None
    except (OSError, ValueError) as error:
        raise EditError(f"{name}: cannot be read: {_reason(error)}") from None
    if len(data) > MAX_FILE_SIZE:
        raise EditError(f"{name}: the file is larger than 1 MiB", hint="give the path of an environment file")
    return Original(name, path, data, status)


def _read(path: str, name: str) -> tuple[os.stat_result, bytes]:
    # O_NONBLOCK: open(2) would block on a FIFO without a writer. For a regular file it has no effect.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise EditError(f"{name}: is {what}", hint="give the path of an environment file")
        with open(descriptor, "rb", closefd=False) as file:
            return status, file.read(MAX_FILE_SIZE + 1)
    finally:
        os.close(descriptor)


def replace(original: Original, data: bytes) -> None:
    """Replace the content of *original* by *data*.

    Raises EditError when another process has changed the file since it was read, when it has several hard links, when it
    is read-only, or when the new content cannot be written. The file is unchanged then.
    """
    name, path = original.name, original.path
    if not _is_unchanged(original):
        raise changed_meanwhile(name)
    check_replaceable(original)
    with _written_beside(name, path, data, like=original) as temporary, _locked(original):
        if not _is_unchanged(original):
            raise changed_meanwhile(name)
        try:
            os.rename(temporary, path)
        except OSError as error:
            raise _unwritable(name, error) from None
    _synchronise_directory(path)


def create(name: str, data: bytes) -> None:
    """Write *data* to the new file *name*. Raises EditError when the file exists, or when it cannot be written."""
    with _written_beside(name, name, data, like=None) as temporary:
        try:
            os.link(temporary, name)  # unlike rename(2), link(2) never replaces an existing file
        except FileExistsError:
            raise file_exists(name) from None
        except OSError as error:
            raise _unwritable(name, error) from None
    _synchronise_directory(name)


def check_replaceable(original: Original) -> None:
    """Raise EditError if `replace` would refuse *original* as it is now."""
    name, path = original.name, original.path
    if original.status.st_nlink > 1:
        raise EditError(
            f"{name}: has {original.status.st_nlink} names (hard links), and the others would keep the old content",
            hint="change it with an editor that writes in place, or remove the other hard links",
        )
    if not os.access(path, os.W_OK, effective_ids=True):
        raise EditError(f"{name}: is read-only", hint=f"make it writable: chmod u+w {name}")
    directory = os.path.dirname(path)
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise EditError(
            f"{name}: its directory {directory} is read-only, but the new content is first written to a new file in it",
            hint="make the directory writable, or copy the file elsewhere",
        )


def file_exists(name: str) -> EditError:
    """Return the error for a new file *name* that exists already."""
    return EditError(f"{name}: exists already", hint="replace it with --force, or give another name")


def changed_meanwhile(name: str) -> EditError:
    """Return the error for a file that another process has changed since it was read."""
    return EditError(
        f"{name}: was changed by another process in the meantime",
        hint="check the file, and repeat the command",
    )


@contextmanager
def _written_beside(name: str, path: str, data: bytes, *, like: Original | None) -> Iterator[str]:
    """Write *data* to a temporary file beside *path*, and yield its path. At the end, remove the file unless it was renamed."""
    directory, base = os.path.split(path)
    temporary = os.path.join(directory, f".{base}.{os.urandom(6).hex()}.tmp")
    try:
        descriptor = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            _NEW_FILE_MODE if like is None else 0o600,
        )
    except OSError as error:
        raise _unwritable(name, error) from None
    try:
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if like is not None:
                    _inherit(file.fileno(), like)
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(name, error) from None
        yield temporary
    finally:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass


@contextmanager
def _locked(original: Original) -> Iterator[None]:
    """Lock the file that is replaced with flock(2), so that only one of two commands that have read it replaces it.

    Raises EditError when another command has the lock. On a file system without locks, nothing is locked.
    """
    import fcntl

    try:
        descriptor = os.open(original.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise changed_meanwhile(original.name) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise changed_meanwhile(original.name) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def _inherit(descriptor: int, original: Original) -> None:
    """Give the file *descriptor* the owner, attributes and mode of *original*, as far as the caller has permission."""
    mode = stat.S_IMODE(original.status.st_mode)
    same_group = True
    try:
        os.fchown(descriptor, original.status.st_uid, original.status.st_gid)
    except OSError:
        try:
            os.fchown(descriptor, -1, original.status.st_gid)
        except OSError:
            same_group = False
    if same_group:
        _copy_attributes(original.path, descriptor)
    else:
        mode &= ~stat.S_IRWXG  # the rights of the old group must not go to another group
    os.fchmod(descriptor, mode)


def _copy_attributes(source: str, target: int) -> None:
    """Copy extended attributes, including access control lists (acl(5)), if both file systems support them."""
    try:
        names = os.listxattr(source)
    except OSError:
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            pass  # security.* and trusted.* need privileges


def _is_unchanged(original: Original) -> bool:
    try:
        now = os.stat(original.name)
    except OSError:
        return False
    return _identity(now) == _identity(original.status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _synchronise_directory(path: str) -> None:
    """Synchronise the directory of *path*, so that the new name survives a crash. The content is on disk already."""
    try:
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # the directory may be writable and not readable
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems do not support fsync(2) of directories
    finally:
        os.close(descriptor)


def _unwritable(name: str, error: OSError) -> EditError:
    hints = {
        errno.ENOSPC: "free some space on its file system (see `df`)",
        errno.EDQUOT: "free some space: the disk quota is used up",
        errno.ENOENT: "create its directory first",
    }
    return EditError(f"{name}: cannot be written: {_reason(error)}", hint=hints.get(error.errno or 0))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "it is not a path: it contains a NUL character"
