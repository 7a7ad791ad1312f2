"""References to one object of a layer: by a name in an open directory, or by a descriptor of the object itself."""

from __future__ import annotations

import errno
import os
import stat

from unionfs import _libc
from unionfs.formats.override_stat import OVERRIDE_XATTRS, applied, decode

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer.contents import FileContents
    from unionfs.layer.directory import Layer, LayerDir

_PATH_MAX = 4096
_OPEN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Errno values that mean "this object has no visible extended attributes", not a failure.
NO_XATTR = frozenset((errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES))


class PathRef:
    """A reference to a non-directory: a name in a directory of a layer."""

    __slots__ = ("directory", "name")

    def __init__(self, directory: LayerDir, name: bytes) -> None:
        """Refer to *name* of *directory*."""
        self.directory = directory
        self.name = name

    @property
    def layer(self) -> Layer:
        """Return the layer that contains the object."""
        return self.directory.layer

    @property
    def known_no_xattrs(self) -> bool:
        """Return whether the object is known to have no extended attributes, without a system call."""
        return False

    @property
    def known_not_metacopy(self) -> bool:
        """Return whether the object is known not to be a metadata-only copy, without a system call."""
        return False

    def place(self) -> tuple[LayerDir, bytes]:
        """Return the directory of the layer that contains the object, and the object's name in it."""
        return self.directory, self.name

    def stat(self) -> os.stat_result:
        """Return the attributes of the object; for a symbolic link, those of the link itself."""
        directory, name = self.place()
        info = os.stat(name, dir_fd=directory.fd(), follow_symlinks=False)
        return overridden(info, self) if directory.layer.policy.override_stat else info

    def info(self) -> os.stat_result:
        """Return the attributes; subclasses that know them need no system call."""
        return self.stat()

    def open(self, flags: int) -> int:
        """Open the object, a regular file, without following a symbolic link.

        Raises:
            OSError: as :meth:`opened`.
        """
        return self.opened(flags)[0]

    def opened(self, flags: int) -> tuple[int, os.stat_result]:
        """Open the object as :meth:`open` does. Return the descriptor and the attributes on disk.

        Raises:
            OSError: ESTALE if the object is no longer a regular file. If it was replaced by a FIFO, a blocking open would wait
                for a writer (fifo(7)) and delay every client.
        """
        directory, name = self.place()
        fd = os.open(name, flags | _OPEN_FILE, dir_fd=directory.fd())
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.ESTALE, "the layer changed while mounted", self.name)
        except OSError:
            os.close(fd)
            raise
        return fd, info

    def archived(self) -> FileContents | None:
        """Return the contents if the object is a file of an archive, which cannot be opened; otherwise None."""
        return None

    def readlink(self) -> bytes:
        """Return the target of the symbolic link."""
        directory, name = self.place()
        try:
            return os.readlink(name, dir_fd=directory.fd())
        except OSError as error:
            if error.errno != errno.EINVAL or not directory.layer.policy.override_stat:
                raise
        return _target_in(self.open(os.O_RDONLY))

    def pinned(self) -> DescriptorRef:
        """Return a reference to the object by descriptor, because it is about to lose this name."""
        directory, name = self.place()
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.fd())
        return DescriptorRef(fd, directory.layer)

    def proc_path(self) -> bytes:
        """Return a path for calls that take no descriptor. Such calls must not follow the last component."""
        directory, name = self.place()
        return at_path(directory.fd(), name)

    def list_xattrs(self) -> list[str]:
        """Return the names of all extended attributes, as llistxattr(2) does."""
        return os.listxattr(self.proc_path(), follow_symlinks=False)

    def get_xattr(self, name: str) -> bytes:
        """Return an extended attribute, as lgetxattr(2) does."""
        return os.getxattr(self.proc_path(), name, follow_symlinks=False)

    def birth_time_ns(self) -> int | None:
        """Return the birth time in nanoseconds since the epoch, or None if the file system did not record it."""
        directory, name = self.place()
        return _libc.birth_time_ns(directory.fd(), name)


class DescriptorRef:
    """A reference to an object that has no name any more: an O_PATH descriptor that keeps the object and its inode number
    alive.
    """

    __slots__ = ("fd", "layer")

    #: As in :class:`PathRef`.
    known_no_xattrs = known_not_metacopy = False

    def __init__(self, fd: int, layer: Layer) -> None:
        """Take over *fd*, a descriptor of an object of *layer*."""
        self.fd = fd
        self.layer = layer

    def stat(self) -> os.stat_result:
        """Return the attributes of the object."""
        info = os.fstat(self.fd)
        return overridden(info, self) if self.layer.policy.override_stat else info

    def info(self) -> os.stat_result:
        """Return the attributes, which always need a system call."""
        return self.stat()

    def open(self, flags: int) -> int:
        """Open the object again through its descriptor."""
        return os.open(self.proc_path(), flags | os.O_CLOEXEC)

    def opened(self, flags: int) -> tuple[int, os.stat_result]:
        """Open the object again. Return the descriptor and the attributes on disk."""
        fd = self.open(flags)
        try:
            return fd, os.fstat(fd)
        except OSError:
            os.close(fd)
            raise

    def archived(self) -> None:
        """Return None: the object can be opened."""
        return

    def readlink(self) -> bytes:
        """Return the target of the symbolic link. readlinkat(2) with an empty name reads the link that the descriptor refers
        to.
        """
        try:
            return os.readlink(b"", dir_fd=self.fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT) or not self.layer.policy.override_stat:
                raise
        return _target_in(self.open(os.O_RDONLY))

    def proc_path(self) -> bytes:
        """Return a path of the object. Calls must follow links in it."""
        return b"/proc/self/fd/%d" % self.fd

    def list_xattrs(self) -> list[str]:
        """Return the names of all extended attributes, as flistxattr(2) does."""
        return os.listxattr(self.proc_path())

    def get_xattr(self, name: str) -> bytes:
        """Return an extended attribute, as fgetxattr(2) does."""
        return os.getxattr(self.proc_path(), name)

    def birth_time_ns(self) -> int | None:
        """Return the birth time in nanoseconds since the epoch, or None if the file system did not record it."""
        return _libc.birth_time_ns(self.fd)

    def close(self) -> None:
        """Close the descriptor, which lets the kernel free the object."""
        os.close(self.fd)


def follows(ref: LayerDir | PathRef | DescriptorRef) -> bool:
    """Return whether calls must follow ``ref.proc_path()``: it ends in a link of /proc instead of a name of a layer."""
    return not isinstance(ref, PathRef)


def is_null_device(info: os.stat_result) -> bool:
    """Return whether *info* belongs to a character device 0:0, the kernel's whiteout."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def overridden(info: os.stat_result, ref: LayerDir | PathRef | DescriptorRef) -> os.stat_result:
    """Return the attributes to show for *ref*, which has *info* on disk: those of its ``override_stat`` attribute, if it has
    one.
    """
    if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
        return info
    path, follow = ref.proc_path(), follows(ref)
    for name in OVERRIDE_XATTRS:
        try:
            shown = decode(os.getxattr(path, name, follow_symlinks=follow), info.st_mode)
        except OSError as error:
            if error.errno not in NO_XATTR:
                raise
        else:
            return applied(info, shown) if shown is not None else info
    return info


def _target_in(fd: int) -> bytes:
    """Return the target of a symbolic link that is stored as the contents of the file *fd*, and close *fd*."""
    try:
        return os.pread(fd, _PATH_MAX, 0)
    finally:
        os.close(fd)


def at_path(fd: int, name: bytes) -> bytes:
    """Return a path of *name* in the directory *fd*, for calls that take no descriptor."""
    return b"/proc/self/fd/%d/%s" % (fd, name)


def first_xattr(
    target: int | bytes, names: tuple[str, ...], *, follow: bool = True, unreadable: bytes | None = None
) -> bytes | None:
    """Return the value of the first of *names* that *target* has. Attributes that cannot be listed count as missing.

    If an attribute exists but its value may not be read, return *unreadable* (None: try the next name). Listing names needs no
    permission, but reading values does.
    """
    try:
        present = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return None
    for name in names:
        if name in present:
            try:
                return os.getxattr(target, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in NO_XATTR:
                    raise
                if unreadable is not None:
                    return unreadable
    return None
