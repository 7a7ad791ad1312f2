"""Operations on ranges of open files that move no data through the server: fallocate, lseek, copy_file_range."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from unionfs import _libc
from unionfs.copyup.copy_data import NO_OFFLOAD
from unionfs.vfs.privileges import is_privileged, kill_privileges

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.inode.handles import FileHandle
    from unionfs.vfs.filesystem import UnionFs

#: The modes of fallocate(2) that the kernel passes to a FUSE server (fuse_file_fallocate, fs/fuse/file.c).
_MODES = _libc.FALLOC_FL_KEEP_SIZE | _libc.FALLOC_FL_PUNCH_HOLE | _libc.FALLOC_FL_ZERO_RANGE
#: Limit of bytes of one copy, because the client cannot be killed before the reply.
MOST = 1 << 27


def seek(fs: UnionFs, number: int, offset: int, whence: int) -> int:
    """Return the offset of the next data or hole of the open file *number* from *offset* on (SEEK_DATA and SEEK_HOLE of
    lseek(2)).

    Raises:
        OSError: ENXIO at or behind the end of the file, EINVAL for another *whence*.
    """
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return fs.handles.file(number).seek(offset, whence)


class RangeChange:
    """A change of file blocks in the writable layer. :meth:`run` changes them in any thread; :meth:`finish` counts the change.

    The descriptors are those of the handles. After :meth:`detach` they are duplicates, which :meth:`run` closes.
    """

    __slots__ = ("_blocks", "_detached", "_error", "_fds", "_fs", "_inode", "_reserved", "length")

    def __init__(
        self, fs: UnionFs, target: FileHandle, fds: tuple[int, ...], length: int, growth: int = 0
    ) -> None:
        """Prepare a change of *length* bytes of *target* (`Files.writable_handle`), whose descriptor is the last of *fds*. *growth* of them have no
        blocks yet.
        """
        self._fs, self._inode = fs, target.inode
        self._fds, self._detached = fds, False
        self.length = length
        self._error: OSError | None = None
        before = os.fstat(target.fd).st_blocks
        self._blocks = (before, before)
        self._reserved = growth
        if fs.quota is not None:
            fs.quota.reserved += growth

    def detach(self) -> bool:
        """Duplicate the descriptors, so that handles may be closed before :meth:`run`; return False at the limit of
        descriptors.
        """
        made: list[int] = []
        try:
            for fd in self._fds:
                made.append(os.dup(fd))  # noqa: PERF401 - those before one that fails are closed
        except OSError:
            for fd in made:
                os.close(fd)
            return False
        self._fds, self._detached = tuple(made), True
        return True

    def run(self) -> None:
        """Change the blocks. :meth:`finish` raises the error, if there is one."""
        try:
            self._change()
        except OSError as error:
            self._error = error
        finally:
            with suppress(OSError):  # the disk fails; the next count of the layer corrects the use
                self._blocks = (self._blocks[0], os.fstat(self._fds[-1]).st_blocks)
            if self._detached:
                for fd in self._fds:
                    os.close(fd)

    def _change(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Count the change.

        Raises:
            OSError: the error of :meth:`run`.
        """
        self._inode.touch()
        if self._fs.quota is not None:
            self._fs.quota.reserved -= self._reserved
            self._fs.quota.changed(*self._blocks)
        if self._error is not None:
            raise self._error


class RangeAllocation(RangeChange):
    """One fallocate(2) of an open file."""

    __slots__ = ("_mode", "_offset")

    def __init__(
        self,
        fs: UnionFs,
        target: FileHandle,
        mode: int,
        offset: int,
        length: int,
        *,
        kill_suidgid: bool = True,
    ) -> None:
        """Prepare a fallocate(2) of *target* with FALLOC_FL_* *mode*.

        *kill_suidgid*: clear set-id bits, because the caller may not have CAP_FSETID.

        Raises:
            OSError: EOPNOTSUPP for modes that the kernel does not pass, ENOSPC.
        """
        if mode & ~_MODES:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        kill_privileges(fs, target.inode, kill_suidgid=kill_suidgid)
        growth = 0
        if fs.quota is not None and not mode & _libc.FALLOC_FL_PUNCH_HOLE:
            # With less room than length, the call fails as a whole.
            if fs.quota.writable(target.fd, offset, length) < length:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            growth = fs.quota.growth(target.fd, offset, length)
        self._mode, self._offset = mode, offset
        super().__init__(fs, target, (target.fd,), length, growth)

    def _change(self) -> None:
        _libc.fallocate(self._fds[-1], self._mode, self._offset, self.length)


class RangeCopy(RangeChange):
    """One copy_file_range(2) between two open files."""

    __slots__ = ("_at", "_offset", "done")

    def __init__(
        self, fs: UnionFs, source: FileHandle, offset: int, target: FileHandle, at: int, length: int
    ) -> None:
        """Prepare to copy *length* bytes at *offset* of *source* to *at* of *target*, or as many as there is room for.

        Raises:
            OSError: EOPNOTSUPP if the kernel has to copy with READ and WRITE instead, ENOSPC.
        """
        # The request does not report whether the caller has CAP_FSETID; WRITE does. A file of an archive has no descriptor.
        if source.contents is not None or is_privileged(fs, target.inode):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        length = min(length, MOST)
        growth = 0
        if fs.quota is not None and length:
            length = fs.quota.writable(target.fd, at, length)
            growth = fs.quota.growth(target.fd, at, length)
        self._offset, self._at = offset, at
        #: Number of copied bytes.
        self.done = 0
        super().__init__(fs, target, (source.fd, target.fd), length, growth)

    def _change(self) -> None:
        source, target = self._fds
        try:
            # Shares blocks if the file system supports that, otherwise copies in the kernel.
            self.done = os.copy_file_range(source, target, self.length, self._offset, self._at)
        except OSError as error:
            if error.errno not in NO_OFFLOAD:
                raise
            # For instance between file systems: the kernel then copies with READ and WRITE.
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None
