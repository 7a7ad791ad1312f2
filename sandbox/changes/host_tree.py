"""Read and write below a directory of the host, and nowhere else.

sandbox/changes/extract.py and sandbox/changes/apply.py make all their changes by :class:`HostTree`. Paths come from an untrusted
program, and other processes may change the directory meanwhile. So the directory that contains a path is opened with openat2(2),
beneath the root and without following links. The last component is only used with calls that do not follow it.

Each object is complete under a temporary name before a rename puts it in place. A process that is killed at any instant therefore
leaves the old or the new object, and perhaps one with a temporary name, which the next write of the same path removes.

An ordinary user may own a directory but have no write permission for it. Such a directory is made writable for single system
calls. A process that is killed between two of these leaves it writable for its owner.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandbox.changes.directory_calls import (
    TEMPORARY_SUFFIX,
    Check,
    copy_acl,
    granted,
    lstat_at,
    may_be_empty,
    move,
    temporary_name,
)
from sandbox.changes.host_attributes import (
    Attributes,
    RefusedError,
    proc_path,
    reason_of,
    set_attributes,
    set_time,
)
from sandbox.errors import SandboxError, describe_errno
from sandbox.kernel.open_paths import open_directory_beneath
from sandbox.kernel.trees import synchronize_file_system

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

_HINTS = {
    errno.EPERM: "it may be immutable or append-only (see `lsattr`), or its file system does not allow this; exclude this path",
    errno.EACCES: "this user may not write there: run the command as the owner, or exclude this path",
    errno.ELOOP: "a symbolic link is on the way, and none is followed: remove it, or exclude this path",
    errno.ENOTDIR: "something that is no directory is on the way: remove it, or exclude this path",
    errno.EISDIR: "a directory is in the way: remove it, or exclude this path",
    errno.ENOENT: "its directory is missing: create it, or select it, too",
    errno.EEXIST: "something appeared there meanwhile: look at it, then run the command again",
    errno.ENOTEMPTY: "the directory has entries that the sandbox does not know: remove them, or exclude this path",
    errno.EBUSY: "something is mounted there: unmount it, or exclude this path",
    errno.EXDEV: "another file system is mounted between the two places: exclude this path",
    errno.EROFS: "the file system is read-only: mount it for writing, or exclude this path",
    errno.ENAMETOOLONG: "the file system does not allow a name this long: exclude this path",
}


class HostTree:
    """The tree below one directory of the host. The caller opens and closes that directory.

    Paths are relative to it; slashes at their beginning do not matter. Every method raises SandboxError with the path.
    """

    def __init__(self, root_fd: int, name: str = "", *, keep_acls: bool = False) -> None:
        """Write below *root_fd*, whose path *name* comes before each path in messages.

        *keep_acls*: the archive has no access control lists, so the ones of replaced files stay.
        """
        self._root = root_fd
        self._name = name.rstrip("/")
        self._keep_acls = keep_acls
        #: Paths of this run that look like temporary names.
        self._lookalikes: set[bytes] = set()

    def shown(self, path: bytes) -> str:
        """Return *path* for a message."""
        return f"{self._name}/{os.fsdecode(path.strip(b'/'))}"

    # -- reading -----------------------------------------------------------------------------------

    def open_parent(self, path: bytes) -> int:
        """Open the directory that contains *path* and return its descriptor, opened with O_PATH."""
        with self._explained(path):
            return self._open_parent(path)

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Return the status of the object at *path*; None if there is none, or not without following a link."""
        with self._explained(path):
            try:
                with self._parent(path) as (parent, name):
                    return os.lstat(name, dir_fd=parent)
            except OSError as error:
                if error.errno in _ABSENT:
                    return None
                raise

    def read_link(self, path: bytes) -> bytes:
        """Return the target of the symbolic link at *path*."""
        with self._explained(path), self._parent(path) as (parent, name):
            return os.readlink(name, dir_fd=parent)

    def open_file(self, path: bytes) -> int:
        """Open the regular file at *path* for reading, without waiting."""
        with self._explained(path), self._parent(path) as (parent, name):
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)

    # -- creating ----------------------------------------------------------------------------------

    def replace_file(
        self,
        path: bytes,
        write: Callable[[int], None],
        attributes: Attributes,
        check: Check | None = None,
    ) -> tuple[bytes, ...]:
        """Put a regular file at *path*, in place of any object but a directory with entries.

        *write* writes the contents to a descriptor. Returns the names of the extended attributes that were left out.
        """
        with self._explained(path), self._prepared(path) as (parent, temporary, name):
            fd = granted(
                (parent,), lambda: os.open(temporary, _NEW_FILE, stat.S_IRUSR | stat.S_IWUSR, dir_fd=parent)
            )
            try:
                write(fd)
                left_out = self._set(fd, attributes, parent, name)
                if lstat_at(parent, name) is not None:
                    # Otherwise a crash of the machine could leave neither the old nor the new contents.
                    os.fsync(fd)
            finally:
                os.close(fd)
            self._publish(parent, temporary, name, check)
            return left_out

    def make_directory(
        self, path: bytes, attributes: Attributes | None = None, check: Check | None = None
    ) -> tuple[bytes, ...]:
        """Make a directory at *path*, in place of any other object; one that exists stays as it is.

        Without *attributes* only its owner may enter it. Returns the names of the extended attributes that were left out.
        """
        with self._explained(path):
            if not _name_of(path):
                return ()
            with self._parent(path) as (parent, name):
                info = lstat_at(parent, name)
                if info is not None and stat.S_ISDIR(info.st_mode):
                    return ()
            with self._prepared(path) as (parent, temporary, name):
                granted((parent,), lambda: os.mkdir(temporary, stat.S_IRWXU, dir_fd=parent))
                left_out: tuple[bytes, ...] = ()
                if attributes is not None:
                    left_out = self._set_created(parent, temporary, name, stat.S_IFDIR, attributes)
                self._publish(parent, temporary, name, check)
                return left_out

    def make_symlink(
        self, path: bytes, target: bytes, attributes: Attributes, check: Check | None = None
    ) -> tuple[bytes, ...]:
        """Put a symbolic link to *target* at *path*, as :meth:`replace_file` does."""
        return self._make(
            path,
            stat.S_IFLNK,
            lambda name, parent: os.symlink(target, name, dir_fd=parent),
            attributes,
            check,
        )

    def make_fifo(self, path: bytes, attributes: Attributes, check: Check | None = None) -> tuple[bytes, ...]:
        """Put a FIFO at *path*, as :meth:`replace_file` does."""
        return self._make(
            path,
            stat.S_IFIFO,
            lambda name, parent: os.mkfifo(name, stat.S_IRUSR | stat.S_IWUSR, dir_fd=parent),
            attributes,
            check,
        )

    def make_device(
        self, path: bytes, kind: int, device: int, attributes: Attributes, check: Check | None = None
    ) -> tuple[bytes, ...]:
        """Put a device of *kind* (S_IFCHR or S_IFBLK) at *path*, as :meth:`replace_file` does."""
        return self._make(
            path,
            kind,
            lambda name, parent: os.mknod(name, kind | stat.S_IRUSR | stat.S_IWUSR, device, dir_fd=parent),
            attributes,
            check,
        )

    def hard_link(self, path: bytes, first: bytes, check: Check | None = None) -> None:
        """Make *path* another name of the object at *first*, which is no directory."""
        with self._explained(first):
            first_parent = self._open_parent(first)
        try:
            with self._explained(path):
                source = _name_of(first)
                there = os.lstat(source, dir_fd=first_parent)
                with self._parent(path) as (parent, name):
                    here = lstat_at(parent, name)
                if here is not None and os.path.samestat(here, there):
                    return  # rename(2) would do nothing, and leave the temporary name
                with self._prepared(path) as (parent, temporary, name):
                    granted(
                        (parent,),
                        lambda: os.link(
                            source,
                            temporary,
                            src_dir_fd=first_parent,
                            dst_dir_fd=parent,
                            follow_symlinks=False,
                        ),
                    )
                    self._publish(parent, temporary, name, check)
        finally:
            os.close(first_parent)

    def _make(
        self,
        path: bytes,
        kind: int,
        make: Callable[[bytes, int], None],
        attributes: Attributes,
        check: Check | None,
    ) -> tuple[bytes, ...]:
        with self._explained(path), self._prepared(path) as (parent, temporary, name):
            granted((parent,), lambda: make(temporary, parent))
            left_out = self._set_created(parent, temporary, name, kind, attributes)
            self._publish(parent, temporary, name, check)
            return left_out

    # -- attributes --------------------------------------------------------------------------------

    def set_directory_attributes(self, path: bytes, attributes: Attributes) -> tuple[bytes, ...]:
        """Set all attributes of the directory at *path*; return the names of the extended ones that were left out."""
        with self._explained(path):
            fd = self._open_directory(path)
            try:
                return set_attributes(fd, attributes, created=False, keep_acls=self._keep_acls)
            finally:
                os.close(fd)

    def set_time(self, path: bytes, mtime_ns: int) -> None:
        """Set the times of the object at *path*, also of a symbolic link."""
        with self._explained(path), self._parent(path) as (parent, name):
            fd = os.open(name, _PLACE, dir_fd=parent)
            try:
                set_time(fd, mtime_ns)
            finally:
                os.close(fd)

    def _set_created(
        self, parent: int, temporary: bytes, name: bytes, kind: int, attributes: Attributes
    ) -> tuple[bytes, ...]:
        fd = os.open(temporary, _PLACE, dir_fd=parent)
        try:
            info = os.fstat(fd)
            # Another process that may write to this directory could have put a name of another object here.
            is_other = stat.S_IFMT(info.st_mode) != kind or info.st_uid not in (os.geteuid(), attributes.uid)
            if is_other or (kind != stat.S_IFDIR and info.st_nlink != 1):
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            return self._set(fd, attributes, parent, name)
        finally:
            os.close(fd)

    def _set(self, fd: int, attributes: Attributes, parent: int, name: bytes) -> tuple[bytes, ...]:
        left_out = set_attributes(fd, attributes, created=True, keep_acls=self._keep_acls)
        if self._keep_acls and stat.S_ISREG(os.fstat(fd).st_mode):
            copy_acl(parent, name, fd, attributes.mode)
        return left_out

    # -- removing and renaming ---------------------------------------------------------------------

    def remove(self, path: bytes, check: Check | None = None) -> None:
        """Remove the object at *path*; a directory must be empty."""
        with self._explained(path), self._parent(path) as (parent, name):
            info = os.lstat(name, dir_fd=parent)
            if check is not None:
                check(info)
            remove = os.rmdir if stat.S_ISDIR(info.st_mode) else os.unlink
            granted((parent,), lambda: remove(name, dir_fd=parent))

    def discard_leftover(self, path: bytes) -> None:
        """Remove what a killed process left under the temporary name of *path*."""
        with self._explained(path), self._parent(path) as (parent, name):
            self._discard(parent, temporary_name(name))

    def remove_tree(self, path: bytes) -> None:
        """Remove the object at *path*, a directory with everything below it."""
        pending = [path.strip(b"/")]
        while pending:
            inner = self._remove_entries(pending[-1])
            if not inner:
                self.remove(pending.pop())
            pending += inner

    def _remove_entries(self, path: bytes) -> list[bytes]:
        """Remove what is no directory from the directory at *path*; return the paths of its directories."""
        with self._explained(path):
            with self._parent(path) as (parent, name):
                if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                    return []
            inner = []
            fd = self._open_directory(path)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    os.chmod(proc_path(fd), stat.S_IRWXU)  # it goes anyway
                listing = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                try:
                    names = list(map(os.fsencode, os.listdir(listing)))
                finally:
                    os.close(listing)
                for name in names:
                    if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                        inner.append(path + b"/" + name)
                    else:
                        os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
            return inner

    def rename(self, old: bytes, new: bytes, *, replace: bool = False, check: Check | None = None) -> None:
        """Rename the object at *old* to *new*; with *replace*, in place of any object but a directory with entries."""
        with self._explained(old), self._parent(old) as (old_parent, old_name):
            moved = os.open(old_name, _PLACE, dir_fd=old_parent)
            try:
                with self._explained(new), self._parent(new) as (parent, name):
                    self._note_lookalike(new, name)
                    # A directory must be writable for its ".." to change.
                    granted(
                        (old_parent, parent, moved),
                        lambda: move(old_parent, old_name, parent, name, check, replace=replace),
                    )
            finally:
                os.close(moved)

    def synchronize(self) -> None:
        """Write everything to disk."""
        with self._explained(b""):
            try:
                fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
            except PermissionError:
                os.sync()
                return
            try:
                synchronize_file_system(fd)
            finally:
                os.close(fd)

    # -- how ---------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self, path: bytes) -> Iterator[None]:
        """Raise SandboxError with *path* for every OSError."""
        try:
            yield
        except RefusedError as refusal:
            raise SandboxError(f"{self.shown(path)}: {refusal}", hint=refusal.hint) from None
        except OSError as error:
            number = error.errno or 0
            hint = _HINTS.get(number) or describe_errno("write", number)
            raise SandboxError(
                f"{self.shown(path)}: {reason_of(error)}",
                hint=hint or "mend that, or exclude this path",
            ) from error

    def _open_parent(self, path: bytes) -> int:
        parent, _, _ = path.strip(b"/").rpartition(b"/")
        _refuse_dots(path)
        return open_directory_beneath(self._root, parent)

    def _open_directory(self, path: bytes) -> int:
        _refuse_dots(path)
        return open_directory_beneath(self._root, path.strip(b"/"))

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the directory that contains *path*; yield its descriptor and the last component, b"." for the root."""
        parent = self._open_parent(path)
        try:
            yield parent, _name_of(path) or b"."
        finally:
            os.close(parent)

    @contextmanager
    def _prepared(self, path: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the descriptor of the directory of *path*, a free temporary name in it, and the last component.

        The object with the temporary name is removed after an error.
        """
        with self._parent(path) as (parent, name):
            temporary = temporary_name(name)
            if path.strip(b"/").removesuffix(name) + temporary in self._lookalikes:
                raise RefusedError(
                    f"{os.fsdecode(temporary)} in the same directory has the name that it needs while it is written",
                    "exclude one of the two",
                )
            self._note_lookalike(path, name)
            info = lstat_at(parent, name)
            if info is not None and stat.S_ISDIR(info.st_mode) and not may_be_empty(parent, name):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            self._discard(parent, temporary)
            try:
                yield parent, temporary, name
            except BaseException:
                try:
                    self._discard(parent, temporary)
                except OSError:
                    pass  # the first error counts
                raise

    def _note_lookalike(self, path: bytes, name: bytes) -> None:
        if name.endswith(TEMPORARY_SUFFIX):
            self._lookalikes.add(path.strip(b"/"))

    def _discard(self, parent: int, temporary: bytes) -> None:
        """Remove what a killed process or an error left at the name *temporary*."""
        info = lstat_at(parent, temporary)
        if info is not None:
            remove = os.rmdir if stat.S_ISDIR(info.st_mode) else os.unlink
            granted((parent,), lambda: remove(temporary, dir_fd=parent))

    def _publish(self, parent: int, temporary: bytes, name: bytes, check: Check | None) -> None:
        granted((parent,), lambda: move(parent, temporary, parent, name, check, replace=True))


def _name_of(path: bytes) -> bytes:
    return path.strip(b"/").rpartition(b"/")[2]


def _refuse_dots(path: bytes) -> None:
    if any(part in (b".", b"..") for part in path.split(b"/")):
        raise RefusedError("a path with `.` or `..` in it", "exclude this path")
