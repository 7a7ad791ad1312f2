"""The work directory: temporary names for objects that are renamed into the writable layer when they are complete.

A server that is killed leaves objects under temporary names; the next mount removes them. :class:`WorkDirectory` owns the
descriptors and locks. :class:`unionfs.upper.upper.Upper` creates and closes it; copy-up and the two formats of marks use it.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import time
from contextlib import ExitStack, suppress

from unionfs import _libc
from unionfs.errors import UnionError
from unionfs.formats import acl
from unionfs.layer.directory import Layer
from unionfs.layer.objects import NO_XATTR, at_path

#: Our directory in the work directory. Kernel OverlayFS uses ``work`` and ``index``, so both can serve the layer in turn.
HOME = b"unionfs"
_TMP = b"tmp"
#: The directory in which open_format tries what the file system can hold.
_SCRATCH = b"scratch"
#: Begins the temporary names of copies of lower files.
COPY_PREFIX = b"+"
#: Seconds to wait until a server that is about to end releases the work directory.
_LOCK_PATIENCE = 5.0
OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Building:
    """The context manager of :meth:`WorkDirectory.building`. A generator would take twice as long, and each copy needs one."""

    __slots__ = ("_name", "_workdir")

    def __init__(self, workdir: WorkDirectory, name: bytes) -> None:
        self._workdir = workdir
        self._name = name

    def __enter__(self) -> tuple[int, bytes]:
        return self._workdir.tmp_fd, self._name

    def __exit__(self, *_: object) -> None:
        self._workdir.end_building(self._name)


class WorkDirectory:
    """The work directory of one mount: its descriptors, its locks and the temporary names. Upper creates and closes it."""

    def __init__(self, work_fd: int, layer: Layer) -> None:
        """Prepare the work directory *work_fd* (borrowed) of the writable *layer*, and lock both.

        Raises:
            UnionError: the two are on different file systems, or another mount uses one of them.
            OSError: the work directory cannot be written.
        """
        if os.fstat(work_fd).st_dev != layer.device:
            raise UnionError(
                "upperdir and workdir are on different file systems: put both on one file system"
            )
        self._serial = itertools.count()
        #: The temporary name that was renamed into place last.
        self._placed = b""
        #: Whether kernel OverlayFS has used the work directory, and so may have written to the layer.
        self.used_by_kernel = used_by_kernel(work_fd)
        with ExitStack() as undo:
            self.home_fd = _make_directory(work_fd, HOME)
            undo.callback(os.close, self.home_fd)
            # Both: two servers that write to one layer from two work directories would lose each other's changes.
            self._lock_fds = [_lock(self.home_fd, "workdir")]
            undo.callback(os.close, self._lock_fds[0])
            self._lock_fds.append(_lock(layer.root.fd(), "upperdir"))
            undo.callback(os.close, self._lock_fds[1])
            self.tmp_fd = _make_directory(self.home_fd, _TMP)
            undo.callback(os.close, self.tmp_fd)
            #: The inode numbers of the copies that a killed server had finished but not published.
            self.unpublished = _copies_in(self.tmp_fd)
            undo.pop_all()

    def open_scratch(self) -> int:
        """Return a descriptor of an empty directory for trials, which the caller closes."""
        scratch = _make_directory(self.home_fd, _SCRATCH)
        try:
            remove_tree(scratch)
        except OSError:
            os.close(scratch)
            raise
        return scratch

    def clear_leftovers(self) -> int:
        """Remove what a killed server left in the work directory; returns the number of objects.

        The index must drop the entries of unpublished copies first: it recognizes them by these objects.
        """
        return remove_tree(self.tmp_fd)

    def exchange(self, other: WorkDirectory) -> None:
        """Exchange the directories, and the locks of the layers, with *other*. Temporary names stay unique."""
        self.home_fd, other.home_fd = other.home_fd, self.home_fd
        self.tmp_fd, other.tmp_fd = other.tmp_fd, self.tmp_fd
        self._lock_fds, other._lock_fds = other._lock_fds, self._lock_fds
        self.used_by_kernel, other.used_by_kernel = other.used_by_kernel, self.used_by_kernel

    def close(self) -> None:
        """Close the descriptors. Another mount can then use the work directory."""
        os.close(self.tmp_fd)
        for fd in self._lock_fds:
            os.close(fd)
        os.close(self.home_fd)

    def save(self, name: bytes, data: bytes) -> None:
        """Make *data* the contents of the file *name* of our directory, atomically."""
        with self.building() as (tmp_fd, tmp):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(tmp, flags, 0o600, dir_fd=tmp_fd), "wb") as file:
                file.write(data)
            os.rename(tmp, name, src_dir_fd=tmp_fd, dst_dir_fd=self.home_fd)

    def building(self, prefix: bytes = b"#", name: bytes | None = None) -> _Building:
        """Give a directory and a temporary name in it, *name* or a new one. At the end, an object that still has the name is
        removed.
        """
        return _Building(self, name or self.new_name(prefix))

    def new_name(self, prefix: bytes = b"#") -> bytes:
        """Return a temporary name that was not used before."""
        return b"%s%x" % (prefix, next(self._serial))

    def end_building(self, name: bytes) -> None:
        """Remove the object that still has the temporary *name*."""
        try:
            if name != self._placed:
                self._discard(name)
        except OSError:
            pass  # the change itself is done, or has failed for its own reason; the next mount clears this

    def place(self, tmp: bytes, dirfd: int, name: bytes) -> None:
        """Rename the finished non-directory *tmp* to *name* of *dirfd*, where a non-directory may be."""
        os.rename(tmp, name, src_dir_fd=self.tmp_fd, dst_dir_fd=dirfd)
        self._placed = tmp

    def begin_copy(self, name: bytes, mode: int = 0o600) -> int:
        """Make an empty file of the temporary *name*; returns a descriptor to read and write it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=self.tmp_fd)

    def rename_temporary(self, name: bytes, to: bytes) -> None:
        """Give the temporary *name* another one."""
        os.rename(name, to, src_dir_fd=self.tmp_fd, dst_dir_fd=self.tmp_fd)

    def discard_copy(self, name: bytes) -> None:
        """Remove the file that :meth:`begin_copy` made; where that fails, the next mount does."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self.tmp_fd)

    def discard_directory(self, dirfd: int, name: bytes) -> None:
        """Remove the directory *name* of *dirfd*, which holds nothing but marks."""
        try:
            os.rmdir(name, dir_fd=dirfd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            with self.building() as (tmp_fd, tmp):
                move_directory(dirfd, name, tmp_fd, tmp)

    def _discard(self, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=self.tmp_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            fd = os.open(name, OPEN_DIR, dir_fd=self.tmp_fd)
            try:
                remove_tree(fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=self.tmp_fd)


def move_directory(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int = 0) -> None:
    """Rename the directory *old* to another parent, whatever its mode; *flags* are those of renameat2(2).

    The rename changes its entry ``..``, which requires write permission. Without privileges, the owner gets that for a
    moment.
    """
    try:
        _libc.renameat2(old_fd, old, new_fd, new, flags)
    except PermissionError as error:
        mode = stat.S_IMODE(os.stat(old, dir_fd=old_fd, follow_symlinks=False).st_mode)
        if error.errno != errno.EACCES or mode & 0o200:
            raise
        os.chmod(old, mode | 0o200, dir_fd=old_fd)
        try:
            _libc.renameat2(old_fd, old, new_fd, new, flags)
        except OSError:
            os.chmod(old, mode, dir_fd=old_fd)
            raise
        os.chmod(new, mode, dir_fd=new_fd)


def remove_tree(fd: int) -> int:
    """Remove everything below the directory *fd*, by descriptors and without following links. Returns the number of entries
    removed.

    A program can nest directories deeper than a process may open or call itself. So those below another one are moved up to *fd*
    before they are emptied.
    """
    removed, names = _unlink_in(fd)
    pending, used = names, set(names)
    serial = itertools.count()
    while pending:
        name = pending.pop()
        child = os.open(name, OPEN_DIR, dir_fd=fd)
        try:
            unlinked, inner = _unlink_in(child)
            for each in inner:
                new = next(unused for number in serial if (unused := b"-%x" % number) not in used)
                move_directory(child, each, fd, new)
                pending.append(new)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=fd)
        removed += unlinked + 1
    return removed


def _unlink_in(fd: int) -> tuple[int, list[bytes]]:
    """Unlink everything in the directory *fd* but directories; return how many entries that were, and the names of these."""
    with os.scandir(listable(fd)) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    others = [name for name, is_dir in found if not is_dir]
    for name in others:
        os.unlink(name, dir_fd=fd)
    return len(others), [name for name, is_dir in found if is_dir]


def listable(fd: int) -> bytes:
    """Return a path of the O_PATH descriptor *fd* of a directory that this user owns. Its owner may list and empty it
    afterwards.
    """
    path = b"/proc/self/fd/%d" % fd
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.chmod(path, 0o700)
    return path


def used_by_kernel(work_fd: int) -> bool:
    """Return whether kernel OverlayFS has used the work directory: it leaves ``work`` there, and ``index``."""
    return any(os.path.lexists(at_path(work_fd, name)) for name in (b"work", b"index"))


def _copies_in(tmp_fd: int) -> frozenset[int]:
    with os.scandir(listable(tmp_fd)) as entries:
        return frozenset(
            entry.inode() for entry in entries if os.fsencode(entry.name).startswith(COPY_PREFIX)
        )


def _make_directory(dirfd: int, name: bytes) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=dirfd)
    except FileExistsError:
        pass
    fd = os.open(name, OPEN_DIR, dir_fd=dirfd)
    try:
        # A default ACL that it has inherited would give rights to the objects that are made here.
        os.removexattr(b"/proc/self/fd/%d" % fd, acl.DEFAULT)
    except OSError as error:
        if error.errno not in NO_XATTR:
            os.close(fd)
            raise
    return fd


def _lock(directory_fd: int, role: str) -> int:
    """Lock a directory for this process; *role* names it in messages. Returns the descriptor that has the lock.

    Raises:
        UnionError: another server has it, and did not end within a few seconds.
    """
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(fd)
            raise UnionError(
                f"{role} is in use by another mount: unmount it, or use another upperdir and workdir"
            ) from None
        except OSError:
            pass  # a file system without such locks, as NFS without its lock daemon
        return fd
