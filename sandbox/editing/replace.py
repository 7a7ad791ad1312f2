"""A file is read, and replaced by another content in one step or not at all.

The new content is written beside the file, synchronised, and renamed over it (rename(2)): whoever opens the file, and
whoever finds it after a crash, sees the old content or the new one. Mode, owner, access control lists and other extended
attributes go over to the new file. A symlink stays; what it leads to is replaced.

What cannot be done so is refused before anything is written: another name of the file (a hard link) would keep the old
content. A kill between the two steps leaves a file named `.NAME.*.tmp` behind.
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

_NEW_FILE_MODE = 0o666  # what the umask leaves of it, as open(2) does for any program


@dataclass(frozen=True, slots=True)
class Original:
    """A file as it was read: its name as the user gave it, the path without symlinks, the content and who it was."""

    name: str
    path: str
    data: bytes = field(repr=False)
    status: os.stat_result = field(repr=False)


def read_original(name: str) -> Original:
    """Return the file *name*, to be replaced later. Raises EditError when it cannot be read or not be replaced."""
    if name == STDIN:
        raise EditError("standard input cannot be changed in place", hint="name an environment file")
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
        raise EditError(f"{name}: the file is larger than 1 MiB", hint="name an environment file")
    return Original(name, path, data, status)


def _read(path: str, name: str) -> tuple[os.stat_result, bytes]:
    # O_NONBLOCK: a FIFO without a writer would keep us waiting. It does nothing to a regular file.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise EditError(f"{name}: is {what}", hint="name an environment file")
        with open(descriptor, "rb", closefd=False) as file:
            return status, file.read(MAX_FILE_SIZE + 1)
    finally:
        os.close(descriptor)


def replace(original: Original, data: bytes) -> None:
    """Replace the content of *original* by *data*.

    Raises EditError, with the file as it was, when somebody else has changed it since it was read, when it has several
    names, when it is read-only, or when the new content cannot be written.
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
    """Write *data* to the new file *name*. Raises EditError when there is one, or when it cannot be written."""
    with _written_beside(name, name, data, like=None) as temporary:
        try:
            os.link(temporary, name)  # unlike rename(2), it never replaces what is there
        except FileExistsError:
            raise already_there(name) from None
        except OSError as error:
            raise _unwritable(name, error) from None
    _synchronise_directory(name)


def check_replaceable(original: Original) -> None:
    """Raise EditError if `replace` would refuse *original* as it is now."""
    name, path = original.name, original.path
    if original.status.st_nlink > 1:
        raise EditError(
            f"{name}: has {original.status.st_nlink} names (hard links), and the others would keep the old content",
            hint="change it with an editor that writes in place, or give it one name",
        )
    if not os.access(path, os.W_OK, effective_ids=True):
        raise EditError(f"{name}: is read-only", hint=f"chmod u+w {name}, if you may change it")
    directory = os.path.dirname(path)
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise EditError(
            f"{name}: its directory {directory} is read-only, and the new content is first written beside the file",
            hint="make the directory writable, or copy the file elsewhere",
        )


def already_there(name: str) -> EditError:
    """Return the refusal to write over the file *name*."""
    return EditError(f"{name}: is there already", hint="--force replaces it, another name keeps both")


def changed_meanwhile(name: str) -> EditError:
    """Return the refusal to write over what somebody else wrote."""
    return EditError(f"{name}: was changed by somebody else meanwhile", hint="look at it, and try again")


@contextmanager
def _written_beside(name: str, path: str, data: bytes, *, like: Original | None) -> Iterator[str]:
    """Give the path of a file beside *path* that holds *data*, on disk; it is removed at the end if it is still there."""
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
    """Hold a lock (flock(2)) on the file that is replaced, so that of two commands that read it only one replaces it.

    Raises EditError when another command holds it. A file system without locks has none.
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
    """Give the file *descriptor* the owner, attributes and mode of *original*, as far as this account may."""
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
        mode &= ~stat.S_IRWXG  # what that group may do, another must not
    os.fchmod(descriptor, mode)


def _copy_attributes(source: str, target: int) -> None:
    """Copy extended attributes, access control lists among them (acl(5)), where both file systems have them."""
    try:
        names = os.listxattr(source)
    except OSError:
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            pass  # security.* and trusted.* are not this account's to give


def _is_unchanged(original: Original) -> bool:
    try:
        now = os.stat(original.name)
    except OSError:
        return False
    return _identity(now) == _identity(original.status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _synchronise_directory(path: str) -> None:
    """Make the new name last; the content is on disk already."""
    try:
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # a directory that may be written and not read
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems have no such thing for directories
    finally:
        os.close(descriptor)


def _unwritable(name: str, error: OSError) -> EditError:
    hints = {
        errno.ENOSPC: "free some space on its file system (see `df`)",
        errno.EDQUOT: "free some space: the disk quota is used up",
        errno.ENOENT: "make its directory first",
    }
    return EditError(f"{name}: cannot be written: {_reason(error)}", hint=hints.get(error.errno or 0))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "it is not a path: it holds a NUL character"
