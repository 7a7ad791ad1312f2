"""Make the marks of a writable layer that hide lower names: whiteouts and opaque directories, in one of two formats.

There is one class per format, and both have the same methods: :class:`OverlayMarks` for the format of kernel OverlayFS,
:class:`AufsMarks` for names that begin with ``.wh.``. :class:`unionfs.upper.upper.Upper` creates the one for its layer, calls
it, and records the effects on the ``LayerDir`` concerned. The classes own no descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from unionfs import _libc
from unionfs.formats.whiteout import NAME_MAX, WH_OPAQUE, WH_PREFIX, whiteout_name
from unionfs.formats.xattrs import OPAQUE, REDIRECT_XATTRS
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import at_path, is_null_device
from unionfs.upper.workdir import OPEN_DIR, WorkDirectory, listable, move_directory, remove_tree


class OverlayMarks:
    """The format of kernel OverlayFS: a whiteout is a device 0:0 at the name, an opaque directory has an attribute."""

    def __init__(self, workdir: WorkDirectory, prefix: str) -> None:
        """Make whiteouts in *workdir*; *prefix* begins the names of attributes."""
        self._workdir = workdir
        self._prefix = prefix
        #: Called for each whiteout that is made.
        self.on_mark: Callable[[], None] = ignore

    def _make_whiteout(self, dirfd: int, name: bytes) -> None:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dirfd)
        self.on_mark()

    def whiteout(self, directory: LayerDir, name: bytes) -> None:
        """Hide the lower *name* of *directory*, which has nothing of that name here."""
        self._make_whiteout(directory.fd(), name)

    def set_opaque(self, dirfd: int, name: bytes) -> None:
        """Make the directory *name* of *dirfd* hide those of lower layers."""
        os.setxattr(at_path(dirfd, name), self._prefix + OPAQUE, b"y", follow_symlinks=False)

    def replace(self, directory: LayerDir, name: bytes) -> None:
        """Replace the non-directory *name* of *directory* by a whiteout."""
        with self._workdir.building() as (tmp_fd, tmp):
            self._make_whiteout(tmp_fd, tmp)
            self._workdir.place(tmp, directory.fd(), name)

    def replace_directory(self, directory: LayerDir, name: bytes) -> None:
        """Replace the directory *name* of *directory*, which holds nothing but marks, by a whiteout."""
        with self._workdir.building() as (tmp_fd, tmp):
            self._make_whiteout(tmp_fd, tmp)
            # At no instant is the name free: a lower directory, with names that this one hid, would show after a crash.
            move_directory(directory.fd(), name, tmp_fd, tmp, _libc.RENAME_EXCHANGE)

    def rename(
        self, source: tuple[LayerDir, bytes], target: tuple[LayerDir, bytes], *, whiteout: bool, is_dir: bool
    ) -> bool:
        """Rename as :meth:`unionfs.upper.upper.Upper.rename` does; returns whether a whiteout lies at *source* now."""
        (old_dir, old), (new_dir, new) = source, target
        flags = _libc.RENAME_WHITEOUT if whiteout else 0
        if is_dir and new_dir.mark(new) is not None:
            if is_device(new_dir, new):
                # A directory cannot be renamed over the device, so they are exchanged. The device is then the whiteout at
                # the source. If none is wanted there, it hides nothing until it is removed.
                _libc.renameat2(old_dir.fd(), old, new_dir.fd(), new, _libc.RENAME_EXCHANGE)
                if not whiteout:
                    try:
                        os.unlink(old, dir_fd=old_dir.fd())
                    except OSError:
                        return True
                return whiteout
            if os.path.lexists(at_path(new_dir.fd(), new)):
                with self._without_marks(new_dir, new):
                    _libc.renameat2(old_dir.fd(), old, new_dir.fd(), new, flags)
                return whiteout
        _libc.renameat2(old_dir.fd(), old, new_dir.fd(), new, flags)
        return whiteout

    @contextmanager
    def _without_marks(self, directory: LayerDir, name: bytes) -> Iterator[None]:
        """Replace the directory *name*, which shows as empty, by one that is empty on disk and opaque. If the body of the
        ``with`` statement fails, it comes back.

        A directory that holds whiteouts cannot be renamed over, and without them the names that they hide would show. The
        replacement has the same attributes, because a kill may leave it there.
        """
        at = os.open(name, OPEN_DIR, dir_fd=directory.fd())
        try:
            path = listable(at)
            if not os.listdir(path):
                yield
                return
            with self._workdir.building() as (tmp_fd, tmp):
                self._make_empty_like(at, tmp_fd, tmp)
                _libc.renameat2(tmp_fd, tmp, directory.fd(), name, _libc.RENAME_EXCHANGE)
                try:
                    yield
                except OSError:
                    _libc.renameat2(tmp_fd, tmp, directory.fd(), name, _libc.RENAME_EXCHANGE)
                    raise
        finally:
            os.close(at)

    def _make_empty_like(self, model: int, dirfd: int, name: bytes) -> None:
        """Make an opaque directory with the attributes of the directory of the descriptor *model*."""
        info = os.fstat(model)
        os.mkdir(name, 0o700, dir_fd=dirfd)
        os.chown(name, info.st_uid, info.st_gid, dir_fd=dirfd, follow_symlinks=False)
        source = b"/proc/self/fd/%d" % model
        for attribute in os.listxattr(source):
            if attribute not in REDIRECT_XATTRS:
                value = os.getxattr(source, attribute)
                try:
                    os.setxattr(at_path(dirfd, name), attribute, value, follow_symlinks=False)
                except OSError as error:
                    # For example a security module's label: the new directory has a label of its own.
                    if error.errno != errno.EPERM or not attribute.startswith(("trusted.", "security.")):
                        raise
        self.set_opaque(dirfd, name)
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=dirfd)
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=dirfd, follow_symlinks=False)


class AufsMarks:
    """The format of aufs: a whiteout is a file ``.wh.NAME`` beside the name, an opaque directory has ``.wh..wh..opq``."""

    def __init__(self, workdir: WorkDirectory) -> None:
        """Move directories that hold marks to *workdir* to remove them."""
        self._workdir = workdir
        #: Called for each whiteout that is made.
        self.on_mark: Callable[[], None] = ignore

    def whiteout(self, directory: LayerDir, name: bytes) -> None:
        """Hide the lower *name* of *directory*; an entry of that name here is not hidden."""
        _touch(directory.fd(), _whiteout_name(name))
        self.on_mark()

    def set_opaque(self, dirfd: int, name: bytes) -> None:
        """Make the directory *name* of *dirfd* hide those of lower layers."""
        fd = os.open(name, OPEN_DIR, dir_fd=dirfd)
        try:
            before = os.fstat(fd)
            _touch(fd, WH_OPAQUE)
            # Only the owner may set times. A directory of another user keeps the time of this change.
            with suppress(OSError):
                os.utime(b"/proc/self/fd/%d" % fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(fd)

    def replace(self, directory: LayerDir, name: bytes) -> None:
        """Replace the non-directory *name* of *directory* by a whiteout."""
        self.whiteout(directory, name)
        os.unlink(name, dir_fd=directory.fd())

    def replace_directory(self, directory: LayerDir, name: bytes) -> None:
        """Replace the directory *name* of *directory*, which holds nothing but marks, by a whiteout."""
        self.whiteout(directory, name)
        self._workdir.discard_directory(directory.fd(), name)

    def rename(
        self, source: tuple[LayerDir, bytes], target: tuple[LayerDir, bytes], *, whiteout: bool, is_dir: bool
    ) -> bool:
        """Rename as :meth:`unionfs.upper.upper.Upper.rename` does; returns whether a whiteout lies at *source* now."""
        (old_dir, old), (new_dir, new) = source, target
        if whiteout:
            # Beside the entry it changes nothing that shows: it hides lower layers only.
            self.whiteout(old_dir, old)
        replaces = is_dir and os.path.lexists(at_path(new_dir.fd(), new))
        if replaces:
            self._clear_target(new_dir, new)
        os.rename(old, new, src_dir_fd=old_dir.fd(), dst_dir_fd=new_dir.fd())
        if replaces:
            remove_aufs_whiteout(new_dir, new)
        return whiteout

    def _clear_target(self, directory: LayerDir, name: bytes) -> None:
        """Make it possible to rename a directory over *name*: a directory that shows as empty, or a device.

        A whiteout beside the directory hides all that the marks inside it hide, so they can go. One beside the device
        replaces the device.
        """
        if is_device(directory, name):
            self.whiteout(directory, name)
            os.unlink(name, dir_fd=directory.fd())
            return
        fd = os.open(name, OPEN_DIR, dir_fd=directory.fd())
        try:
            path = listable(fd)
            if os.listdir(path):
                self.whiteout(directory, name)
                for attribute in os.listxattr(path):
                    if attribute in REDIRECT_XATTRS:  # the whiteout does not hide the target of the redirect
                        os.removexattr(path, attribute)
                remove_tree(fd)
        finally:
            os.close(fd)


Marks = OverlayMarks | AufsMarks


def ignore() -> None:
    """Do nothing: the default of a function that is called at each change."""


def is_device(directory: LayerDir, name: bytes) -> bool:
    """Return whether a whiteout in the form of a device lies at *name*."""
    try:
        return is_null_device(os.stat(name, dir_fd=directory.fd(), follow_symlinks=False))
    except FileNotFoundError:
        return False


def remove_aufs_whiteout(directory: LayerDir, name: bytes) -> None:
    """Remove the whiteout of *name* in the form of a file, as far as possible."""
    try:
        unlink_aufs_whiteout(directory, name)
    except OSError:
        # It is rare, and harmless if it stays: beside an entry it hides lower layers only, and the entry does that already,
        # because a directory is opaque where lower layers have the name.
        pass


def unlink_aufs_whiteout(directory: LayerDir, name: bytes) -> None:
    """Remove the whiteout of *name* in the form of a file, which a layer of either format may have.

    Where such names are ordinary ones, there is none.
    """
    if not directory.layer.policy.aufs or len(name) > NAME_MAX - len(WH_PREFIX):
        return
    with suppress(FileNotFoundError):
        os.unlink(WH_PREFIX + name, dir_fd=directory.fd())


def _touch(dirfd: int, name: bytes) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dirfd))


def _whiteout_name(name: bytes) -> bytes:
    try:
        return whiteout_name(name)
    except ValueError:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name) from None
