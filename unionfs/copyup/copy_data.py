"""Copy file contents between descriptors: with shared blocks if the file system supports them, and with their holes."""

from __future__ import annotations

import errno
import fcntl
import os

_FICLONE = 0x40049409  # linux/fs.h, _IOW(0x94, 9, int)
_CHUNK = 1 << 20
#: Up to this number of bytes, read and write take less time than copy_file_range.
_SMALL = 1 << 15
#: Bytes in a block of st_blocks (inode(7)).
_BLOCK = 512
#: errno values of copy_file_range and FICLONE if the two files cannot share blocks, or the kernel cannot copy between them.
NO_OFFLOAD = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM)
)


class Copier:
    """Copies contents to files of one file system. It remembers which devices cannot share blocks with that file system."""

    def __init__(self) -> None:
        """Create a copier that tries FICLONE for every device."""
        #: The devices whose files cannot share blocks with the target; FICLONE is not tried for them again.
        self._without_reflink: set[int] = set()

    def copy(self, at: int, to: int, size: int, info: os.stat_result | None = None) -> int:
        """Copy *size* bytes of *at*, with the attributes *info*, to the empty file *to*; return how many of them are not in
        holes.

        Holes are preserved. If the source has become shorter, everything that it has is copied.

        Raises:
            OSError: reading or writing failed.
        """
        info = info or os.fstat(at)
        if info.st_dev not in self._without_reflink:
            try:
                fcntl.ioctl(to, _FICLONE, at)
            except OSError as error:
                if error.errno not in NO_OFFLOAD:
                    raise
                if error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY):
                    self._without_reflink.add(info.st_dev)
            else:
                return size
        if info.st_blocks * _BLOCK >= size:
            copied = copy_range(at, 0, to, 0, size)
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
            if error.errno == errno.ENXIO:  # only a hole follows
                break
            if error.errno != errno.EINVAL:
                raise
            start, end = end, size
        if start >= size:
            break
        copied += copy_range(at, start, to, start, end - start)
    os.ftruncate(to, size)
    return copied


def copy_range(at: int, position: int, to: int, offset: int, length: int) -> int:
    """Copy *length* bytes at *position* of *at* to *offset* of *to*, in the kernel if it can; return how many there were.

    Raises:
        OSError: reading or writing failed.
    """
    done = 0
    offload = length > _SMALL
    while done < length:
        if offload:
            try:
                more = os.copy_file_range(at, to, length - done, position + done, offset + done)
            except OSError as error:
                if error.errno not in NO_OFFLOAD:
                    raise
                offload = False
                continue
        else:
            data = os.pread(at, min(_CHUNK, length - done), position + done)
            more = os.pwrite(to, data, offset + done)
        if more == 0:  # the source has become shorter: another process changed it
            break
        done += more
    return done
