"""Copy-up: gives an object of a lower layer a copy in the writable one, whole or not at all.

:class:`CopyUp` decides which copy an object needs, makes room for it, and lets a
:class:`unionfs.copyup.transaction.Transaction` do the steps of :mod:`unionfs.copyup.plan`. A directory is copied without its
contents, after its ancestors. :mod:`unionfs.assemble` creates and closes it; the parts of :mod:`unionfs.vfs` call it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from unionfs.copyup.background_copy import BackgroundCopies
from unionfs.copyup.fill_metacopy import empty_in_place, fill_in_place
from unionfs.copyup.plan import Contents, Step, plan_copy_up
from unionfs.copyup.transaction import CopyUpContext, Transaction, restore_times, times_of
from unionfs.formats.xattrs import is_private
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import Layer, LayerDir, Ref
from unionfs.layer.metacopy import redirect_of
from unionfs.layer.objects import PathRef, is_null_device
from unionfs.layer.ownership import Ownership
from unionfs.types import Mark
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions, without_privileges
from unionfs.upper.quota import Quota
from unionfs.upper.upper import Upper
from unionfs.upper.workdir import COPY_PREFIX

#: Smaller files (in bytes) are copied with their contents: that takes no longer than a mark.
_WORTH_METACOPY = 16384
#: Bytes; the kernel writes no longer redirects (redirect_max, fs/overlayfs/super.c).
_LONGEST_METACOPY_REDIRECT = 256


class CopyUp:
    """Copies objects of one mount up. It owns the preallocated file and the work that is left for after the reply."""

    def __init__(
        self,
        inode_table: InodeTable,
        upper: Upper,
        index: LinkIndex,
        ownership: Ownership,
        permissions: Permissions,
        *,
        durable: bool,
        acls: bool = False,
        quota: Quota | None = None,
    ) -> None:
        """Join the parts.

        *durable*: contents are synced before a copy replaces the original. *acls*: access control lists are shown, so that
        the known attributes of an object are all that it has. *quota*: the limit of the layer, which includes the copies.
        """
        self._inode_table = inode_table
        self._upper = upper
        self._workdir = upper.workdir
        self._index = index
        self._ownership = ownership
        self._permissions = permissions
        self._quota = quota
        context = CopyUpContext(inode_table, upper, index, permissions, durable=durable, acls=acls)
        self._context = context
        self._preallocated_files = context.preallocated_files
        self._unfinished = context.unfinished
        #: Files of at least this size, in bytes, get a copy of their metadata alone if their contents do not change.
        self.least_metacopy = _WORTH_METACOPY
        #: Number of copies since the mount, for the statistics.
        self.copies = 0
        #: Called when a copy is going to be changed that the next mount will not find by all its names, as it drops the link
        #: index.
        self.on_index_dropped_later: Callable[[FileInode], None] | None = None

    @property
    def bytes_copied(self) -> int:
        """Number of bytes copied since the mount, for the statistics."""
        return self._context.bytes_copied

    @property
    def background(self) -> BackgroundCopies | None:
        """The copies of large files in threads; None: large files are copied when they are needed."""
        return self._context.background

    @background.setter
    def background(self, background: BackgroundCopies) -> None:
        self._context.background = background

    def prepare_next(self) -> None:
        """Preallocate a file after a copy, for the next one.

        The caller calls :meth:`finish` after each reply, and :meth:`make_room` when there is no room.
        """
        self._context.prepares = True

    def directory(self, inode: DirectoryInode) -> None:
        """Give *inode* and its ancestors a directory in the upper layer."""
        missing: list[DirectoryInode] = []
        at: DirectoryInode | None = inode
        while at is not None and at.upper is None:
            if at.removed:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), at.name)
            missing.append(at)
            at = at.parent
        for directory in reversed(missing):
            # Between two directories none is in use. There may be more directories than descriptors.
            self._upper.layer.fds.trim()
            self._one_directory(directory)

    def _one_directory(self, inode: DirectoryInode) -> None:
        parent = inode.parent
        assert parent is not None
        target = parent.upper
        assert target is not None
        self._upper.refuse_reserved(inode.name)
        source = inode.parts[0]
        info = source.stat()
        if self._quota is not None:
            self._quota.require(1, 1)
        times = times_of(target.stat())
        opaque = target.mark(inode.name) is Mark.WHITEOUT  # a skeleton shows it; deleted names stay deleted
        with self._workdir.building() as (tmp_fd, tmp):
            os.mkdir(tmp, 0o700, dir_fd=tmp_fd)
            if opaque:
                self._upper.marks.set_opaque(tmp_fd, tmp)
            self.make_alike(source, tmp_fd, tmp, info, xattrs=self._context.may_have_xattrs(inode))
            self._upper.publish_directory(tmp, target, inode.name)
        copy = target.child(inode.name)
        copy.note_new(opaque=opaque)
        if self._quota is not None:
            self._quota.made(copy.stat())
        inode.parts.insert(0, copy)
        inode.touch()
        restore_times(parent, target, times)
        self._note_below(source.layer, parent, inode.name, info)
        self.copies += 1

    def make_alike(
        self, source: LayerDir, tmp_fd: int, tmp: bytes, info: os.stat_result, *, xattrs: bool = True
    ) -> None:
        """Give the new directory *tmp* of *tmp_fd* what the lower directory *source* has: owner, mode and times of *info*, and
        attributes, if it may have *xattrs*.
        """
        transaction = self._transaction(source, source.layer, info, tmp_fd, tmp)
        transaction.set_owner()
        if xattrs and not source.shown_empty:
            transaction.copy_xattrs()
        self._permissions.restrict(tmp_fd, tmp, transaction.mode)
        os.utime(tmp, ns=times_of(info), dir_fd=tmp_fd, follow_symlinks=False)

    def _note_below(self, layer: Layer, parent: DirectoryInode, name: bytes, info: os.stat_result) -> None:
        """Record that *layer* has an object with *info* as *name* of *parent*, of which there is a copy now.

        An object of an earlier layer is not recorded, because the records of that layer describe the object below.
        """
        if self._upper.below_facts is not None and not (layer.skeleton or layer.earlier):
            self._upper.note_below(self._inode_table.base_path(parent) + b"/" + name, info)

    def file(
        self,
        inode: FileInode,
        contents: Contents = Contents.COPY,
        keep: list[int] | None = None,
        mode: int | None = None,
        *,
        finishes: bool = True,
    ) -> bool:
        """Give *inode* a copy in the upper layer, with *contents*. A copy of metadata alone is completed.

        Args:
            inode: the file.
            contents: the contents that the copy needs.
            keep: a list that gets a descriptor of a new copy, to read and write it, which is closed otherwise.
            mode: the permission bits of a new copy; None: those of the original.
            finishes: whether to call :meth:`finish` for a new copy. Without, the caller does after the reply; the copy-up
                must be all that the request changes.

        Returns:
            Whether the copy was made empty, so that the caller need not truncate it.
        """
        if not inode.layer.writable:
            self._new_copy(inode, contents, keep, mode)
            if finishes:
                self.finish()
        elif inode.metacopy and contents is Contents.COPY:
            self._complete(inode)
        elif inode.metacopy and contents is Contents.NONE:
            empty_in_place(self._context, inode)
        else:
            contents = Contents.COPY
        if inode.indexed and not self._index.lasts and self.on_index_dropped_later is not None:
            self.on_index_dropped_later(inode)
        return contents is Contents.NONE

    def _lower_place(self, inode: FileInode, size: int) -> bytes | None:
        """Return the path of *inode*, of *size* bytes, in the layers below; None if its contents are to be copied, too."""
        if size < self.least_metacopy or not (
            self._upper.metacopy and stat.S_ISREG(inode.kind) and inode.names
        ):
            return None
        directory, name = inode.names[0]
        place = self._inode_table.lower_path(directory) + b"/" + name
        return place if len(place) <= _LONGEST_METACOPY_REDIRECT else None

    def _new_copy(
        self, inode: FileInode, contents: Contents, keep: list[int] | None, mode: int | None
    ) -> None:
        below = inode.layer
        background = self._context.background
        regular = stat.S_ISREG(inode.kind)
        if inode.is_mount_point:
            contents = Contents.NONE
        contents_fd, info = self._open_source(inode, opens=regular and contents is not Contents.NONE)
        redirect, preallocated = b"", None
        try:
            if contents is Contents.LATER:
                redirect = self._lower_place(inode, info.st_size) or b"" if not _is_written(inode) else b""
                contents = Contents.LATER if redirect else Contents.COPY
            if inode.xattrs is None and inode.ref.known_no_xattrs:
                inode.xattrs = frozenset()
            if is_null_device(info):
                raise OSError(errno.EPERM, "a copy of a character device 0:0 would be a whiteout")
            if inode.names:
                self._upper.refuse_reserved(inode.names[0][1])
            if background is not None and contents is Contents.COPY and regular:
                self._require_room(inode, info, contents)
                background.require(inode.ino, inode.contents, info.st_size)
            if inode.names:
                self.directory(inode.names[0][0])
            if redirect:
                self._upper.use_feature("metacopy")
            self._require_room(inode, info, contents)  # again: the directories and the record have taken some
            steps = self._plan(inode, contents, info.st_nlink)
            # A file that is made empty gets the time of this request. A preallocated file has an earlier time.
            copied = regular and contents is not Contents.NONE
            preallocated = self._preallocated_files.take() if copied else None
            with self._workdir.building(COPY_PREFIX, preallocated.name if preallocated else None) as (
                tmp_fd,
                tmp,
            ):
                transaction = self._transaction(inode.ref, inode.layer, info, tmp_fd, tmp)
                transaction.redirect, transaction.contents_fd = redirect, contents_fd
                transaction.preallocated = preallocated
                if contents is Contents.NONE and regular:
                    transaction.truncated = True
                    transaction.mode = without_privileges(transaction.mode)
                if mode is not None:
                    transaction.mode = stat.S_IFMT(transaction.mode) | stat.S_IMODE(mode)
                transaction.run(inode, steps, keep)
            if inode.names:
                directory, name = inode.names[0]
                self._unfinished.append(lambda: self._note_below(below, directory, name, info))
        finally:
            if preallocated is not None:
                preallocated.close()
            if contents_fd >= 0:
                os.close(contents_fd)
        if self._quota is not None:
            self._quota.made(inode.ref.stat())
        self.copies += 1

    def root(self, inode: DirectoryInode, target: LayerDir) -> None:
        """Give *target*, the root directory of the next writable layer, the attributes of the root *inode*.

        Raises:
            OSError: an attribute cannot be set.
        """
        source = inode.parts[0]
        info, path = source.stat(), target.proc_path()
        for name in set(os.listxattr(path)) - set(source.list_xattrs()):
            if not is_private(name) and not name.startswith(
                "security."
            ):  # an ACL that the directory has inherited
                os.removexattr(path, name)
        transaction = self._transaction(source, source.layer, info, target.fd(), b".")
        transaction.set_owner()
        transaction.copy_xattrs()
        os.utime(b".", ns=times_of(info), dir_fd=target.fd())
        self._permissions.restrict(target.fd(), b".", transaction.mode)

    def finish(self) -> None:
        """Do the work that is left of the copy-up of this request, and prepare the next one. No client can see it."""
        while self._unfinished:
            self._unfinished.pop()()
        self._preallocated_files.passed()

    def make_room(self) -> None:
        """Remove the preallocated file, to make room."""
        self._preallocated_files.close()

    def close(self) -> None:
        """Finish the last copy-up, and remove the preallocated file."""
        self.finish()
        self.make_room()

    @staticmethod
    def _open_source(inode: FileInode, *, opens: bool) -> tuple[int, os.stat_result]:
        """Return a descriptor of the contents, or -1 if they are not needed, and the attributes of *inode*.

        Raises:
            OSError: ESTALE if the layer has an object of another type there by now.
        """
        source = inode.ref
        if (
            opens
            and source.archived() is None
            and not inode.metacopy
            and not source.layer.policy.override_stat
        ):
            try:
                return source.opened(os.O_RDONLY)
            except PermissionError:  # an empty file needs no descriptor
                # A client opened the file before it changed the mode and the layer was frozen.
                for handle in inode.handles if source.layer.frozen else ():
                    if handle.flags & os.O_ACCMODE != os.O_WRONLY:
                        return os.dup(handle.fd), os.fstat(handle.fd)
        info = source.stat()
        if stat.S_IFMT(info.st_mode) != inode.kind:
            raise OSError(errno.ESTALE, "the layer changed while mounted")
        return -1, info

    def _require_room(self, inode: FileInode, info: os.stat_result, contents: Contents) -> None:
        if self._quota is not None:
            size = min(info.st_size, info.st_blocks * 512) if contents is Contents.COPY else 0
            self._quota.require(max(1, size) - self._reserved(inode), 1)

    def _reserved(self, inode: FileInode) -> int:
        """Return how many bytes of the quota are reserved for the copy of *inode*."""
        background = self._context.background
        return 0 if background is None else background.reserved(inode.ino)

    def _plan(self, inode: FileInode, contents: Contents, links: int) -> tuple[Step, ...]:
        return plan_copy_up(
            inode.kind,
            contents=contents,
            links=links,
            named=bool(inode.names),
            durable=self._context.durable,
            lasting=self._inode_table.numbers.lasts(self._inode_table.recorded_number(inode)),
            # If the last name is lost, too, no name has to lead to the copy.
            elsewhere=not inode.names
            and not inode.layer.writable
            and self._inode_table.names_elsewhere(inode, links) > 0,
        )

    def remake(self, inode: FileInode, owner: tuple[int, int] | None = None, *, links: int = 1) -> None:
        """Replace *inode*, in the upper layer with a single name, by a new object with another *owner* that can have *links*
        names.

        Raises:
            OSError: EPERM if it has more names: they would keep the old object.
        """
        info = inode.ref.stat()
        place = _name_in_upper(inode)
        indexed = inode.indexed
        below = self._index.lower_names(inode.ino) if indexed else 0
        if info.st_nlink + below > 1 + indexed or (inode.names and place is None):
            raise OSError(errno.EPERM, "an object with several names cannot be replaced by a copy")
        contents = Contents.COPY if stat.S_ISREG(inode.kind) else Contents.NONE
        with self._workdir.building(COPY_PREFIX) as (tmp_fd, tmp):
            transaction = self._transaction(inode.ref, inode.layer, info, tmp_fd, tmp)
            transaction.owner, transaction.place = owner or transaction.owner, place
            transaction.links = links
            steps = self._plan(inode, contents, 1)
            transaction.run(inode, tuple(step for step in steps if step is not Step.INDEX))
        self.finish()
        if indexed and isinstance(inode.ref, PathRef):
            copy = self._index.replace(inode.ino, inode.ref)
            inode.ref, inode.indexed = copy or inode.ref, copy is not None

    def recreate(self, inode: FileInode, *, origin: bool) -> None:
        """Give the lower file *inode* a copy of its own at its one known name, in place of whatever non-directory is there.

        No other lower name leads to the copy. *origin*: a regular one keeps the inode number.
        """
        copied = stat.S_ISREG(inode.kind) and not inode.is_mount_point
        contents = Contents.COPY if copied else Contents.NONE
        with self._workdir.building(COPY_PREFIX) as (tmp_fd, tmp):
            transaction = self._transaction(inode.ref, inode.layer, inode.ref.stat(), tmp_fd, tmp)
            transaction.links = 1
            without = {Step.INDEX} if origin else {Step.INDEX, Step.ORIGIN}
            steps = self._plan(inode, contents, 1)
            transaction.run(inode, tuple(step for step in steps if step not in without))
        self.finish()

    def _complete(self, inode: FileInode) -> None:
        """Give a copy of metadata alone its contents."""
        before = inode.ref.stat()
        if self._quota is not None:
            self._quota.require(before.st_size - self._reserved(inode))
        # A copy that only names of lower layers lead to is in the index alone: it has no name at which to replace it.
        if before.st_nlink <= 1 and not inode.indexed:
            background = self._context.background
            if background is not None:
                background.require(inode.ino, inode.contents, before.st_size)
            self.remake(inode)
        else:
            fill_in_place(self._context, inode)
        inode.touch()
        if self._quota is not None:
            self._quota.changed(before.st_blocks, inode.ref.stat().st_blocks)
        self.copies += 1

    def settle_contents(self, inode: FileInode) -> None:
        """Complete *inode*, which gets another name, if it is a metadata copy without an absolute redirect.

        Our redirects are absolute. The kernel also writes marks that lead to the same name in the layers below.
        """
        if inode.metacopy and inode.layer.writable and not (redirect_of(inode.ref) or b"").startswith(b"/"):
            self.file(inode)

    def _transaction(
        self, source: Ref, layer: Layer, info: os.stat_result, tmp_fd: int, tmp: bytes
    ) -> Transaction:
        ownership = self._ownership.for_copy(info, layer)
        override = layer.policy.override_stat
        return Transaction(self._context, source, info, ownership, tmp_fd, tmp, override=override)


def _is_written(inode: FileInode) -> bool:
    """Return whether a client has *inode* open for writing, which it may have since before its layer was frozen."""
    return any(handle.flags & os.O_ACCMODE != os.O_RDONLY and not handle.internal for handle in inode.handles)


def _name_in_upper(inode: FileInode) -> tuple[DirectoryInode, bytes] | None:
    """Return a known name of *inode* that is an entry of the upper layer."""
    for directory, name in inode.names:
        if directory.upper is not None and directory.upper.mark(name) is Mark.OTHER:
            return directory, name
    return None
