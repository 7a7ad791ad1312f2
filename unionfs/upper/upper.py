"""The writable layer: every change on disk, each one rename away from either its old or its new state.

An object that must replace a whiteout, carry a mark, or appear complete is built in the work directory under a temporary
name and renamed into place. :class:`Upper` owns the work directory and the format of the layer. It records the effects of a
change on the ``LayerDir`` concerned; the caller records them on the inodes. :mod:`unionfs.assemble` creates and closes it;
:mod:`unionfs.vfs` and :mod:`unionfs.copyup` call it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress

from unionfs import _libc
from unionfs._stdlib.dataclasses import replace
from unionfs.errors import UnionError
from unionfs.formats.whiteout import WhiteoutFormat, is_reserved_name
from unionfs.formats.xattrs import METACOPY, METACOPY_XATTRS, REDIRECT, REDIRECT_XATTRS, USER_PREFIX
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.objects import at_path
from unionfs.types import Mark
from unionfs.upper.below_facts import BelowFactsLog
from unionfs.upper.format import ANY_FORMAT, WantedFormat, open_format
from unionfs.upper.marks import (
    AufsMarks,
    Marks,
    OverlayMarks,
    ignore,
    is_device,
    remove_aufs_whiteout,
    unlink_aufs_whiteout,
)
from unionfs.upper.workdir import WorkDirectory, move_directory

#: Bytes of an attribute that every file system has room for.
_ATTRIBUTE_ROOM = 1024
#: Makes an object under a name of a directory: ``make(dirfd, name)``.
Maker = Callable[[int, bytes], None]
_NO_NAMES = frozenset((b"", b".", b".."))


class Upper:
    """The writable layer and its work directory."""

    def __init__(
        self,
        layer: Layer,
        work_fd: int,
        wanted: WantedFormat = ANY_FORMAT,
        *,
        single_id: bool | None = None,
        records_below: bool = True,
    ) -> None:
        """Prepare the work directory *work_fd* (borrowed) and determine which marks this file system can hold.

        Args:
            layer: the upper layer. Its policy is set to the marks that count in it.
            work_fd: the work directory, on the same file system as the layer.
            wanted: the format to write; for None, the recorded format is used, or else one that works.
            single_id: whether this process owns a single id; None reads that from /proc.
            records_below: record what the layers below have where this layer hides or copies it first.

        Raises:
            UnionError: the two are on different file systems, in use, or what is *wanted* does not work here.
            OSError: the work directory cannot be written.
        """
        self.layer = layer
        self._wanted = wanted
        #: Called before a record is written to the root for the first time; may refuse it.
        self.on_record: Callable[[], None] = ignore
        self.workdir = WorkDirectory(work_fd, layer)
        with ExitStack() as undo:
            undo.callback(self.workdir.close)
            scratch = self.workdir.open_scratch()
            try:
                self._format = open_format(
                    layer, scratch, wanted, shared=self.workdir.used_by_kernel, single_id=single_id
                )
            finally:
                os.close(scratch)
            #: The log of *records_below*.
            self.below_facts = BelowFactsLog(self.workdir.home_fd) if records_below else None
            undo.pop_all()
        self.whiteouts = self._format.whiteouts
        self.marks: Marks = (
            OverlayMarks(self.workdir, self._format.prefix)
            if self.whiteouts is WhiteoutFormat.OVERLAY
            else AufsMarks(self.workdir)
        )

    def successor(self, layer: Layer, work_fd: int) -> Upper:
        """Prepare *layer*, which is empty, and its work directory *work_fd* (borrowed) as the next writable layer, in the same format.

        Raises:
            UnionError: the two are on different file systems, in use, or cannot hold the format.
            OSError: the work directory cannot be written.
        """
        wanted = replace(
            self._wanted,
            whiteouts=self.whiteouts,
            user_marks=self._format.prefix == USER_PREFIX,
            override_stat=self.layer.policy.override_stat,
        )
        made = Upper(layer, work_fd, wanted, records_below=self.below_facts is not None)
        with ExitStack() as undo:
            undo.callback(made.close)
            if (made.redirect, made.metacopy) != (self.redirect, self.metacopy):
                raise UnionError("new upperdir cannot hold the marks of the present one: use one like it")
            made.workdir.clear_leftovers()
            undo.pop_all()
        return made

    def become(self, successor: Upper) -> None:
        """Continue with the layer of *successor*, which gets the present one, to close it."""
        self.workdir.exchange(successor.workdir)
        self.layer, successor.layer = successor.layer, self.layer
        self._format, successor._format = successor._format, self._format
        self.below_facts, successor.below_facts = successor.below_facts, self.below_facts

    def close(self) -> None:
        """Close the work directory. Another mount can then use it."""
        if self.below_facts is not None:
            self.below_facts.close()
        self.workdir.close()

    def note_below(self, path: bytes, info: os.stat_result) -> None:
        """Record that the layers below have an object with *info* at *path*, which begins with a slash."""
        if self.below_facts is not None:
            self.below_facts.note(path, info)

    def refuse_reserved(self, name: bytes) -> None:
        """Raise EPERM if *name* cannot be an entry of this layer, because it would be read as a mark.

        A name that is a path is EINVAL: it would lead out of the layer. The kernel sends no such request.
        """
        if b"/" in name or name in _NO_NAMES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        if is_reserved_name(name, self.layer.policy):
            raise OSError(errno.EPERM, "names that begin with .wh. are whiteouts in this layer", name)

    def whiteout(self, directory: LayerDir, name: bytes) -> None:
        """Hide the lower *name* of *directory*, which has nothing of that name here."""
        self.refuse_reserved(name)
        self.marks.whiteout(directory, name)
        directory.note(name, Mark.WHITEOUT)

    # -- redirects and copies of metadata ----------------------------------------------------------

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
        """Record on *directory*, of this layer, its path in the layers below. While the two paths are equal, that changes nothing.

        Raises:
            OSError: EXDEV where *redirect* is longer than an attribute may be.
        """
        self.use_feature("redirect")
        try:
            os.setxattr(directory.proc_path(), self._format.prefix + REDIRECT, redirect)
        except OSError as error:
            # ext4 and others store all attributes of an object in one block, and return ENOSPC when that is full.
            too_long = error.errno == errno.ENOSPC and len(redirect) > _ATTRIBUTE_ROOM
            if not too_long and error.errno not in (errno.E2BIG, errno.ERANGE):
                raise
            raise OSError(errno.EXDEV, "the path is too long for a redirect", redirect) from None
        directory.note_redirect(redirect)

    def set_metacopy(self, fd: int, redirect: bytes) -> None:
        """Mark the new file *fd* as a copy of metadata alone, whose contents the layers below have at *redirect*."""
        os.setxattr(fd, self._format.prefix + REDIRECT, redirect)
        os.setxattr(fd, self._format.prefix + METACOPY, b"")

    def clear_metacopy(self, path: bytes, *, follow: bool) -> None:
        """Remove the mark of :meth:`set_metacopy`: the file has its contents now."""
        present = os.listxattr(path, follow_symlinks=follow)
        for name in METACOPY_XATTRS:
            if name in present:
                os.removexattr(path, name, follow_symlinks=follow)
        for name in REDIRECT_XATTRS:
            if name in present:
                with suppress(OSError):  # it has no effect on a file that has its contents
                    os.removexattr(path, name, follow_symlinks=follow)

    # -- new objects -------------------------------------------------------------------------------

    def create(self, directory: LayerDir, name: bytes, make: Maker, *, whole: bool = True) -> None:
        """Make a non-directory as *name* in *directory*, where the union has none; a whiteout there is
        replaced. *whole*: *make* is one system call, so that no half of the object can be seen.
        """
        if not whole or directory.mark(name) is Mark.WHITEOUT:
            with self.workdir.building() as (tmp_fd, tmp):
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
            with self.workdir.building() as (tmp_fd, tmp):
                make(tmp_fd, tmp)
                if opaque:
                    self.marks.set_opaque(tmp_fd, tmp)
                self.publish_directory(tmp, directory, name)
        else:
            make(directory.fd(), name)
            directory.note(name, Mark.DIRECTORY)
        child = directory.child(name)
        child.note_new(opaque=opaque)
        return child

    def publish(self, tmp: bytes, directory: LayerDir, name: bytes) -> None:
        """Rename the finished non-directory *tmp* of the work directory to *name*, over a whiteout or a file that may be there, or in
        exchange for a directory, which only discarding changes replaces.
        """
        mark = directory.mark(name)
        if mark is Mark.DIRECTORY or mark is Mark.OPAQUE_DIRECTORY:
            move_directory(directory.fd(), name, self.workdir.tmp_fd, tmp, _libc.RENAME_EXCHANGE)
        else:
            self.workdir.place(tmp, directory.fd(), name)
        if mark is Mark.WHITEOUT:
            remove_aufs_whiteout(directory, name)
        directory.note(name, Mark.OTHER)

    def publish_directory(self, tmp: bytes, directory: LayerDir, name: bytes) -> None:
        """Rename the finished directory *tmp* of the work directory to *name*, in exchange for a whiteout
        that may be there.
        """
        if directory.mark(name) is Mark.WHITEOUT and is_device(directory, name):
            move_directory(self.workdir.tmp_fd, tmp, directory.fd(), name, _libc.RENAME_EXCHANGE)
        else:
            move_directory(self.workdir.tmp_fd, tmp, directory.fd(), name)
            if directory.mark(name) is Mark.WHITEOUT:
                remove_aufs_whiteout(directory, name)
        directory.note(name, Mark.DIRECTORY)

    # -- removal -----------------------------------------------------------------------------------

    def remove(self, directory: LayerDir, name: bytes, *, whiteout: bool) -> None:
        """Remove the non-directory *name* of *directory*, leaving a whiteout if a lower layer has the name."""
        if whiteout:
            self.marks.replace(directory, name)
        else:
            os.unlink(name, dir_fd=directory.fd())
        directory.note(name, Mark.WHITEOUT if whiteout else None)

    def remove_directory(self, directory: LayerDir, name: bytes, *, whiteout: bool) -> None:
        """Remove the directory *name* of *directory*, which holds nothing but marks, leaving a whiteout if a
        lower layer has the name.
        """
        if whiteout:
            self.marks.replace_directory(directory, name)
        else:
            self.workdir.discard_directory(directory.fd(), name)
        directory.note(name, Mark.WHITEOUT if whiteout else None)

    def clear(self, directory: LayerDir, name: bytes) -> None:
        """Remove whatever this layer has of *name* in *directory*: an entry, with everything below it, or a whiteout. The layers
        below show through then.
        """
        unlink_aufs_whiteout(directory, name)
        try:
            mode = os.stat(name, dir_fd=directory.fd(), follow_symlinks=False).st_mode
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(mode):
                self.workdir.discard_directory(directory.fd(), name)
            else:
                os.unlink(name, dir_fd=directory.fd())
        directory.note(name, None)

    def put_directory(self, tmp: bytes, directory: LayerDir, name: bytes) -> None:
        """Rename the finished directory *tmp* of the work directory to *name*, in exchange for whatever is there.

        Unlike :meth:`publish_directory`, it merges with the layers below even where *name* was deleted in the form of a file.
        """
        present = os.path.lexists(at_path(directory.fd(), name))
        flags = _libc.RENAME_EXCHANGE if present else 0
        move_directory(self.workdir.tmp_fd, tmp, directory.fd(), name, flags)
        directory.note(name, None)  # the cached child, if there is one, is another directory
        directory.note(name, Mark.OPAQUE_DIRECTORY)
        unlink_aufs_whiteout(directory, name)
        directory.note(name, Mark.DIRECTORY)

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
        whiteout = self.marks.rename(source, target, whiteout=whiteout, is_dir=is_dir)
        if target_mark is Mark.WHITEOUT:
            remove_aufs_whiteout(new_dir, new)
        moved = old_dir.child(old) if is_dir else None
        new_dir.note(new, Mark.DIRECTORY if is_dir else Mark.OTHER)
        old_dir.note(old, Mark.WHITEOUT if whiteout else None)
        if moved is not None:
            moved.note_moved(new_dir, new)

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
