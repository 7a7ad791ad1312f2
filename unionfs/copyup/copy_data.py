"""Contents of files, from one descriptor to another: shared blocks where the file system can, holes kept."""

from __future__ import annotations

import errno
import fcntl
import os

_FICLONE = 0x40049409  # linux/fs.h, _IOW(0x94, 9, int)
_CHUNK = 1 << 20
#: Bytes up to which reading and writing takes less than having the kernel splice pages.
_SMALL = 1 << 15
#: Bytes in a block of st_blocks (inode(7)).
_BLOCK = 512
#: copy_file_range and FICLONE say these where the two files cannot share or hand over blocks.
NO_OFFLOAD = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM)
)


class Copier:
    """Copies contents to files of one file system."""

    def __init__(self) -> None:
        """Know nothing yet of what that can share."""
        #: The devices whose files share no blocks with it: not asked again for each file.
        self._apart: set[int] = set()

    def copy(self, at: int, to: int, size: int, info: os.stat_result | None = None) -> int:
        """Copy *size* bytes of *at*, which has *info*, to the empty file *to*, holes kept; returns how many are no hole.

        Raises:
            OSError: what reading or writing says. A source that has become shorter is copied as far as it goes.
        """
        info = info or os.fstat(at)
        if info.st_dev not in self._apart:
            try:
                fcntl.ioctl(to, _FICLONE, at)
            except OSError as error:
                if error.errno not in NO_OFFLOAD:
                    raise
                if error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY):
                    self._apart.add(info.st_dev)
            else:
                return size
        if info.st_blocks * _BLOCK >= size:
            copied = _copy_range(at, to, 0, size)
            if copied < size:
                os.ftruncate(to, size)
            return copied
        return _copy_segments(at, to, size)


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
    offload = end - start > _SMALL
    while offset < end:
        if offload:
            try:
                done = os.copy_file_range(at, to, end - offset, offset, offset)
            except OSError as error:
                if error.errno not in NO_OFFLOAD:
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
