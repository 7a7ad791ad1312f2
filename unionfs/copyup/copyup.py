"""Copy-up: gives an object of a lower layer a copy in the writable one, whole or not at all.

The steps come from :mod:`unionfs.copyup.plan`. A directory is copied without its contents, after its
ancestors. These failures are tolerated, everything else undoes the copy-up and reaches the caller:

* attributes that the upper file system cannot hold (EOPNOTSUPP), but for access control lists, without which more
  would be allowed; and ``trusted.*`` or ``security.*`` ones that we may not set (EPERM);
* a file system that gives no holes (EINVAL from SEEK_DATA): the copy has none;
* times of the parent directory that cannot be set back: by then the copy has its name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress

from unionfs.copyup.background_copy import BackgroundCopies
from unionfs.copyup.copy_data import Copier
from unionfs.copyup.plan import Contents, Step, plan_copy_up
from unionfs.copyup.preallocated import PreallocatedFile, PreallocatedFiles
from unionfs.formats import acl
from unionfs.formats.xattrs import shown_name, stored_name
from unionfs.inode.handles import FileHandle
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import Layer, LayerDir, Ref
from unionfs.layer.metacopy import redirect_of
from unionfs.layer.objects import NO_XATTR, DescriptorRef, PathRef, birth_time_ns, follows, is_null_device
from unionfs.layer.ownership import Ownership
from unionfs.types import Mark
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions, without_privileges
from unionfs.upper.quota import Quota
from unionfs.upper.upper import Upper
from unionfs.upper.workdir import COPY_PREFIX

_CAPABILITY = "security.capability"
_SET_ID = stat.S_ISUID | stat.S_ISGID
#: Bytes from which on contents are left below when only metadata changes. Less is copied as fast as marked.
_WORTH_METACOPY = 16384
#: Bytes; the kernel writes no longer redirects (redirect_max, fs/overlayfs/super.c).
_LONGEST_METACOPY_REDIRECT = 256


class _Job:
    """One copy-up under way: the source, and the copy at its temporary name."""

    __slots__ = (
        "at",
        "copied",
        "info",
        "links",
        "made",
        "mode",
        "override",
        "owner",
        "place",
        "preallocated",
        "redirect",
        "settled",
        "source",
        "tmp",
        "tmp_fd",
        "truncated",
    )

    def __init__(
        self,
        source: Ref,
        info: os.stat_result,
        owner: tuple[int, int],
        mode: int,
        tmp_fd: int,
        tmp: bytes,
        *,
        override: bool,
    ) -> None:
        """Copy *source*, which has *info*, with that owner and mode (with the type), to *tmp* of the directory *tmp_fd*.

        *override*: the source's layer keeps owners in attributes.
        """
        self.source = source
        self.info = info
        self.owner = owner
        self.mode = mode
        self.tmp_fd = tmp_fd
        self.tmp = tmp
        self.override = override
        #: A descriptor of the contents, which have *info*; -1 where they are to be opened.
        self.at = -1
        #: The file that becomes the copy, at the temporary name, where there is one.
        self.preallocated: PreallocatedFile | None = None
        #: The copy has its mode, and nothing that changes it has been done since.
        self.settled = False
        #: How many names it has, or is going to have.
        self.links = info.st_nlink
        #: The name that the copy gets; None for the first one that is known.
        self.place: tuple[DirectoryInode, bytes] | None = None
        #: For a copy of metadata alone: where the layers below have the contents.
        self.redirect = b""
        #: It is made empty: what a program does by opening it with O_TRUNC.
        self.truncated = False
        #: The copy as it was made, before it got its owner and the rest.
        self.made: os.stat_result | None = None
        #: How many bytes it had then; None if it was made empty.
        self.copied: int | None = None

    @property
    def target(self) -> bytes:
        return b"/proc/self/fd/%d/%s" % (self.tmp_fd, self.tmp)


class CopyUp:
    """Copies objects of one mount up."""

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
        """Join the parts; *durable*: contents are synced before a copy takes the original's place; *acls*: access
        control lists are shown, so that what is known of an object's attributes is all that there is; *quota*
        bounds the copies.
        """
        self._inode_table = inode_table
        self._upper = upper
        self._workdir = upper.workdir
        self._index = index
        self._ownership = ownership
        self._permissions = permissions
        self._durable = durable
        self._acls = acls
        self._copier = Copier()
        #: What copies large files beforehand; None: they are copied when they have to be there.
        self.background: BackgroundCopies | None = None
        self._quota = quota
        self._preallocated_files = PreallocatedFiles(upper.workdir)
        #: Whether a file is made for the next copy after one: by whoever calls :meth:`finish` when a request has been answered,
        #: and :meth:`make_room` where there is none.
        self.prepares = False
        #: What of a copy need not be done before whoever needs it has been answered: see :meth:`finish`.
        self._unfinished: list[Callable[[], None]] = []
        #: Number of copies and of bytes copied since the mount, for the statistics.
        self.copies = 0
        self.bytes = 0

    def directory(self, node: DirectoryInode) -> None:
        """Give *node* and its ancestors a directory in the upper layer."""
        missing: list[DirectoryInode] = []
        at: DirectoryInode | None = node
        while at is not None and at.upper is None:
            if at.removed:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), at.name)
            missing.append(at)
            at = at.parent
        for directory in reversed(missing):
            # Nothing is in use between two of them, and there may be more than descriptors.
            self._upper.layer.fds.trim()
            self._one_directory(directory)

    def _one_directory(self, node: DirectoryInode) -> None:
        parent = node.parent
        assert parent is not None
        target = parent.upper
        assert target is not None
        self._upper.refuse_reserved(node.name)
        source = node.parts[0]
        info = source.stat()
        if self._quota is not None:
            self._quota.require(1, 1)
        times = _times(target.stat())
        opaque = target.mark(node.name) is Mark.WHITEOUT  # it shows the skeleton's; what is deleted stays so
        with self._workdir.building() as (tmp_fd, tmp):
            os.mkdir(tmp, 0o700, dir_fd=tmp_fd)
            if opaque:
                self._upper.marks.set_opaque(tmp_fd, tmp)
            job = self._job(source, source.layer, info, tmp_fd, tmp)
            self._owner(job)
            if not source.foreign and self._may_have_xattrs(node):
                self._xattrs(job)
            self._permissions.restrict(tmp_fd, tmp, job.mode)
            os.utime(tmp, ns=_times(info), dir_fd=tmp_fd, follow_symlinks=False)
            self._upper.publish_directory(tmp, target, node.name)
        copy = target.child(node.name)
        copy.note_new(opaque=opaque)
        if self._quota is not None:
            self._quota.made(copy.stat())
        node.parts.insert(0, copy)
        node.touch()
        self._restore_times(parent, target, times)
        self.copies += 1

    def file(
        self,
        node: FileInode,
        contents: Contents = Contents.COPY,
        keep: list[int] | None = None,
        mode: int | None = None,
        *,
        finishes: bool = True,
    ) -> bool:
        """Give *node* a copy in the upper layer, with *contents*; one that was a copy of metadata alone gets them.

        A new copy's descriptor, to read and write, is added to *keep* instead of being closed, and its permission bits are
        *mode* where that is given. Not *finishes*: the request is about nothing else, and :meth:`finish` is called after
        it. Returns whether it has been emptied, which is all of what was going to be done.
        """
        if not node.layer.writable:
            self._new_copy(node, contents, keep, mode)
            if finishes:
                self.finish()
        elif node.metacopy and contents is Contents.COPY:
            self._complete(node)
        elif node.metacopy and contents is Contents.NONE:
            self._abandon_contents(node)
        else:
            return False
        return contents is Contents.NONE

    def _lower_place(self, node: FileInode, size: int) -> bytes | None:
        """Return where the layers below have *node*, of *size* bytes; None if a copy of its metadata alone is not to be made."""
        if size < _WORTH_METACOPY or not (self._upper.metacopy and stat.S_ISREG(node.kind) and node.names):
            return None
        directory, name = node.names[0]
        place = self._inode_table.lower_path(directory) + b"/" + name
        return place if len(place) <= _LONGEST_METACOPY_REDIRECT else None

    def _new_copy(
        self, node: FileInode, contents: Contents, keep: list[int] | None, mode: int | None
    ) -> None:
        if node.foreign:
            contents = Contents.NONE
        at, info = self._look_at_source(node, opens=contents is not Contents.NONE)
        redirect, preallocated = b"", None
        try:
            if contents is Contents.LATER:
                redirect = self._lower_place(node, info.st_size) or b""
                contents = Contents.LATER if redirect else Contents.COPY
            if node.xattrs is None and node.ref.bare:
                node.xattrs = frozenset()
            if is_null_device(info):
                raise OSError(errno.EPERM, "the copy of a character device 0:0 would be a whiteout")
            if node.names:
                self._upper.refuse_reserved(node.names[0][1])
            if self.background is not None and contents is Contents.COPY and stat.S_ISREG(node.kind):
                self._require_room(node, info, contents)
                self.background.require(node.ino, node.contents, info.st_size)
            if node.names:
                self.directory(node.names[0][0])
            if redirect:
                self._upper.use_feature("metacopy")
            self._require_room(node, info, contents)  # after what the directories and the record have taken
            steps = self._plan(node, contents, info.st_nlink)
            # One that is made empty has the time of that, and not of when its file was made.
            copied = stat.S_ISREG(node.kind) and contents is not Contents.NONE
            preallocated = self._preallocated_files.take() if copied else None
            with self._workdir.building(COPY_PREFIX, preallocated.name if preallocated else None) as (
                tmp_fd,
                tmp,
            ):
                job = self._job(node.ref, node.layer, info, tmp_fd, tmp)
                job.redirect, job.at, job.preallocated = redirect, at, preallocated
                if contents is Contents.NONE and stat.S_ISREG(node.kind):
                    job.truncated, job.mode = True, without_privileges(job.mode)
                if mode is not None:
                    job.mode = stat.S_IFMT(job.mode) | stat.S_IMODE(mode)
                self._run(node, steps, job, keep)
        finally:
            if preallocated is not None:
                preallocated.close()
            if at >= 0:
                os.close(at)
        if self._quota is not None:
            self._quota.made(node.ref.stat())
        self.copies += 1

    def finish(self) -> None:
        """Do what is left of the copy-up of this request, if there was one, and prepare the next: nothing that whoever
        asked could see.
        """
        while self._unfinished:
            self._unfinished.pop()()
        self._preallocated_files.passed()

    def make_room(self) -> None:
        """Let go of what takes room for the next copy-up alone."""
        self._preallocated_files.close()

    def close(self) -> None:
        """Let go of what the next copy-up would need."""
        self.finish()
        self.make_room()

    @staticmethod
    def _look_at_source(node: FileInode, *, opens: bool) -> tuple[int, os.stat_result]:
        """Return a descriptor of the contents, or -1 where they are not needed, and the attributes of *node*.

        Raises:
            OSError: ESTALE where the layer has something else there by now.
        """
        source = node.ref
        if opens and stat.S_ISREG(node.kind) and not node.metacopy and not source.layer.policy.override_stat:
            try:
                return source.opened(os.O_RDONLY)
            except PermissionError:
                pass  # it may be empty
        info = source.stat()
        if stat.S_IFMT(info.st_mode) != node.kind:
            raise OSError(errno.ESTALE, "layer changed while mounted")
        return -1, info

    def _require_room(self, node: FileInode, info: os.stat_result, contents: Contents) -> None:
        if self._quota is not None:
            size = min(info.st_size, info.st_blocks * 512) if contents is Contents.COPY else 0
            self._quota.require(max(1, size) - self._reserved(node), 1)

    def _reserved(self, node: FileInode) -> int:
        """Return how much of what a copy of *node* takes is counted already."""
        return 0 if self.background is None else self.background.reserved(node.ino)

    def _plan(self, node: FileInode, contents: Contents, links: int) -> tuple[Step, ...]:
        return plan_copy_up(
            node.kind,
            contents=contents,
            links=links,
            named=bool(node.names),
            durable=self._durable,
            lasting=self._inode_table.numbers.lasts(node.ino),
            # Where the last name is gone, too, nothing is counted any more.
            elsewhere=not node.names
            and not node.layer.writable
            and 0 < self._index.lost_names(node.ino) < links,
        )

    def remake(self, node: FileInode, owner: tuple[int, int] | None = None, *, links: int = 1) -> None:
        """Replace *node*, in the upper layer with a single name, by a new object that is the same but for *owner*,
        and fit to have *links* names.

        Raises:
            OSError: EPERM if it has more names: they would be left with the old object.
        """
        info = node.ref.stat()
        place = _name_in_upper(node)
        indexed = node.indexed
        below = self._index.lower_names(node.ino) if indexed else 0
        if info.st_nlink + below > 1 + indexed or (node.names and place is None):
            raise OSError(errno.EPERM, "an object with several names cannot be made anew")
        contents = Contents.COPY if stat.S_ISREG(node.kind) else Contents.NONE
        with self._workdir.building(COPY_PREFIX) as (tmp_fd, tmp):
            job = self._job(node.ref, node.layer, info, tmp_fd, tmp)
            job.owner, job.place, job.links = owner or job.owner, place, links
            steps = self._plan(node, contents, 1)
            self._run(node, tuple(step for step in steps if step is not Step.INDEX), job)
        self.finish()
        if indexed and isinstance(node.ref, PathRef):
            copy = self._index.replace(node.ino, node.ref)
            node.ref, node.indexed = copy or node.ref, copy is not None

    def _complete(self, node: FileInode) -> None:
        """Give a copy of metadata alone its contents."""
        before = node.ref.stat()
        if self._quota is not None:
            self._quota.require(before.st_size - self._reserved(node))
        # One that only names of lower layers lead to is in the index alone and has no name to be replaced at.
        if before.st_nlink <= 1 and not node.indexed:
            if self.background is not None:
                self.background.require(node.ino, node.contents, before.st_size)
            self.remake(node)
        else:
            self._complete_in_place(node)
            node.metacopy, node.data = False, None
        node.touch()
        if self._quota is not None:
            self._quota.changed(before.st_blocks, node.ref.stat().st_blocks)
        self.copies += 1

    def _complete_in_place(self, node: FileInode) -> None:
        """Fill a copy that has several names. The mark goes last: until then the contents are those below.

        What writing takes away or changes is put back; a kill in between leaves the time of the kill.
        """
        info = os.stat(node.ref.proc_path(), follow_symlinks=follows(node.ref))
        path, follow = node.ref.proc_path(), follows(node.ref)
        capability = _getxattr(path, _CAPABILITY, follow=follow)
        with ExitStack() as undo:
            if not info.st_mode & stat.S_IWUSR:
                os.chmod(path, stat.S_IMODE(info.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
                undo.callback(os.chmod, path, stat.S_IMODE(info.st_mode))
            fd = node.ref.open(os.O_RDWR)
            undo.callback(os.close, fd)
            reopened = ExitStack()
            undo.push(reopened)
            moves = [(handle, _reopen(fd, handle.flags, reopened)) for handle in node.handles]
            try:
                self.bytes += self._copy_data(node.contents, fd, info.st_size)
                if self._durable:
                    os.fdatasync(fd)
                if capability is not None:
                    os.setxattr(path, _CAPABILITY, capability, follow_symlinks=follow)
                self._upper.clear_metacopy(path, follow=follow)
            finally:
                if stat.S_IMODE(os.fstat(fd).st_mode) != stat.S_IMODE(info.st_mode):
                    os.chmod(path, stat.S_IMODE(info.st_mode))
                os.utime(path, ns=_times(info), follow_symlinks=follow)
            reopened.pop_all()
            for handle, replacement in moves:
                handle.replace(replacement)

    def _abandon_contents(self, node: FileInode) -> None:
        """Make a copy of metadata alone an empty file of its own: it is about to be truncated.

        Emptied first, then unmarked: in between it is empty already, and can still be what it was.
        """
        path, follow = node.ref.proc_path(), follows(node.ref)
        info = os.stat(path, follow_symlinks=follow)
        with ExitStack() as undo:
            fd = node.ref.open(os.O_RDWR)
            undo.callback(os.close, fd)
            reopened = ExitStack()
            undo.push(reopened)
            moves = [(handle, _reopen(fd, handle.flags, reopened)) for handle in node.handles]
            os.ftruncate(fd, 0)
            try:
                self._upper.clear_metacopy(path, follow=follow)
            except OSError:
                os.ftruncate(fd, info.st_size)
                os.utime(path, ns=_times(info), follow_symlinks=follow)
                raise
            reopened.pop_all()
            for handle, replacement in moves:
                handle.replace(replacement)
        node.metacopy, node.data = False, None
        node.touch()

    def settle_contents(self, node: FileInode) -> None:
        """See that the mark of a copy of metadata alone leads to its contents from any name: it gets another one.

        Ours do; one that the kernel wrote may lead to "the same name below".
        """
        if node.metacopy and node.layer.writable and not (redirect_of(node.ref) or b"").startswith(b"/"):
            self.file(node)

    def _job(self, source: Ref, layer: Layer, info: os.stat_result, tmp_fd: int, tmp: bytes) -> _Job:
        uid, gid, mode = self._ownership.for_copy(info, layer)
        override = layer.policy.override_stat
        return _Job(source, info, (uid, gid), mode, tmp_fd, tmp, override=override)

    def _run(
        self, node: FileInode, steps: tuple[Step, ...], job: _Job, keep: list[int] | None = None
    ) -> None:
        fd = self._make(node, job, filled=Step.DATA in steps)
        keep_lower = Step.METACOPY in steps
        moves: list[tuple[FileHandle, int]] = []
        index_ref: PathRef | None = None
        try:
            # Open handles go on with the copy, so that a reader from before sees what is written after. They are
            # opened while the copy still has the mode that it was made with, and before anything is irrevocable.
            if not keep_lower:
                for handle in node.handles:
                    moves.append((handle, _reopen(fd, handle.flags)))  # noqa: PERF401 - one at a time: undone so
            # In a layer below it may be a copy of metadata alone itself.
            lower = node.contents if keep_lower else None
            index_ref = self._prepare(node, steps, job, fd)
            if Step.PUBLISH in steps:
                self._publish(node, job, index_ref)
            else:
                self._pin(node, job, index_ref)
        except BaseException:
            with ExitStack() as undo:
                if fd >= 0:
                    undo.callback(os.close, fd)
                if index_ref is not None:
                    undo.callback(self._index.remove, node.ino)
                for _, replacement in moves:
                    undo.callback(os.close, replacement)
            raise
        for handle, replacement in moves:
            handle.replace(replacement)
        assert lower is None or isinstance(lower, PathRef)
        node.metacopy, node.data = keep_lower, lower
        node.indexed = index_ref is not None
        # What is shown of its attributes is what was.
        known = node.xattrs is not None and not node.xattrs
        node.privileged = bool(job.mode & _SET_ID) if known else None
        if fd >= 0 and keep is not None:
            keep.append(fd)
        elif fd >= 0:
            self._unfinished.append(lambda: _close(fd))
        if index_ref is not None:
            self._index.settle_lost_names(node.ino)

    def _prepare(self, node: FileInode, steps: tuple[Step, ...], job: _Job, fd: int) -> PathRef | None:
        """Do the steps up to the irrevocable one; returns the copy's reference in the index, if it has one: the last."""
        index_ref: PathRef | None = None
        for step in steps:
            if step is Step.DATA:
                if job.copied is None and job.at >= 0:
                    job.copied = self._copier.copy(job.at, fd, job.info.st_size, job.info)
                elif job.copied is None:
                    job.copied = self._copy_data(node.contents, fd, job.info.st_size)
                self.bytes += job.copied
            elif step is Step.OWNER:
                self._owner(job)
            elif step is Step.XATTRS:
                if not node.foreign and self._may_have_xattrs(node):
                    self._xattrs(job)
            elif step is Step.METACOPY:
                os.ftruncate(fd, job.info.st_size)
                self._upper.set_metacopy(fd, job.redirect)
            elif step is Step.ORIGIN:
                self._index.set_origin(fd, node.ino)
            elif step is Step.MODE:
                if not job.settled:
                    self._permissions.restrict(job.tmp_fd, job.tmp, job.mode)
            elif step is Step.TIMES and not job.truncated:
                if fd >= 0:
                    os.utime(fd, ns=_times(job.info))
                else:
                    os.utime(job.tmp, ns=_times(job.info), dir_fd=job.tmp_fd, follow_symlinks=False)
            elif step is Step.SYNC:
                os.fdatasync(fd)
            elif step is Step.INDEX:
                others = job.info.st_nlink - bool(node.names) - self._index.lost_names(node.ino)
                lasting = self._inode_table.numbers.lasts(node.ino)
                assert isinstance(job.source, PathRef | DescriptorRef)
                born = birth_time_ns(job.source)
                index_ref = self._index.add(node.ino, job.tmp_fd, job.tmp, others, lasting=lasting, born=born)
        return index_ref

    def _publish(self, node: FileInode, job: _Job, index_ref: PathRef | None) -> None:
        parent, name = job.place or node.names[0]
        target = parent.upper
        assert target is not None
        times = _times(target.stat())
        copy = job.made or os.stat(job.tmp, dir_fd=job.tmp_fd, follow_symlinks=False)
        self._upper.publish(job.tmp, target, name)
        self._inode_table.reidentify(
            node, self._upper.layer, index_ref or PathRef(target, name), (copy.st_dev, copy.st_ino)
        )
        if self.prepares and job.made is not None:
            self._unfinished.append(
                lambda: self._preallocated_files.copied(self._permissions.birth_mode(job.mode))
            )
        self._unfinished.append(lambda: self._restore_times(parent, target, times))
        parent.touch()

    @staticmethod
    def _restore_times(parent: DirectoryInode, target: LayerDir, times: tuple[int, int]) -> None:
        """Undo what a copy-up did to the times of the directory that it put a name in: nothing changed there."""
        try:
            os.utime(b".", ns=times, dir_fd=target.fd())
        except OSError:
            # It may not be searched; or belongs to somebody else who lets us write: the copy-up itself is done.
            with suppress(OSError):
                os.utime(target.proc_path(), ns=times)
        parent.touch()

    def _pin(self, node: FileInode, job: _Job, index_ref: PathRef | None) -> None:
        pinned = os.open(job.tmp, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=job.tmp_fd)
        copy = os.fstat(pinned)
        if isinstance(node.ref, DescriptorRef):
            node.ref.close()
        reference: PathRef | DescriptorRef = DescriptorRef(pinned, self._upper.layer)
        if index_ref is not None:
            os.close(pinned)
            reference = index_ref
        self._inode_table.reidentify(node, self._upper.layer, reference, (copy.st_dev, copy.st_ino))

    def _make(self, node: FileInode, job: _Job, *, filled: bool) -> int:
        """Make the empty object, or take one that has been *filled* already; returns a descriptor of a regular file,
        else -1.
        """
        kind = node.kind
        disk_kind = self._permissions.disk_kind(kind, *job.owner, links=job.links)
        if stat.S_ISREG(disk_kind):
            ready = (
                self.background.take(node.ino, job.tmp) if filled and self.background is not None else None
            )
            if ready is not None:
                fd, job.copied = ready
            elif job.preallocated is not None:
                job.made, fd = job.preallocated.made, job.preallocated.take()
            else:
                fd = self._workdir.begin_copy(job.tmp, self._permissions.birth_mode(job.mode))
            if stat.S_ISREG(kind):
                try:
                    job.made = job.made or os.fstat(fd)
                except OSError:
                    os.close(fd)
                    raise
                job.settled = self._permissions.has_mode(job.made, job.mode)
                return fd
            try:
                if stat.S_ISLNK(kind):
                    os.write(fd, _target(job.source))
            finally:
                os.close(fd)
        elif stat.S_ISLNK(kind):
            os.symlink(_target(job.source), job.tmp, dir_fd=job.tmp_fd)
        else:
            os.mknod(job.tmp, kind | 0o600, job.info.st_rdev, dir_fd=job.tmp_fd)
        return -1

    def _owner(self, job: _Job) -> None:
        made = job.made or os.stat(job.tmp, dir_fd=job.tmp_fd, follow_symlinks=False)
        self._permissions.own(job.tmp_fd, job.tmp, made, *job.owner, job.mode, job.info.st_rdev)

    def _copy_data(self, source: Ref, to: int, size: int) -> int:
        """Copy the contents of *source* to the empty file *to*; returns the number of bytes that are no hole."""
        assert isinstance(source, PathRef | DescriptorRef)
        if size == 0:
            return 0
        at = source.open(os.O_RDONLY)
        try:
            return self._copier.copy(at, to, size)
        finally:
            os.close(at)

    def _may_have_xattrs(self, node: FileInode | DirectoryInode) -> bool:
        if self._acls and node.xattrs is not None:
            return bool(node.xattrs)
        return not node.ref.bare

    def _xattrs(self, job: _Job) -> None:
        source, follow = job.source.proc_path(), follows(job.source)
        try:
            names = os.listxattr(source, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return
        # A list may take the right to write attributes from whoever has no privilege, so it comes last.
        for name in sorted(names, key=lambda name: name == acl.ACCESS):
            shown = shown_name(name, override=job.override)
            if shown is None or (job.truncated and shown == _CAPABILITY):
                continue
            copy = stored_name(shown, override=self._upper.layer.policy.override_stat)
            try:
                value = os.getxattr(source, name, follow_symlinks=follow)
                if name in (acl.ACCESS, acl.DEFAULT):  # which changes the mode
                    value, job.settled = acl.mapped(value), False
                os.setxattr(job.target, copy, value, follow_symlinks=False)
            except OSError as error:
                unprivileged = error.errno == errno.EPERM and name.startswith(("trusted.", "security."))
                impossible = error.errno == errno.EOPNOTSUPP and name not in (acl.ACCESS, acl.DEFAULT)
                if not (unprivileged or impossible or error.errno == errno.ENODATA):
                    raise


def _close(fd: int) -> None:
    with suppress(OSError):  # what it has to say, fdatasync(2) has been asked for where it matters
        os.close(fd)


def _reopen(fd: int, flags: int, undo: ExitStack | None = None) -> int:
    copy = os.open(b"/proc/self/fd/%d" % fd, flags | os.O_CLOEXEC)
    if undo is not None:
        undo.callback(os.close, copy)
    return copy


def _name_in_upper(node: FileInode) -> tuple[DirectoryInode, bytes] | None:
    """Return a known name of *node* that is an entry of the upper layer."""
    for directory, name in node.names:
        if directory.upper is not None and directory.upper.mark(name) is Mark.OTHER:
            return directory, name
    return None


def _getxattr(path: bytes, name: str, *, follow: bool) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return None


def _target(source: Ref) -> bytes:
    assert isinstance(source, PathRef | DescriptorRef)
    return source.readlink()


def _times(info: os.stat_result) -> tuple[int, int]:
    return info.st_atime_ns, info.st_mtime_ns
