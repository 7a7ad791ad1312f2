"""Copy-up: gives an object of a lower layer a copy in the writable one, whole or not at all.

The steps come from :mod:`unionfs.copyup_plan`. A directory is copied without its contents, after its
ancestors. These failures are tolerated, everything else undoes the copy-up and reaches the caller:

* attributes that the upper file system cannot hold (EOPNOTSUPP), and ``trusted.*`` or ``security.*`` ones
  that we may not set (EPERM);
* a file system that gives no holes (EINVAL from SEEK_DATA): the copy has none;
* times of the parent directory that cannot be set back: by then the copy has its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass

from unionfs.copyup_plan import Step, plan_copy_up
from unionfs.index import LinkIndex
from unionfs.layer import Layer, LayerDir, Named, Pinned, Ref, follows, is_null_device
from unionfs.nodes import DirNode, FileNode
from unionfs.ownership import Ownership
from unionfs.tree import Tree
from unionfs.upper import COPY_PREFIX, Upper
from unionfs.whiteout import is_private_xattr

_FICLONE = 0x40049409  # linux/fs.h, _IOW(0x94, 9, int)
_CHUNK = 1 << 20
#: copy_file_range and FICLONE say these where the two files cannot share or hand over blocks.
_NO_OFFLOAD = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM)
)


@dataclass(slots=True)
class _Job:
    """One copy-up under way: the source, and the copy at its temporary name."""

    source: Ref
    info: os.stat_result
    owner: tuple[int, int]
    mode: int
    tmp_fd: int
    tmp: bytes

    @property
    def target(self) -> bytes:
        return b"/proc/self/fd/%d/%s" % (self.tmp_fd, self.tmp)


class CopyUp:
    """Copies objects of one mount up."""

    def __init__(
        self, tree: Tree, upper: Upper, index: LinkIndex, ownership: Ownership, *, durable: bool
    ) -> None:
        """Join the parts; *durable*: contents are synced before a copy takes the original's place."""
        self._tree = tree
        self._upper = upper
        self._index = index
        self._ownership = ownership
        self._durable = durable
        #: Number of copies and of bytes copied since the mount, for the statistics.
        self.copies = 0
        self.bytes = 0

    def directory(self, node: DirNode) -> None:
        """Give *node* and its ancestors a directory in the upper layer."""
        missing: list[DirNode] = []
        at: DirNode | None = node
        while at is not None and at.upper is None:
            if at.removed:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), at.name)
            missing.append(at)
            at = at.parent
        for directory in reversed(missing):
            # Nothing is in use between two of them, and there may be more than descriptors.
            self._upper.layer.fds.trim()
            self._one_directory(directory)

    def _one_directory(self, node: DirNode) -> None:
        parent = node.parent
        assert parent is not None
        target = parent.upper
        assert target is not None
        self._upper.refuse_reserved(node.name)
        source = node.parts[0]
        info = source.stat()
        times = _times(target.stat())
        with self._upper.building() as (tmp_fd, tmp):
            os.mkdir(tmp, 0o700, dir_fd=tmp_fd)
            job = self._job(source, source.layer, info, tmp_fd, tmp)
            self._owner(job)
            if not source.foreign:
                self._xattrs(job)
            os.chmod(tmp, job.mode, dir_fd=tmp_fd)
            os.utime(tmp, ns=_times(info), dir_fd=tmp_fd, follow_symlinks=False)
            self._upper.publish_directory(tmp, target, node.name)
        copy = target.child(node.name)
        copy.note_new(opaque=False)
        node.parts.insert(0, copy)
        node.touch()
        self._restore_times(parent, target, times)
        self.copies += 1

    def file(self, node: FileNode, *, data: bool = True) -> None:
        """Give *node* a copy in the upper layer; without its contents if *data* is false."""
        if node.layer.writable:
            return
        named = bool(node.names)
        if named:
            self._upper.refuse_reserved(node.names[0][1])
            self.directory(node.names[0][0])
        info = node.ref.stat()
        if is_null_device(info):
            raise OSError(errno.EPERM, "the copy of a character device 0:0 would be a whiteout")
        steps = plan_copy_up(
            node.kind,
            data=data and not node.foreign,
            links=info.st_nlink,
            named=named,
            durable=self._durable,
            lasting=self._tree.numbers.lasts(node.ino),
        )
        with self._upper.building(COPY_PREFIX) as (tmp_fd, tmp):
            self._run(node, steps, self._job(node.ref, node.layer, info, tmp_fd, tmp))
        self.copies += 1

    def _job(self, source: Ref, layer: Layer, info: os.stat_result, tmp_fd: int, tmp: bytes) -> _Job:
        uid, gid, mode = self._ownership.visible(info, layer)
        return _Job(source, info, (uid, gid), stat.S_IMODE(mode), tmp_fd, tmp)

    def _run(self, node: FileNode, steps: tuple[Step, ...], job: _Job) -> None:
        with ExitStack() as undo:
            fd = _make(node.kind, job)
            if fd >= 0:
                undo.callback(os.close, fd)
            # Open handles go on with the copy, so that a reader from before sees what is written after. They are
            # opened while the copy still has the mode that it was made with, and before anything is irrevocable.
            reopened = ExitStack()
            undo.push(reopened)
            moves = [(handle, _reopen(fd, handle.flags, reopened)) for handle in node.handles]
            index_ref = self._prepare(node, steps, job, fd, undo)
            if Step.PUBLISH in steps:
                self._publish(node, job, index_ref)
            else:
                self._pin(node, job)
            reopened.pop_all()
            for handle, replacement in moves:
                handle.replace(replacement)
            node.indexed = index_ref is not None
            if index_ref is not None:
                undo.pop_all()
                if fd >= 0:
                    os.close(fd)
                self._index.settle_lost_names(node.ino, lasting=self._tree.numbers.lasts(node.ino))

    def _prepare(
        self, node: FileNode, steps: tuple[Step, ...], job: _Job, fd: int, undo: ExitStack
    ) -> Named | None:
        """Do the steps up to the irrevocable one; returns the copy's reference in the index, if it has one."""
        index_ref: Named | None = None
        for step in steps:
            if step is Step.DATA:
                self.bytes += _copy_data(node.ref, fd, job.info.st_size)
            elif step is Step.OWNER:
                self._owner(job)
            elif step is Step.XATTRS:
                if not node.foreign:
                    self._xattrs(job)
            elif step is Step.ORIGIN:
                self._index.set_origin(fd, node.ino)
            elif step is Step.MODE:
                os.chmod(job.tmp, job.mode, dir_fd=job.tmp_fd)
            elif step is Step.TIMES:
                os.utime(job.tmp, ns=_times(job.info), dir_fd=job.tmp_fd, follow_symlinks=False)
            elif step is Step.SYNC:
                os.fdatasync(fd)
            elif step is Step.INDEX:
                others = job.info.st_nlink - 1 - self._index.lost_names(node.ino)
                lasting = self._tree.numbers.lasts(node.ino)
                index_ref = self._index.add(node.ino, job.tmp_fd, job.tmp, others, lasting=lasting)
                undo.callback(self._index.remove, node.ino)
        return index_ref

    def _publish(self, node: FileNode, job: _Job, index_ref: Named | None) -> None:
        parent, name = node.names[0]
        target = parent.upper
        assert target is not None
        times = _times(target.stat())
        copy = os.stat(job.tmp, dir_fd=job.tmp_fd, follow_symlinks=False)
        self._upper.publish(job.tmp, target, name)
        self._tree.reidentify(
            node, self._upper.layer, index_ref or Named(target, name), (copy.st_dev, copy.st_ino)
        )
        self._restore_times(parent, target, times)

    @staticmethod
    def _restore_times(parent: DirNode, target: LayerDir, times: tuple[int, int]) -> None:
        """Undo what a copy-up did to the times of the directory that it put a name in: nothing changed there."""
        try:
            os.utime(target.proc_path(), ns=times)
        except OSError:
            pass  # as in a directory of somebody else in which we may write; the copy-up itself is done
        parent.touch()

    def _pin(self, node: FileNode, job: _Job) -> None:
        pinned = os.open(job.tmp, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=job.tmp_fd)
        copy = os.fstat(pinned)
        if isinstance(node.ref, Pinned):
            node.ref.close()
        self._tree.reidentify(node, self._upper.layer, Pinned(pinned), (copy.st_dev, copy.st_ino))

    def _owner(self, job: _Job) -> None:
        uid, gid = job.owner
        made = os.stat(job.tmp, dir_fd=job.tmp_fd, follow_symlinks=False)
        if (made.st_uid, made.st_gid) != (uid, gid):
            os.chown(job.tmp, uid, gid, dir_fd=job.tmp_fd, follow_symlinks=False)

    def _xattrs(self, job: _Job) -> None:
        source, follow = job.source.proc_path(), follows(job.source)
        try:
            names = os.listxattr(source, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return
        for name in names:
            if is_private_xattr(name):
                continue
            try:
                value = os.getxattr(source, name, follow_symlinks=follow)
                os.setxattr(job.target, name, value, follow_symlinks=False)
            except OSError as error:
                unprivileged = error.errno == errno.EPERM and name.startswith(("trusted.", "security."))
                if not unprivileged and error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
                    raise


def _reopen(fd: int, flags: int, undo: ExitStack) -> int:
    copy = os.open(b"/proc/self/fd/%d" % fd, flags | os.O_CLOEXEC)
    undo.callback(os.close, copy)
    return copy


def _make(kind: int, job: _Job) -> int:
    """Make the empty object; returns a descriptor of a regular file, else -1."""
    if stat.S_ISREG(kind):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(job.tmp, flags, 0o600, dir_fd=job.tmp_fd)
    if stat.S_ISLNK(kind):
        os.symlink(_target(job.source), job.tmp, dir_fd=job.tmp_fd)
    else:
        os.mknod(job.tmp, kind | 0o600, job.info.st_rdev, dir_fd=job.tmp_fd)
    return -1


def _target(source: Ref) -> bytes:
    assert isinstance(source, Named | Pinned)
    return source.readlink()


def _copy_data(source: Ref, to: int, size: int) -> int:
    """Copy the contents of *source* to the empty file *to*, holes kept; returns the number of bytes that are
    no hole.
    """
    assert isinstance(source, Named | Pinned)
    if size == 0:
        return 0
    at = source.open(os.O_RDONLY)
    try:
        try:
            fcntl.ioctl(to, _FICLONE, at)
        except OSError as error:
            if error.errno not in _NO_OFFLOAD:
                raise
            return _copy_segments(at, to, size)
        return size
    finally:
        os.close(at)


def _copy_segments(at: int, to: int, size: int) -> int:
    copied = 0
    end = 0
    while end < size:
        try:
            start = os.lseek(at, end, os.SEEK_DATA)
            end = min(os.lseek(at, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            if error.errno != errno.EINVAL:
                raise
            start, end = end, size
        if start >= size:
            break
        copied += _copy_range(at, to, start, end)
    os.ftruncate(to, size)
    return copied


def _copy_range(at: int, to: int, start: int, end: int) -> int:
    offset = start
    offload = True
    while offset < end:
        if offload:
            try:
                done = os.copy_file_range(at, to, end - offset, offset, offset)
            except OSError as error:
                if error.errno not in _NO_OFFLOAD:
                    raise
                offload = False
                continue
        else:
            data = os.pread(at, min(_CHUNK, end - offset), offset)
            done = os.pwrite(to, data, offset)
        if done == 0:  # the source is shorter than it said: somebody changes the layer
            break
        offset += done
    return offset - start


def _times(info: os.stat_result) -> tuple[int, int]:
    return info.st_atime_ns, info.st_mtime_ns
