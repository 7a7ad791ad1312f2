"""One copy-up: makes the copy at a temporary name, gives it contents and attributes, and puts it in the original's place.

:class:`CopyUpContext` has what all copy-ups of a mount share; :class:`unionfs.copyup.copyup.CopyUp` creates it. A
:class:`Transaction` has the facts of one copy-up, which ends with it: CopyUp creates it for each copy. A failed step leaves
the original in its place, except for these failures, which are ignored:

* extended attributes that the upper file system cannot hold (EOPNOTSUPP), but not access control lists: without them, more
  would be allowed;
* ``trusted.*`` and ``security.*`` attributes that this user may not set (EPERM);
* times of the parent directory that cannot be restored: by then the copy has its name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress

from unionfs.copyup.background_copy import BackgroundCopies
from unionfs.copyup.copy_data import Copier
from unionfs.copyup.plan import Step
from unionfs.copyup.preallocated import PreallocatedFile, PreallocatedFiles
from unionfs.formats import acl
from unionfs.formats.xattrs import shown_name, stored_name
from unionfs.inode.handles import FileHandle
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import LayerDir, Ref
from unionfs.layer.objects import DescriptorRef, PathRef
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions
from unionfs.upper.upper import Upper

CAPABILITY = "security.capability"
_SET_ID = stat.S_ISUID | stat.S_ISGID


class CopyUpContext:
    """What the copy-ups of one mount share: the parts of the writable layer, and the work that is left for later."""

    __slots__ = (
        "acls",
        "background",
        "bytes_copied",
        "copier",
        "durable",
        "index",
        "inode_table",
        "permissions",
        "preallocated_files",
        "prepares",
        "unfinished",
        "upper",
        "workdir",
    )

    def __init__(
        self,
        inode_table: InodeTable,
        upper: Upper,
        index: LinkIndex,
        permissions: Permissions,
        *,
        durable: bool,
        acls: bool,
    ) -> None:
        """Join the parts; *durable* and *acls* are those of :class:`unionfs.copyup.copyup.CopyUp`."""
        self.inode_table = inode_table
        self.upper = upper
        self.workdir = upper.workdir
        self.index = index
        self.permissions = permissions
        self.durable = durable
        self.acls = acls
        self.copier = Copier()
        #: Copies large files in threads; None: they are copied when they are needed.
        self.background: BackgroundCopies | None = None
        self.preallocated_files = PreallocatedFiles(self.workdir)
        #: Whether a file is preallocated after a copy, for the next one.
        self.prepares = False
        #: The work of a copy-up that can be done after the reply has been sent.
        self.unfinished: list[Callable[[], None]] = []
        #: Number of bytes copied since the mount, for the statistics.
        self.bytes_copied = 0

    def copy_data(self, source: Ref, to: int, size: int) -> None:
        """Copy the contents of *source* to the empty file *to*, and count the bytes that are not in holes."""
        assert isinstance(source, PathRef | DescriptorRef)
        if size == 0:
            return
        contents = source.archived()
        if contents is not None:
            self.bytes_copied += contents.copy(to)
            return
        at = source.open(os.O_RDONLY)
        try:
            self.bytes_copied += self.copier.copy(at, to, size)
        finally:
            os.close(at)

    def may_have_xattrs(self, inode: FileInode | DirectoryInode) -> bool:
        """Return whether *inode*, of a lower layer, may have extended attributes to copy."""
        if self.acls and inode.xattrs is not None:
            return bool(inode.xattrs)
        return not inode.ref.known_no_xattrs


class Transaction:
    """One copy-up under way: the facts of the source, and the copy at its temporary name."""

    __slots__ = (
        "_context",
        "_copied",
        "_made",
        "_mode_is_set",
        "contents_fd",
        "info",
        "links",
        "mode",
        "override",
        "owner",
        "place",
        "preallocated",
        "redirect",
        "source",
        "tmp",
        "tmp_fd",
        "truncated",
    )

    def __init__(
        self,
        context: CopyUpContext,
        source: Ref,
        info: os.stat_result,
        ownership: tuple[int, int, int],
        tmp_fd: int,
        tmp: bytes,
        *,
        override: bool,
    ) -> None:
        """Copy *source*, which has *info*, to *tmp* of the directory *tmp_fd*.

        *ownership* is the copy's owner, group and mode (with the type). *override*: the source's layer keeps owners in
        attributes.
        """
        self._context = context
        self.source = source
        self.info = info
        uid, gid, self.mode = ownership
        self.owner = uid, gid
        self.tmp_fd = tmp_fd
        self.tmp = tmp
        self.override = override
        #: A descriptor of the contents, which have *info*; -1 if they have to be opened.
        self.contents_fd = -1
        #: The preallocated file at the temporary name that becomes the copy, if there is one.
        self.preallocated: PreallocatedFile | None = None
        #: Whether the copy has its mode, and no later step has changed it.
        self._mode_is_set = False
        #: How many names the copy is going to have.
        self.links = info.st_nlink
        #: The name that the copy gets; None: the first one that is known.
        self.place: tuple[DirectoryInode, bytes] | None = None
        #: For a copy of metadata alone: the path of the contents in the layers below.
        self.redirect = b""
        #: Whether the copy is made empty, because a program opens the file with O_TRUNC.
        self.truncated = False
        #: The attributes of the copy when it was made, before it got its owner and the rest.
        self._made: os.stat_result | None = None
        #: How many bytes it had then; None if it was made empty.
        self._copied: int | None = None

    def run(self, inode: FileInode, steps: tuple[Step, ...], keep: list[int] | None = None) -> None:
        """Do *steps* for *inode*. A descriptor of the copy is added to *keep* if that is given.

        Raises:
            OSError: a step failed. *inode* is what it was; the caller removes the temporary name.
        """
        context = self._context
        fd = self._make(inode, filled=Step.DATA in steps)
        keep_lower = Step.METACOPY in steps
        moves: list[tuple[FileHandle, int]] = []
        index_ref: PathRef | None = None
        try:
            # Open handles switch to the copy, so that they see later writes. They are opened while the copy still has the
            # mode that it was made with, and before the steps that cannot be undone.
            if not keep_lower:
                for handle in inode.handles:
                    moves.append((handle, reopen(fd, handle.flags)))  # noqa: PERF401 - one at a time: undone so
            # A file of a lower layer may be a copy of metadata alone itself.
            lower = inode.contents if keep_lower else None
            index_ref = self._prepare(inode, steps, fd)
            if Step.PUBLISH in steps:
                self._publish(inode, index_ref)
            else:
                self._pin(inode, index_ref)
        except BaseException:
            with ExitStack() as undo:
                if fd >= 0:
                    undo.callback(os.close, fd)
                if index_ref is not None:
                    undo.callback(context.index.remove, inode.ino)
                for _, replacement in moves:
                    undo.callback(os.close, replacement)
            raise
        for handle, replacement in moves:
            handle.replace(replacement)
        assert lower is None or isinstance(lower, PathRef)
        inode.metacopy, inode.data = keep_lower, lower
        inode.indexed = index_ref is not None
        # The attributes that are shown are those of the original.
        known = inode.xattrs is not None and not inode.xattrs
        inode.privileged = bool(self.mode & _SET_ID) if known else None
        if fd >= 0 and keep is not None:
            keep.append(fd)
        elif fd >= 0:
            context.unfinished.append(lambda: _close(fd))
        if index_ref is not None:
            context.index.settle_lost_names(inode.ino)

    def _prepare(self, inode: FileInode, steps: tuple[Step, ...], fd: int) -> PathRef | None:
        """Do the steps before the last, which cannot be undone. Returns the copy's reference in the index, if it has one."""
        context = self._context
        index_ref: PathRef | None = None
        for step in steps:
            if step is Step.DATA:
                self._copy_data(inode, fd)
            elif step is Step.OWNER:
                self.set_owner()
            elif step is Step.XATTRS:
                if not inode.is_mount_point and context.may_have_xattrs(inode):
                    self.copy_xattrs()
            elif step is Step.METACOPY:
                os.ftruncate(fd, self.info.st_size)
                context.upper.set_metacopy(fd, self.redirect)
            elif step is Step.ORIGIN:
                context.index.set_origin(fd, inode.ino, context.inode_table.recorded_number(inode))
            elif step is Step.MODE:
                if not self._mode_is_set:
                    context.permissions.restrict(self.tmp_fd, self.tmp, self.mode)
            elif step is Step.TIMES and not self.truncated:
                if fd >= 0:
                    os.utime(fd, ns=times_of(self.info))
                else:
                    os.utime(self.tmp, ns=times_of(self.info), dir_fd=self.tmp_fd, follow_symlinks=False)
            elif step is Step.SYNC:
                os.fdatasync(fd)
            elif step is Step.INDEX:
                index_ref = self._add_to_index(inode)
        return index_ref

    def _copy_data(self, inode: FileInode, fd: int) -> None:
        context = self._context
        if self._copied is not None:
            context.bytes_copied += self._copied
        elif self.contents_fd >= 0:
            context.bytes_copied += context.copier.copy(self.contents_fd, fd, self.info.st_size, self.info)
        else:
            context.copy_data(inode.contents, fd, self.info.st_size)

    def _add_to_index(self, inode: FileInode) -> PathRef | None:
        context = self._context
        others = self.info.st_nlink - bool(inode.names) - context.index.lost_names(inode.ino)
        number = context.inode_table.recorded_number(inode)
        lasting = context.inode_table.numbers.lasts(number)
        assert isinstance(self.source, PathRef | DescriptorRef)
        born = self.source.birth_time_ns()
        return context.index.add(
            inode.ino, self.tmp_fd, self.tmp, others, lasting=lasting, born=born, number=number
        )

    def _publish(self, inode: FileInode, index_ref: PathRef | None) -> None:
        context = self._context
        parent, name = self.place or inode.names[0]
        target = parent.upper
        assert target is not None
        times = times_of(target.stat())
        copy = self._made or os.stat(self.tmp, dir_fd=self.tmp_fd, follow_symlinks=False)
        context.upper.publish(self.tmp, target, name)
        context.inode_table.reidentify(
            inode, context.upper.layer, index_ref or PathRef(target, name), (copy.st_dev, copy.st_ino)
        )
        if context.prepares and self._made is not None:
            context.unfinished.append(
                lambda: context.preallocated_files.copied(context.permissions.birth_mode(self.mode))
            )
        context.unfinished.append(lambda: restore_times(parent, target, times))
        parent.touch()

    def _pin(self, inode: FileInode, index_ref: PathRef | None) -> None:
        context = self._context
        pinned = os.open(self.tmp, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.tmp_fd)
        copy = os.fstat(pinned)
        if isinstance(inode.ref, DescriptorRef):
            inode.ref.close()
        reference: PathRef | DescriptorRef = DescriptorRef(pinned, context.upper.layer)
        if index_ref is not None:
            os.close(pinned)
            reference = index_ref
        context.inode_table.reidentify(inode, context.upper.layer, reference, (copy.st_dev, copy.st_ino))

    def _make(self, inode: FileInode, *, filled: bool) -> int:
        """Make the empty object, or take one that has been *filled* already; returns a descriptor of a regular file,
        else -1.
        """
        context = self._context
        kind = inode.kind
        disk_kind = context.permissions.disk_kind(kind, *self.owner, links=self.links)
        if stat.S_ISREG(disk_kind):
            ready = (
                context.background.take(inode.ino, self.tmp)
                if filled and context.background is not None
                else None
            )
            if ready is not None:
                fd, self._copied = ready
            elif self.preallocated is not None:
                self._made, fd = self.preallocated.made, self.preallocated.take()
            else:
                fd = context.workdir.begin_copy(self.tmp, context.permissions.birth_mode(self.mode))
            if stat.S_ISREG(kind):
                try:
                    self._made = self._made or os.fstat(fd)
                except OSError:
                    os.close(fd)
                    raise
                self._mode_is_set = context.permissions.has_mode(self._made, self.mode)
                return fd
            try:
                if stat.S_ISLNK(kind):
                    os.write(fd, _link_target(self.source))
            finally:
                os.close(fd)
        elif stat.S_ISLNK(kind):
            os.symlink(_link_target(self.source), self.tmp, dir_fd=self.tmp_fd)
        else:
            os.mknod(self.tmp, kind | 0o600, self.info.st_rdev, dir_fd=self.tmp_fd)
        return -1

    def set_owner(self) -> None:
        """Give the copy its owner."""
        made = self._made or os.stat(self.tmp, dir_fd=self.tmp_fd, follow_symlinks=False)
        self._context.permissions.own(self.tmp_fd, self.tmp, made, *self.owner, self.mode, self.info.st_rdev)

    def copy_xattrs(self) -> None:
        """Copy the extended attributes that are shown."""
        try:
            names = self.source.list_xattrs()
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return
        target = b"/proc/self/fd/%d/%s" % (self.tmp_fd, self.tmp)
        # An ACL may remove the right to write attributes from an unprivileged user, so it comes last.
        for name in sorted(names, key=lambda name: name == acl.ACCESS):
            shown = shown_name(name, override=self.override)
            if shown is None or (self.truncated and shown == CAPABILITY):
                continue
            copy = stored_name(shown, override=self._context.upper.layer.policy.override_stat)
            try:
                value = self.source.get_xattr(name)
                if name in (acl.ACCESS, acl.DEFAULT):  # which changes the mode
                    value, self._mode_is_set = acl.mapped(value), False
                os.setxattr(target, copy, value, follow_symlinks=False)
            except OSError as error:
                unprivileged = error.errno == errno.EPERM and name.startswith(("trusted.", "security."))
                impossible = error.errno == errno.EOPNOTSUPP and name not in (acl.ACCESS, acl.DEFAULT)
                if not (unprivileged or impossible or error.errno == errno.ENODATA):
                    raise


def restore_times(parent: DirectoryInode, target: LayerDir, times: tuple[int, int]) -> None:
    """Restore the times of the directory in which a copy-up made an entry: for programs nothing has changed there."""
    try:
        os.utime(b".", ns=times, dir_fd=target.fd())
    except OSError:
        # This user may not search it, or may write it without owning it. The copy-up itself is done.
        with suppress(OSError):
            os.utime(target.proc_path(), ns=times)
    parent.touch()


def reopen(fd: int, flags: int, undo: ExitStack | None = None) -> int:
    """Open the file *fd* again with *flags*; *undo* closes it."""
    copy = os.open(b"/proc/self/fd/%d" % fd, flags | os.O_CLOEXEC)
    if undo is not None:
        undo.callback(os.close, copy)
    return copy


def times_of(info: os.stat_result) -> tuple[int, int]:
    """Return the times of access and modification in nanoseconds."""
    return info.st_atime_ns, info.st_mtime_ns


def _close(fd: int) -> None:
    with suppress(OSError):  # fdatasync(2) has already reported the errors that matter
        os.close(fd)


def _link_target(source: Ref) -> bytes:
    assert isinstance(source, PathRef | DescriptorRef)
    return source.readlink()
