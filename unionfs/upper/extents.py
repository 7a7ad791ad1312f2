"""Which ranges of a file have blocks: what a write into it is going to take."""

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
#: Extents that one call returns.
_MOST = 64
_NO_FIEMAP = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM))


def unallocated(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each range between *start* and *end* of the open file *fd* for which no blocks are allocated.

    Blocks that fallocate(2) has allocated count, where the file system reports extents (FIEMAP). Elsewhere, as on tmpfs,
    they are holes (SEEK_DATA of lseek(2)).
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
            if error.errno != errno.ENXIO:  # nothing but a hole from there on
                raise
            return
        yield first, at
