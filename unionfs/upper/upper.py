"""The writable layer: every change on disk, each one rename away from either its old or its new state.

A new object that must replace a whiteout, carry a mark, or be seen complete is built in the work directory
under a temporary name and renamed into place. What a crash leaves there is cleared at the next mount. Nothing
here knows nodes; the caller records the effects on its tables, this module on the ``LayerDir`` concerned.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from unionfs import _libc
from unionfs.errors import UnionError
from unionfs.formats import acl
from unionfs.formats.whiteout import WH_OPAQUE, WhiteoutFormat, is_reserved_name, whiteout_name
from unionfs.formats.xattrs import METACOPY, METACOPY_XATTRS, OPAQUE, REDIRECT, REDIRECT_XATTRS
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.objects import NO_XATTR, at_path, is_null_device
from unionfs.types import Mark
from unionfs.upper.format import ANY_FORMAT, WantedFormat, open_format

#: Our directory in the work directory; kernel OverlayFS's own are ``work`` and ``index``, so both can take
#: turns.
HOME = b"unionfs"
_TMP = b"tmp"
#: Where it is tried what the file system can hold.
_SCRATCH = b"scratch"
#: Begins the temporary names of copies of lower files.
COPY_PREFIX = b"+"
#: Seconds to wait for a server that is ending to let go of the work directory.
_LOCK_PATIENCE = 5.0
#: Bytes of an attribute that every file system has room for.
_ATTRIBUTE_ROOM = 1024
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Makes an object under a name of a directory: ``make(dirfd, name)``.
Maker = Callable[[int, bytes], None]
_NO_NAMES = frozenset((b"", b".", b".."))


class _Building:
    """What :meth:`Upper.building` gives; a class, as a generator takes twice as long and each copy needs one."""

    __slots__ = ("_name", "_upper")

    def __init__(self, upper: Upper, name: bytes) -> None:
        self._upper = upper
        self._name = name

    def __enter__(self) -> tuple[int, bytes]:
        return self._upper.tmp_fd, self._name

    def __exit__(self, *_: object) -> None:
        self._upper.end_building(self._name)


class Upper:
    """The writable layer and its work directory."""

    def __init__(
        self, layer: Layer, work_fd: int, wanted: WantedFormat = ANY_FORMAT, *, single_id: bool | None = None
    ) -> None:
        """Prepare the work directory *work_fd* (borrowed) and find out which marks this file system can hold.

        Args:
            layer: the upper layer. Its policy is set to what has to be honoured in it.
            work_fd: the work directory, on the same file system as the layer.
            wanted: the format to write; None takes what is recorded, and then what works.
            single_id: whether this process owns a single id; None reads that from /proc.

        Raises:
            UnionError: the two are on different file systems, in use, or what is *wanted* does not work here.
            OSError: the work directory cannot be written.
        """
        self.layer = layer
        if os.fstat(work_fd).st_dev != layer.device:
            raise UnionError("upperdir and workdir are on different file systems: put both in one")
        self._serial = itertools.count()
        #: The temporary name that was renamed into place last.
        self._placed = b""
        #: Called for each deletion mark that is made.
        self.on_mark: Callable[[], None] = _ignore
        #: Called before a record is written to the root for the first time; may refuse it.
        self.on_record: Callable[[], None] = _ignore
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
            scratch = _make_directory(self.home_fd, _SCRATCH)
            undo.callback(os.close, scratch)
            remove_tree(scratch)
            shared = _kernel_was_here(work_fd)
            self._format = open_format(layer, scratch, wanted, shared=shared, single_id=single_id)
            self.whiteouts = self._format.whiteouts
            undo.pop_all()
        os.close(scratch)

    def clear_leftovers(self) -> int:
        """Remove what a server that ended before its time left in the work directory; returns how many objects.

        Only after the index has dropped the entries of unpublished copies: it knows them by what lies here.
        """
        return remove_tree(self.tmp_fd)

    def close(self) -> None:
        """Close the descriptors of the work directory, which is then free for another mount."""
        os.close(self.tmp_fd)
        for fd in self._lock_fds:
            os.close(fd)
        os.close(self.home_fd)

    def save(self, name: bytes, data: bytes) -> None:
        """Make *data* the contents of the file *name* of our part of the work directory: old or new, never half."""
        with self.building() as (tmp_fd, tmp):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(tmp, flags, 0o600, dir_fd=tmp_fd), "wb") as file:
                file.write(data)
            os.rename(tmp, name, src_dir_fd=tmp_fd, dst_dir_fd=self.home_fd)

    def building(self, prefix: bytes = b"#", name: bytes | None = None) -> _Building:
        """Give the work directory and a name in it, *name* or a new one; whatever still has that name at the end is removed."""
        return _Building(self, name or self.new_name(prefix))

    def new_name(self, prefix: bytes = b"#") -> bytes:
        """Return a name that nothing in the work directory has had."""
        return b"%s%x" % (prefix, next(self._serial))

    def end_building(self, name: bytes) -> None:
        """Remove what still has the temporary *name*."""
        try:
            if name != self._placed:
                self._discard(name)
        except OSError:
            pass  # the change itself is done, or has failed for its own reason; the next mount clears this

    def begin_copy(self, name: bytes, mode: int = 0o600) -> int:
        """Make an empty file of the temporary *name* in the work directory; returns a descriptor to read and write it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=self.tmp_fd)

    def rename_temporary(self, name: bytes, to: bytes) -> None:
        """Give the temporary *name* another one."""
        os.rename(name, to, src_dir_fd=self.tmp_fd, dst_dir_fd=self.tmp_fd)

    def discard_copy(self, name: bytes) -> None:
        """Remove what :meth:`begin_copy` made; where that fails, the next mount does."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self.tmp_fd)

    def _discard(self, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=self.tmp_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            fd = os.open(name, _OPEN_DIR, dir_fd=self.tmp_fd)
            try:
                remove_tree(fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=self.tmp_fd)

    # -- marks -------------------------------------------------------------------------------------

    def refuse_reserved(self, name: bytes) -> None:
        """Raise EPERM if *name* cannot be an entry of this layer, because it would be read as a mark.

        A name that is a path, which the kernel asks for by no request, is EINVAL: it would lead out of the layer.
        """
        if b"/" in name or name in _NO_NAMES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        if is_reserved_name(name, self.layer.policy):
            raise OSError(errno.EPERM, "names in .wh. are whiteouts in this layer", name)

    def _make_whiteout(self, dirfd: int, name: bytes) -> None:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dirfd)
        self.on_mark()

    def _mark_by_name(self, directory: LayerDir, name: bytes) -> None:
        _touch(directory.fd(), _whiteout_name(name))
        self.on_mark()

    def whiteout(self, directory: LayerDir, name: bytes) -> None:
        """Hide the lower *name* of *directory*, which has nothing of that name here."""
        self.refuse_reserved(name)
        if self.whiteouts is WhiteoutFormat.OVERLAY:
            self._make_whiteout(directory.fd(), name)
        else:
            self._mark_by_name(directory, name)
        directory.note(name, Mark.WHITEOUT)

    def set_opaque(self, dirfd: int, name: bytes) -> None:
        """Make the directory *name* of *dirfd* hide those of lower layers."""
        if self.whiteouts is WhiteoutFormat.OVERLAY:
            os.setxattr(at_path(dirfd, name), self._format.prefix + OPAQUE, b"y", follow_symlinks=False)
        else:
            fd = os.open(name, _OPEN_DIR, dir_fd=dirfd)
            try:
                before = os.fstat(fd)
                _touch(fd, WH_OPAQUE)
                with suppress(
                    OSError
                ):  # not ours to change; that of a directory of somebody else is then now
                    os.utime(b"/proc/self/fd/%d" % fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            finally:
                os.close(fd)

    @property
    def redirect(self) -> bool:
        """Whether directories of lower layers can be renamed."""
        return self._format.redirect

    @property
    def metacopy(self) -> bool:
        """Whether metadata can be copied alone."""
        return self._format.metacopy

    def use_feature(self, name: str) -> None:
        """Record that marks of the feature *name* (``redirect``, ``metacopy``) are going to be in the layer."""
        if not self._format.has_feature(name):
            self.on_record()
            self._format.use_feature(name)

    def set_redirect(self, directory: LayerDir, redirect: bytes) -> None:
        """Say on *directory*, of this layer, where the layers below have it; at its place, that changes nothing.

        Raises:
            OSError: EXDEV where *redirect* is longer than an attribute may be.
        """
        self.use_feature("redirect")
        try:
            os.setxattr(directory.proc_path(), self._format.prefix + REDIRECT, redirect)
        except OSError as error:
            # ext4 and others give all attributes of an object one block, and say ENOSPC when that is full.
            too_long = error.errno == errno.ENOSPC and len(redirect) > _ATTRIBUTE_ROOM
            if not too_long and error.errno not in (errno.E2BIG, errno.ERANGE):
                raise
            raise OSError(errno.EXDEV, "path too long for a redirect", redirect) from None
        directory.note_redirect(redirect)

    def set_metacopy(self, fd: int, redirect: bytes) -> None:
        """Mark the new file *fd* as a copy of metadata alone, whose contents the layers below have at *redirect*."""
        os.setxattr(fd, self._format.prefix + REDIRECT, redirect)
        os.setxattr(fd, self._format.prefix + METACOPY, b"")

    def clear_metacopy(self, path: bytes, *, follow: bool) -> None:
        """Take that mark away: the file has its contents now."""
        present = os.listxattr(path, follow_symlinks=follow)
        for name in METACOPY_XATTRS:
            if name in present:
                os.removexattr(path, name, follow_symlinks=follow)
        for name in REDIRECT_XATTRS:
            if name in present:
                with suppress(OSError):  # it says nothing on a file that has its contents
                    os.removexattr(path, name, follow_symlinks=follow)

    def _remove_aufs_whiteout(self, directory: LayerDir, name: bytes) -> None:
        try:
            os.unlink(_whiteout_name(name), dir_fd=directory.fd())
        except OSError:
            # Seldom there, and where it stays it does no harm: beside an entry it hides lower layers only, and the
            # entry does that already, a directory being opaque where lower layers have the name.
            pass

    def _is_device(self, directory: LayerDir, name: bytes) -> bool:
        """Tell whether a whiteout in the form of a device lies at *name*."""
        try:
            return is_null_device(os.stat(name, dir_fd=directory.fd(), follow_symlinks=False))
        except FileNotFoundError:
            return False

    # -- new objects -------------------------------------------------------------------------------

    def create(self, directory: LayerDir, name: bytes, make: Maker, *, whole: bool = True) -> None:
        """Make a non-directory as *name* in *directory*, where the union has none; a whiteout there is
        replaced. *whole*: *make* is one system call, so that no half of the object can be seen.
        """
        if not whole or directory.mark(name) is Mark.WHITEOUT:
            with self.building() as (tmp_fd, tmp):
                make(tmp_fd, tmp)
                self.publish(tmp, directory, name)
        else:
            make(directory.fd(), name)
            directory.note(name, Mark.OTHER)

    def create_directory(
        self, directory: LayerDir, name: bytes, make: Maker, *, opaque: bool, whole: bool = True
    ) -> LayerDir:
        """Make a directory as *name* in *directory*; *opaque* hides lower ones, *whole* as for :meth:`create`.
        Returns it, known to be empty.
        """
        if opaque or not whole or directory.mark(name) is Mark.WHITEOUT:
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
        """Rename the finished non-directory *tmp* of the work directory to *name*, over a whiteout or a file
        that may be there.
        """
        os.rename(tmp, name, src_dir_fd=self.tmp_fd, dst_dir_fd=directory.fd())
        self._placed = tmp
        if directory.mark(name) is Mark.WHITEOUT:
            self._remove_aufs_whiteout(directory, name)
        directory.note(name, Mark.OTHER)

    def publish_directory(self, tmp: bytes, directory: LayerDir, name: bytes) -> None:
        """Rename the finished directory *tmp* of the work directory to *name*, in exchange for a whiteout
        that may be there.
        """
        if directory.mark(name) is Mark.WHITEOUT and self._is_device(directory, name):
            self._move_directory(self.tmp_fd, tmp, directory.fd(), name, _libc.RENAME_EXCHANGE)
        else:
            self._move_directory(self.tmp_fd, tmp, directory.fd(), name, 0)
            if directory.mark(name) is Mark.WHITEOUT:
                self._remove_aufs_whiteout(directory, name)
        directory.note(name, Mark.DIRECTORY)

    def _move_directory(self, old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
        """Rename the directory *old* to another parent, whatever its mode.

        Its entry ``..`` changes, which wants write permission on it: without privileges it has it for a moment.
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

    # -- removal -----------------------------------------------------------------------------------

    def remove(self, directory: LayerDir, name: bytes, *, whiteout: bool) -> None:
        """Remove the non-directory *name* of *directory*, leaving a whiteout if a lower layer has the name."""
        if not whiteout:
            os.unlink(name, dir_fd=directory.fd())
            directory.note(name, None)
        elif self.whiteouts is WhiteoutFormat.OVERLAY:
            with self.building() as (tmp_fd, tmp):
                self._make_whiteout(tmp_fd, tmp)
                os.rename(tmp, name, src_dir_fd=tmp_fd, dst_dir_fd=directory.fd())
                self._placed = tmp
            directory.note(name, Mark.WHITEOUT)
        else:
            self._mark_by_name(directory, name)
            os.unlink(name, dir_fd=directory.fd())
            directory.note(name, Mark.WHITEOUT)

    def remove_directory(self, directory: LayerDir, name: bytes, *, whiteout: bool) -> None:
        """Remove the directory *name* of *directory*, which holds nothing but marks, leaving a whiteout if a
        lower layer has the name.
        """
        if whiteout and self.whiteouts is WhiteoutFormat.OVERLAY:
            with self.building() as (tmp_fd, tmp):
                self._make_whiteout(tmp_fd, tmp)
                # At no instant is the name free: a lower directory, with names that this one hid, would show
                # after a crash.
                self._move_directory(directory.fd(), name, tmp_fd, tmp, _libc.RENAME_EXCHANGE)
        else:
            if whiteout:
                self._mark_by_name(directory, name)
            try:
                os.rmdir(name, dir_fd=directory.fd())
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                with self.building() as (tmp_fd, tmp):
                    self._move_directory(directory.fd(), name, tmp_fd, tmp, 0)
        directory.note(name, Mark.WHITEOUT if whiteout else None)

    # -- renaming ----------------------------------------------------------------------------------

    def rename(
        self,
        source: tuple[LayerDir, bytes],
        target: tuple[LayerDir, bytes],
        *,
        whiteout: bool,
        is_dir: bool,
    ) -> None:
        """Rename within the upper layer, replacing what *target* has here.

        That may be a whiteout, a file, or a directory that shows as empty but may hold marks.

        Args:
            source: directory and name; the object is in this layer, complete.
            target: directory and name.
            whiteout: leave a whiteout at the source.
            is_dir: the object is a directory.
        """
        (old_dir, old), (new_dir, new) = source, target
        target_mark = new_dir.mark(new)
        if self.whiteouts is WhiteoutFormat.OVERLAY:
            whiteout = self._rename_overlay(source, target, whiteout=whiteout, is_dir=is_dir)
        else:
            self._rename_aufs(source, target, whiteout=whiteout, is_dir=is_dir)
        if target_mark is Mark.WHITEOUT:
            self._remove_aufs_whiteout(new_dir, new)
        moved = old_dir.child(old) if is_dir else None
        new_dir.note(new, Mark.DIRECTORY if is_dir else Mark.OTHER)
        old_dir.note(old, Mark.WHITEOUT if whiteout else None)
        if moved is not None:
            moved.note_moved(new_dir, new)

    def _rename_overlay(
        self, source: tuple[LayerDir, bytes], target: tuple[LayerDir, bytes], *, whiteout: bool, is_dir: bool
    ) -> bool:
        """Rename; returns whether a whiteout lies at *source* now."""
        (old_dir, old), (new_dir, new) = source, target
        flags = _libc.RENAME_WHITEOUT if whiteout else 0
        if is_dir and new_dir.mark(new) is not None:
            if self._is_device(new_dir, new):
                # A directory cannot be renamed over the device: they change places, and the device stays behind
                # as the whiteout that is wanted there, or hides nothing for the moment until it is removed.
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
        """Replace the directory *name*, which shows as empty, by one that is empty on disk and opaque; if what is
        done then fails, it comes back.

        A directory that holds whiteouts cannot be renamed over, and without them what they hide would show. Its
        attributes come along: a kill may leave the replacement.
        """
        at = os.open(name, _OPEN_DIR, dir_fd=directory.fd())
        try:
            path = _listable(at)
            if not os.listdir(path):
                yield
                return
            with self.building() as (tmp_fd, tmp):
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
        """Make an opaque directory that shows as the directory of the descriptor *model* does."""
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
                    # As a security module's label: the replacement has been given one of its own.
                    if error.errno != errno.EPERM or not attribute.startswith(("trusted.", "security.")):
                        raise
        self.set_opaque(dirfd, name)
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=dirfd)
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=dirfd, follow_symlinks=False)

    def _rename_aufs(
        self, source: tuple[LayerDir, bytes], target: tuple[LayerDir, bytes], *, whiteout: bool, is_dir: bool
    ) -> None:
        (old_dir, old), (new_dir, new) = source, target
        if whiteout:
            # Beside the entry it changes nothing that shows: it hides lower layers only.
            self._mark_by_name(old_dir, old)
        in_the_way = is_dir and os.path.lexists(at_path(new_dir.fd(), new))
        if in_the_way:
            self._clear_the_way(new_dir, new)
        os.rename(old, new, src_dir_fd=old_dir.fd(), dst_dir_fd=new_dir.fd())
        if in_the_way:
            self._remove_aufs_whiteout(new_dir, new)

    def _clear_the_way(self, directory: LayerDir, name: bytes) -> None:
        """Make it possible to rename a directory over *name*: a directory that shows as empty, or a device.

        A whiteout beside the directory hides all that the marks inside it hide, so they can go; one beside the
        device does what the device does.
        """
        if self._is_device(directory, name):
            self._mark_by_name(directory, name)
            os.unlink(name, dir_fd=directory.fd())
            return
        fd = os.open(name, _OPEN_DIR, dir_fd=directory.fd())
        try:
            path = _listable(fd)
            if os.listdir(path):
                self._mark_by_name(directory, name)
                for attribute in os.listxattr(path):
                    if attribute in REDIRECT_XATTRS:  # the whiteout does not hide what it leads to
                        os.removexattr(path, attribute)
                remove_tree(fd)
        finally:
            os.close(fd)

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


def _ignore() -> None:
    pass


def _kernel_was_here(work_fd: int) -> bool:
    """Tell whether kernel OverlayFS has used the work directory: it leaves ``work`` there, and ``index``."""
    return any(os.path.lexists(at_path(work_fd, name)) for name in (b"work", b"index"))


def _copies_in(tmp_fd: int) -> frozenset[int]:
    with os.scandir(_listable(tmp_fd)) as entries:
        return frozenset(
            entry.inode() for entry in entries if os.fsencode(entry.name).startswith(COPY_PREFIX)
        )


def remove_tree(fd: int) -> int:
    """Remove everything below the directory *fd*, by descriptors, following nothing. Returns the number of
    entries removed.
    """
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
    """Return a path of the O_PATH descriptor *fd* of a directory of ours, after making sure that it can be
    listed and emptied.
    """
    path = b"/proc/self/fd/%d" % fd
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.chmod(path, 0o700)
    return path


def _make_directory(dirfd: int, name: bytes) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=dirfd)
    except FileExistsError:
        pass
    fd = os.open(name, _OPEN_DIR, dir_fd=dirfd)
    try:
        # One that it has inherited would give what is made here rights that are nobody's.
        os.removexattr(b"/proc/self/fd/%d" % fd, acl.DEFAULT)
    except OSError as error:
        if error.errno not in NO_XATTR:
            os.close(fd)
            raise
    return fd


def _lock(directory_fd: int, role: str) -> int:
    """Take a directory, the *role* of which is for messages, for this process; returns the descriptor that holds the
    lock.

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
                f"{role} is in use by another mount: unmount that one, or use another upperdir and workdir"
            ) from None
        except OSError:
            pass  # a file system without such locks, as NFS without its lock daemon
        return fd


def _touch(dirfd: int, name: bytes) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dirfd))


def _whiteout_name(name: bytes) -> bytes:
    try:
        return whiteout_name(name)
    except ValueError:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name) from None
