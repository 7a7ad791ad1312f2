"""Find the ranges of a file that have no blocks, to know how many blocks a write is going to take."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator

FS_IOC_FIEMAP = 0xC020660B  # linux/fs.h, _IOWR('f', 11, struct fiemap)
#: struct fiemap: fm_start, fm_length, fm_flags, fm_mapped_extents, fm_extent_count, fm_reserved.
_FIEMAP = struct.Struct("=QQIIII")
#: struct fiemap_extent: fe_logical, fe_physical, fe_length, reserved, fe_flags, reserved.
_EXTENT = struct.Struct("=QQQ16xI12x")
_LAST = 0x1  # FIEMAP_EXTENT_LAST
#: Number of extents that one call returns.
_MOST = 64
_NO_FIEMAP = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM))


def unallocated(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each range between *start* and *end* of the open file *fd* that has no allocated blocks.

    If the file system reports extents (FIEMAP), blocks allocated by fallocate(2) count as allocated. On other file systems,
    such as tmpfs, the ranges are the holes (SEEK_DATA of lseek(2)).
    """
    at = start
    for first, after in _allocated(fd, start, end):
        if first > at:
            yield at, min(first, end)
        at = max(at, after)
        if at >= end:
            return
    if at < end:
        yield at, end


def _allocated(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    try:
        yield from _extents(fd, start, end)
    except OSError as error:
        if error.errno not in _NO_FIEMAP:
            raise
        yield from _data(fd, start, end)


def _extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < end:
        room = bytearray(_FIEMAP.size + _MOST * _EXTENT.size)
        _FIEMAP.pack_into(room, 0, at, end - at, 0, 0, _MOST, 0)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, room)
        _, _, _, mapped, _, _ = _FIEMAP.unpack_from(room)
        if not mapped:
            return
        flags = 0
        for number in range(mapped):
            first, _, length, flags = _EXTENT.unpack_from(room, _FIEMAP.size + number * _EXTENT.size)
            at = first + length
            yield first, at
        if flags & _LAST:
            return


def _data(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < end:
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, first, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole follows
                raise
            return
        yield first, at
