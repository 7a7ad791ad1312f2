"""The writable layer: every change on disk, each one rename away from either its old or its new state.

A new object that must replace a whiteout, carry a mark, or be seen complete is built in the work directory under a temporary name and
renamed into place. What a crash leaves there is cleared at the next mount. Nothing here knows nodes; the caller records the effects
on its tables, this module on the ``LayerDir`` concerned.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unionfs import _libc
from unionfs.errors import UnionError
from unionfs.layer import Layer, LayerDir, is_null_device
from unionfs.types import Mark
from unionfs.whiteout import WH_OPAQUE, WhiteoutFormat, whiteout_name

#: Our directory in the work directory; kernel OverlayFS's own are ``work`` and ``index``, so both can take turns.
HOME = b"unionfs"
_TMP = b"tmp"
_OPAQUE_WRITTEN = "user.overlay.opaque"
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Makes an object under a name of a directory: ``make(dirfd, name)``.
Maker = Callable[[int, bytes], None]


class Upper:
    """The writable layer and its work directory."""

    def __init__(self, layer: Layer, work_fd: int, whiteouts: WhiteoutFormat | None = None) -> None:
        """Prepare the work directory *work_fd* (borrowed) and find out which marks this file system can hold.

        Args:
            layer: the upper layer.
            work_fd: the work directory, on the same file system as the layer.
            whiteouts: the format to write; None takes overlay where it works, else aufs.

        Raises:
            UnionError: the two are on different file systems, or *whiteouts* does not work here.
            OSError: the work directory cannot be written.
        """
        self.layer = layer
        if os.fstat(work_fd).st_dev != layer.device:
            raise UnionError("upperdir and workdir are on different file systems: put both in one")
        self.home_fd = _make_directory(work_fd, HOME)
        self._tmp_fd = _make_directory(self.home_fd, _TMP)
        self._serial = itertools.count()
        self.leftovers = remove_tree(self._tmp_fd)
        self.whiteouts = self._choose_format(whiteouts)

    def close(self) -> None:
        """Close the descriptors of the work directory."""
        os.close(self._tmp_fd)
        os.close(self.home_fd)

    def _choose_format(self, wanted: WhiteoutFormat | None) -> WhiteoutFormat:
        if wanted is WhiteoutFormat.AUFS:
            return wanted
        # Found out by doing: an unprivileged device 0:0 wants Linux 5.8 and a file system that has it, marks want user attributes.
        name = self._temporary()
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=self._tmp_fd)
            os.unlink(name, dir_fd=self._tmp_fd)
            os.mkdir(name, 0o700, dir_fd=self._tmp_fd)
            try:
                os.setxattr(_at(self._tmp_fd, name), _OPAQUE_WRITTEN, b"y", follow_symlinks=False)
            finally:
                os.rmdir(name, dir_fd=self._tmp_fd)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            if wanted is WhiteoutFormat.OVERLAY:
                raise UnionError(f"upperdir cannot hold overlay whiteouts: {error.strerror}; use whiteouts=aufs") from None
            return WhiteoutFormat.AUFS
        return WhiteoutFormat.OVERLAY

    def _temporary(self) -> bytes:
        return b"#%x" % next(self._serial)

    @contextmanager
    def building(self) -> Iterator[tuple[int, bytes]]:
        """Give the work directory and a name in it; whatever still has that name at the end is removed."""
        name = self._temporary()
        try:
            yield self._tmp_fd, name
        finally:
            self._discard(name)

    def _discard(self, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=self._tmp_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            fd = os.open(name, _OPEN_DIR, dir_fd=self._tmp_fd)
            try:
                remove_tree(fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=self._tmp_fd)

    # -- marks ---------------------------------------------------------------------------------------------------------------------

    def _make_whiteout(self, dirfd: int, name: bytes) -> None:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dirfd)

    def whiteout(self, directory: LayerDir, name: bytes) -> None:
        """Hide the lower *name* of *directory*, which has nothing of that name here."""
        if self.whiteouts is WhiteoutFormat.OVERLAY:
            self._make_whiteout(directory.fd(), name)
        else:
            _touch(directory.fd(), _whiteout_name(name))
        directory.note(name, Mark.WHITEOUT)

    def set_opaque(self, dirfd: int, name: bytes) -> None:
        """Make the directory *name* of *dirfd* hide those of lower layers."""
        if self.whiteouts is WhiteoutFormat.OVERLAY:
            os.setxattr(_at(dirfd, name), _OPAQUE_WRITTEN, b"y", follow_symlinks=False)
        else:
            fd = os.open(name, _OPEN_DIR, dir_fd=dirfd)
            try:
                _touch(fd, WH_OPAQUE)
            finally:
                os.close(fd)

    def _remove_aufs_whiteout(self, directory: LayerDir, name: bytes) -> None:
        try:
            os.unlink(_whiteout_name(name), dir_fd=directory.fd())
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise

    def _is_device_whiteout(self, directory: LayerDir, name: bytes) -> bool:
        try:
            return is_null_device(os.stat(name, dir_fd=directory.fd(), follow_symlinks=False))
        except FileNotFoundError:
            return False

    # -- new objects ---------------------------------------------------------------------------------------------------------------

    def create(self, directory: LayerDir, name: bytes, make: Maker) -> None:
        """Make a non-directory as *name* in *directory*, where the union has none; a whiteout there is replaced."""
        if directory.mark(name) is Mark.WHITEOUT:
            with self.building() as (tmp_fd, tmp):
                make(tmp_fd, tmp)
                self.publish(tmp, directory, name)
        else:
            make(directory.fd(), name)
            directory.note(name, Mark.OTHER)

    def create_directory(self, directory: LayerDir, name: bytes, make: Maker, *, opaque: bool) -> LayerDir:
        """Make a directory as *name* in *directory*; *opaque* hides lower ones. Returns it, known to be empty."""
        if opaque or directory.mark(name) is Mark.WHITEOUT:
            with self.building() as (tmp_fd, tmp):
                make(tmp_fd, tmp)
                if opaque:
                    self.set_opaque(tmp_fd, tmp)
                self.publish_directory(tmp, directory, name)
        else:
            make(directory.fd(), name)
            directory.note(name, Mark.DIRECTORY)
        child = directory.child(name)
        child.note_new(opaque=opaque)
        return child

    def publish(self, tmp: bytes, directory: LayerDir, name: bytes) -> None:
        """Rename the finished non-directory *tmp* of the work directory to *name*, over a whiteout or a file that may be there."""
        os.rename(tmp, name, src_dir_fd=self._tmp_fd, dst_dir_fd=directory.fd())
        if directory.mark(name) is Mark.WHITEOUT:
            self._remove_aufs_whiteout(directory, name)
        directory.note(name, Mark.OTHER)

    def publish_directory(self, tmp: bytes, directory: LayerDir, name: bytes) -> None:
        """Rename the finished directory *tmp* of the work directory to *name*, in exchange for a whiteout that may be there."""
        if directory.mark(name) is Mark.WHITEOUT:
            if self._is_device_whiteout(directory, name):
                _libc.renameat2(self._tmp_fd, tmp, directory.fd(), name, _libc.RENAME_EXCHANGE)
                os.unlink(tmp, dir_fd=self._tmp_fd)
            else:
                os.rename(tmp, name, src_dir_fd=self._tmp_fd, dst_dir_fd=directory.fd())
                self._remove_aufs_whiteout(directory, name)
        else:
            os.rename(tmp, name, src_dir_fd=self._tmp_fd, dst_dir_fd=directory.fd())
        directory.note(name, Mark.DIRECTORY)

    # -- removal -------------------------------------------------------------------------------------------------------------------

    def remove(self, directory: LayerDir, name: bytes, *, whiteout: bool) -> None:
        """Remove the non-directory *name* of *directory*, leaving a whiteout if a lower layer has the name."""
        if not whiteout:
            os.unlink(name, dir_fd=directory.fd())
            directory.note(name, None)
        elif self.whiteouts is WhiteoutFormat.OVERLAY:
            with self.building() as (tmp_fd, tmp):
                self._make_whiteout(tmp_fd, tmp)
                os.rename(tmp, name, src_dir_fd=tmp_fd, dst_dir_fd=directory.fd())
            directory.note(name, Mark.WHITEOUT)
        else:
            _touch(directory.fd(), _whiteout_name(name))
            os.unlink(name, dir_fd=directory.fd())
            directory.note(name, Mark.WHITEOUT)

    def remove_directory(self, directory: LayerDir, name: bytes, *, whiteout: bool) -> None:
        """Remove the directory *name* of *directory*, which holds nothing but marks, leaving a whiteout if a lower layer has the name."""
        with self.building() as (tmp_fd, tmp):
            if whiteout and self.whiteouts is WhiteoutFormat.OVERLAY:
                self._make_whiteout(tmp_fd, tmp)
                # At no instant is the name free: a lower directory, with names that this one hid, would show after a crash.
                _libc.renameat2(tmp_fd, tmp, directory.fd(), name, _libc.RENAME_EXCHANGE)
            else:
                if whiteout:
                    _touch(directory.fd(), _whiteout_name(name))
                os.rename(name, tmp, src_dir_fd=directory.fd(), dst_dir_fd=tmp_fd)
            directory.note(name, Mark.WHITEOUT if whiteout else None)

    # -- renaming ------------------------------------------------------------------------------------------------------------------

    def rename(
        self,
        source: tuple[LayerDir, bytes],
        target: tuple[LayerDir, bytes],
        *,
        whiteout: bool,
        is_dir: bool,
    ) -> None:
        """Rename within the upper layer, replacing what *target* has here (a file, an emptied directory, a whiteout).

        Args:
            source: directory and name; the object is in this layer, complete.
            target: directory and name.
            whiteout: leave a whiteout at the source.
            is_dir: the object is a directory.
        """
        (old_dir, old), (new_dir, new) = source, target
        target_mark = new_dir.mark(new)
        target_whiteout = target_mark is Mark.WHITEOUT
        displaced = is_dir and target_mark is not None
        if displaced and target_whiteout and not self._is_device_whiteout(new_dir, new):
            displaced = False
        leave_device = whiteout and self.whiteouts is WhiteoutFormat.OVERLAY
        if whiteout and not leave_device:
            _touch(old_dir.fd(), _whiteout_name(old))
        kind = Mark.DIRECTORY if is_dir else Mark.OTHER
        if displaced:
            # A directory cannot be renamed over a whiteout or a directory that holds marks: they change places, and what was
            # displaced leaves through the work directory or stays behind as the whiteout that is wanted there.
            _libc.renameat2(old_dir.fd(), old, new_dir.fd(), new, _libc.RENAME_EXCHANGE)
            if not (leave_device and target_whiteout):
                self._retire(old_dir, old, replace_by_whiteout=leave_device)
        else:
            flags = _libc.RENAME_WHITEOUT if leave_device else 0
            self._rename(old_dir.fd(), old, new_dir.fd(), new, flags)
        if target_whiteout:
            self._remove_aufs_whiteout(new_dir, new)
        moved = old_dir.child(old) if is_dir else None
        new_dir.note(new, kind)
        old_dir.note(old, Mark.WHITEOUT if whiteout else None)
        if moved is not None:
            moved.note_moved(new_dir, new)

    def _rename(self, old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
        try:
            if flags:
                _libc.renameat2(old_fd, old, new_fd, new, flags)
                return
        except OSError as error:
            # No RENAME_WHITEOUT on this file system (or none for us): the same by hand. The whiteout takes the source's place in one
            # exchange, and the object goes on to the target from the work directory.
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            with self.building() as (tmp_fd, tmp):
                self._make_whiteout(tmp_fd, tmp)
                _libc.renameat2(tmp_fd, tmp, old_fd, old, _libc.RENAME_EXCHANGE)
                os.rename(tmp, new, src_dir_fd=tmp_fd, dst_dir_fd=new_fd)
            return
        os.rename(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd)

    def _retire(self, directory: LayerDir, name: bytes, *, replace_by_whiteout: bool) -> None:
        with self.building() as (tmp_fd, tmp):
            if replace_by_whiteout:
                self._make_whiteout(tmp_fd, tmp)
                _libc.renameat2(tmp_fd, tmp, directory.fd(), name, _libc.RENAME_EXCHANGE)
            else:
                os.rename(name, tmp, src_dir_fd=directory.fd(), dst_dir_fd=tmp_fd)

    def exchange(self, first: tuple[LayerDir, bytes], second: tuple[LayerDir, bytes]) -> None:
        """Let two names of this layer change places (RENAME_EXCHANGE); both exist here and both are complete."""
        (a_dir, a), (b_dir, b) = first, second
        _libc.renameat2(a_dir.fd(), a, b_dir.fd(), b, _libc.RENAME_EXCHANGE)
        a_mark, b_mark = a_dir.mark(a), b_dir.mark(b)
        a_child = a_dir.child(a) if a_mark is not Mark.OTHER else None
        b_child = b_dir.child(b) if b_mark is not Mark.OTHER else None
        a_dir.note(a, b_mark)
        b_dir.note(b, a_mark)
        if a_child is not None:
            a_child.note_moved(b_dir, b)
        if b_child is not None:
            b_child.note_moved(a_dir, a)


def remove_tree(fd: int) -> int:
    """Remove everything below the directory *fd*, by descriptors, following nothing. Returns the number of entries removed."""
    removed = 0
    with os.scandir(_listable(fd)) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in found:
        if is_dir:
            child = os.open(name, _OPEN_DIR, dir_fd=fd)
            try:
                removed += remove_tree(child)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)
        removed += 1
    return removed


def _listable(fd: int) -> bytes:
    """Return a path of the O_PATH descriptor *fd* of a directory of ours, after making sure that it can be listed and emptied."""
    path = b"/proc/self/fd/%d" % fd
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.chmod(path, 0o700)
    return path


def _make_directory(dirfd: int, name: bytes) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=dirfd)
    except FileExistsError:
        pass
    return os.open(name, _OPEN_DIR, dir_fd=dirfd)


def _touch(dirfd: int, name: bytes) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dirfd))


def _whiteout_name(name: bytes) -> bytes:
    try:
        return whiteout_name(name)
    except ValueError:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name) from None


def _at(fd: int, name: bytes) -> bytes:
    return b"/proc/self/fd/%d/%s" % (fd, name)
