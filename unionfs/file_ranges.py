"""Operations on ranges of open files that move no bytes through the server: fallocate, lseek, copy_file_range."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from unionfs import _libc
from unionfs.contents import NO_OFFLOAD
from unionfs.privileges import is_privileged, kill_privileges
from unionfs.quota import counted

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.core import UnionFs
    from unionfs.handles import FileHandle

#: The modes of fallocate(2) that a kernel sends over FUSE (fuse_file_fallocate, fs/fuse/file.c).
_MODES = _libc.FALLOC_FL_KEEP_SIZE | _libc.FALLOC_FL_PUNCH_HOLE | _libc.FALLOC_FL_ZERO_RANGE
#: Bytes of one copy: the client cannot be killed before the reply.
MOST = 1 << 27


def allocate(
    fs: UnionFs, number: int, mode: int, offset: int, length: int, *, kill_suidgid: bool = True
) -> None:
    """Change the blocks of the open file *number* as fallocate(2) with FALLOC_FL_* *mode*.

    *kill_suidgid*: this clears set-id bits, as the caller may have no CAP_FSETID.

    Raises:
        OSError: EOPNOTSUPP for other modes and where the file system below has none, ENOSPC.
    """
    if mode & ~_MODES:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    handle = fs.handles.file(number)
    fd, node = handle.fd, handle.node
    kill_privileges(fs, node, kill_suidgid=kill_suidgid)
    quota = fs.quota
    # With less room than length the call fails as a whole.
    if (
        quota is not None
        and not mode & _libc.FALLOC_FL_PUNCH_HOLE
        and quota.writable(fd, offset, length) < length
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    node.touch()
    with counted(quota, lambda: os.fstat(fd)):
        _libc.fallocate(fd, mode, offset, length)


def seek(fs: UnionFs, number: int, offset: int, whence: int) -> int:
    """Return the next data or hole of the open file *number* from *offset* on (SEEK_DATA and SEEK_HOLE of lseek(2)).

    Raises:
        OSError: ENXIO behind the end, EINVAL for another *whence*.
    """
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return os.lseek(fs.handles.file(number).fd, offset, whence)


class RangeCopy:
    """One copy_file_range(2) between two open files: :meth:`run` copies, in any thread, and :meth:`finish` counts.

    It owns duplicates of both descriptors, which :meth:`run` closes.
    """

    __slots__ = ("_at", "_blocks", "_error", "_fds", "_fs", "_node", "_offset", "_reserved", "done", "length")

    def __init__(
        self, fs: UnionFs, source: FileHandle, offset: int, target: FileHandle, at: int, length: int
    ) -> None:
        """Prepare to copy *length* bytes at *offset* of *source* to *at* of *target*, or as many as there is room for.

        Raises:
            OSError: EOPNOTSUPP where the kernel has to copy by READ and WRITE, ENOSPC.
        """
        node = target.node
        # The request does not report whether the caller has CAP_FSETID; WRITE does.
        if is_privileged(fs, node):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        length = min(length, MOST)
        self._reserved = 0
        if fs.quota is not None and length:
            length = fs.quota.writable(target.fd, at, length)
            self._reserved = fs.quota.growth(target.fd, at, length)
        self._fs, self._node = fs, node
        self._offset, self._at, self.length = offset, at, length
        #: Bytes that have been copied.
        self.done = 0
        self._error: OSError | None = None
        before = os.fstat(target.fd).st_blocks
        self._blocks = (before, before)
        fd = os.dup(source.fd)
        try:
            self._fds = (fd, os.dup(target.fd))
        except OSError:
            os.close(fd)
            raise
        if fs.quota is not None:
            fs.quota.reserved += self._reserved

    def run(self) -> None:
        """Copy: shared blocks where the file system can, else inside the kernel."""
        source, target = self._fds
        try:
            self.done = os.copy_file_range(source, target, self.length, self._offset, self._at)
        except OSError as error:
            self._error = error
        finally:
            with suppress(OSError):  # of a disk that fails: the next count finds what it takes
                self._blocks = (self._blocks[0], os.fstat(target).st_blocks)
            os.close(source)
            os.close(target)

    def finish(self) -> int:
        """Return how many bytes were copied.

        Raises:
            OSError: EOPNOTSUPP where the kernel has to copy by READ and WRITE, as between file systems; else the errno of
                copy_file_range(2).
        """
        self._node.touch()
        if self._fs.quota is not None:
            self._fs.quota.reserved -= self._reserved
            self._fs.quota.changed(*self._blocks)
        if self._error is not None:
            if self._error.errno in NO_OFFLOAD:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            raise self._error
        return self.done
