"""The contents of a file of an archive: a range of the archive, or several with holes between them.

:class:`ArchiveData` reads ranges of the archive. A range that the archive no longer has, because another process truncated it,
is an error: zeros in their place would be wrong contents.
"""

from __future__ import annotations

import bisect
import errno
import os

from unionfs._stdlib.typing import Protocol
from unionfs.copyup.copy_data import copy_range
from unionfs.layer.contents import Fetch
from unionfs.layer.file_systems import is_remote

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class ArchiveData(Protocol):
    """The bytes of an archive, decompressed. `ArchiveLayer` owns it."""

    #: How many there were when the archive was opened.
    size: int

    def read(self, room: memoryview, position: int, *, cached: bool) -> bool:
        """Fill *room* with the bytes at *position*. With *cached*, return False if some are not in memory.

        Raises:
            OSError: EIO if the archive ends before.
        """

    def copy(self, position: int, length: int, to: int, offset: int) -> None:
        """Write the *length* bytes at *position* to *offset* of the file *to*.

        Raises:
            OSError: EIO if the archive ends before; *to* cannot be written.
        """

    def missing(self, position: int, length: int) -> Sequence[int]:
        """Return the numbers of the chunks that have to be fetched before the *length* bytes at *position* can be read."""

    def fetch(self, chunks: Sequence[int], done: Callable[[int], None]) -> None:
        """Fetch *chunks*; *done* is called as `Fetch.begin` says. Only for data that is fetched."""


class LocalData:
    """What archives have in common whose bytes are on this machine."""

    def missing(self, position: int, length: int) -> Sequence[int]:  # noqa: ARG002 - the same for all
        """Return nothing."""
        return ()

    def fetch(self, chunks: Sequence[int], done: Callable[[int], None]) -> None:
        """Refuse: nothing is missing."""
        raise NotImplementedError


class PlainData(LocalData):
    """The bytes of an archive that is not compressed. It borrows the descriptor."""

    def __init__(self, fd: int, size: int) -> None:
        """Read the file *fd* of *size* bytes."""
        self._fd = fd
        self.size = size
        self._tells_cached = True

    def read(self, room: memoryview, position: int, *, cached: bool) -> bool:
        """Read, from the page cache alone with *cached*."""
        done, flags = 0, 0
        if cached and self._tells_cached:
            flags = os.RWF_NOWAIT
        elif cached and is_remote(self._fd):
            return False
        try:
            while done < len(room):
                more = os.preadv(self._fd, (room[done:],), position + done, flags)
                if not more:
                    raise truncated()
                done += more
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or not flags:
                raise
            self._tells_cached = False
            return self.read(room, position, cached=cached)
        return True

    def copy(self, position: int, length: int, to: int, offset: int) -> None:
        """Copy in the kernel if it can."""
        if copy_range(self._fd, position, to, offset, length) < length:
            raise truncated()


class ArchivedContents:
    """The contents of one file. `ArchivedRef` creates them; they borrow the archive's data."""

    __slots__ = ("_data", "_ends", "_extents", "_position", "size", "stored")

    def __init__(
        self, data: ArchiveData, size: int, position: int, extents: Sequence[tuple[int, int]] | None = None
    ) -> None:
        """Describe a file of *size* bytes.

        Args:
            data: the archive.
            size: the length of the file, with holes.
            position: the offset in the archive of the first byte that is stored.
            extents: offset and length of each piece of data, ascending; None: all of it is stored.

        Raises:
            OSError: EIO if the archive cannot have that range.
        """
        self._data = data
        self.size = size
        self._position = position
        self._extents = ((0, size),) if extents is None else extents
        self._ends = [offset + length for offset, length in self._extents]
        #: Bytes, without holes.
        self.stored = size if extents is None else sum(length for _, length in extents)
        if position + self.stored > data.size:
            raise OSError(errno.EIO, "the index of the archive leads out of it")

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield offset in the file, length, and offset in the archive of the data between *start* and *end*."""
        first = bisect.bisect_right(self._ends, start)
        position = self._position + sum(length for _, length in self._extents[:first])
        for offset, length in self._extents[first:]:
            if offset >= end:
                return
            begin, stop = max(offset, start), min(offset + length, end)
            if begin < stop:
                yield begin, stop - begin, position + begin - offset
            position += length

    def _fill(self, room: memoryview, offset: int, *, cached: bool) -> bool:
        at = offset
        for start, length, position in self._pieces(offset, offset + len(room)):
            _zero(room[at - offset : start - offset])
            if not self._data.read(room[start - offset : start - offset + length], position, cached=cached):
                return False
            at = start + length
        _zero(room[at - offset :])
        return True

    def read(self, size: int, offset: int) -> bytes:
        """Return up to *size* bytes at *offset*."""
        found = bytearray(max(0, min(size, self.size - offset)))
        self._fill(memoryview(found), offset, cached=False)
        return bytes(found)

    def read_cached(self, room: memoryview, offset: int) -> int | None:
        """Read to *room* what there is at *offset* without waiting for a disk; None if that is not possible."""
        size = max(0, min(len(room), self.size - offset))
        return size if self._fill(room[:size], offset, cached=True) else None

    def pending(self, offset: int, size: int) -> Fetch | None:
        """Return what has to be fetched before the *size* bytes at *offset* can be read; None if nothing has to."""
        end = offset + max(0, min(size, self.size - offset))
        missing = [
            number
            for _, length, position in self._pieces(offset, end)
            for number in self._data.missing(position, length)
        ]
        return Fetch(self._data.fetch, missing) if missing else None

    def seek(self, offset: int, whence: int) -> int:
        """Return the offset of the next data or hole from *offset* on."""
        if not 0 <= offset < self.size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        for start, length in self._extents[bisect.bisect_right(self._ends, offset) :]:
            if not length:
                continue
            if whence == os.SEEK_DATA:
                return max(start, offset)
            if offset < start:
                return offset
            offset = start + length
        if whence == os.SEEK_DATA:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return offset

    def copy(self, to: int) -> int:
        """Write the contents to the empty file *to*, with their holes; return how many bytes are not in holes."""
        copied = 0
        for offset, length, position in self._pieces(0, self.size):
            self._data.copy(position, length, to, offset)
            copied += length
        if copied < self.size:
            os.ftruncate(to, self.size)
        return copied


def truncated() -> OSError:
    """Return the error for an archive that lacks bytes that it had when it was indexed."""
    return OSError(errno.EIO, "the archive has become shorter")


def _zero(room: memoryview) -> None:
    if room:
        room[:] = bytes(len(room))
