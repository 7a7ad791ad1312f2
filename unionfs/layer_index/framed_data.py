"""The decompressed bytes of an archive that consists of frames. Each read decompresses whole frames, and the latest are kept."""

from __future__ import annotations

import bisect
import errno
import os
from collections import OrderedDict
from threading import Lock

from unionfs._stdlib.typing import Any
from unionfs.layer_index.archived_contents import LocalData, truncated

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unionfs.layer_index.archive_frames import Frame

#: Bytes of decompressed frames that are kept.
_MOST_KEPT = 1 << 26
_GZIP = b"\x1f\x8b"
_GZIP_FORMAT = 31  # a header and a trailer (zlib.h, inflateInit2)
_WINDOW_LOG = 27  # of zstd: 128 MiB, the limit of `zstd -d` without --long


class FramedData(LocalData):
    """The bytes of an archive of frames. It borrows the descriptor. All methods may be called by several threads."""

    def __init__(self, fd: int, frames: Sequence[Frame], decompress: Callable[[bytes, int], bytes]) -> None:
        """Read the file *fd*, which consists of *frames*; *decompress* takes a frame and the number of bytes in it."""
        self._fd = fd
        self._frames = frames
        self._starts = [frame.shown for frame in frames]
        self._decompress = decompress
        self.size = frames[-1].shown
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_size = 0
        #: Protects the frames that are kept. One frame is decompressed at a time, which bounds the memory.
        self._lock = Lock()

    def read(self, room: memoryview, position: int, *, cached: bool) -> bool:
        """Copy from decompressed frames. With *cached*, nothing is decompressed, and no other thread is waited for."""
        if not self._lock.acquire(blocking=not cached):
            return False
        try:
            done = 0
            for number, start, length in self._parts(position, len(room)):
                frame = self._kept.get(number)
                if frame is None:
                    if cached:
                        return False
                    frame = self._load(number)
                self._kept.move_to_end(number)
                room[done : done + length] = frame[start : start + length]
                done += length
            return True
        finally:
            self._lock.release()

    def copy(self, position: int, length: int, to: int, offset: int) -> None:
        """Decompress the frames that have the range, and write them."""
        for number, start, part in self._parts(position, length):
            with self._lock:
                frame = self._kept.get(number) or self._load(number)
            rest = memoryview(frame)[start : start + part]
            while rest:
                written = os.pwrite(to, rest, offset)
                rest = rest[written:]
                offset += written

    def _parts(self, position: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield number of the frame, offset in it, and length for each part of the range."""
        if position + length > self.size:
            raise truncated()
        number = bisect.bisect_right(self._starts, position) - 1
        while length:
            start = position - self._starts[number]
            part = min(length, self._starts[number + 1] - position)
            yield number, start, part
            position, length, number = position + part, length - part, number + 1

    def _load(self, number: int) -> bytes:
        """Decompress the frame *number* and keep it. The caller has the lock."""
        one, following = self._frames[number], self._frames[number + 1]
        stored = os.pread(self._fd, following.stored - one.stored, one.stored)
        if len(stored) < following.stored - one.stored:
            raise truncated()
        size = following.shown - one.shown
        frame = self._decompress(stored, size)
        if len(frame) != size:
            raise OSError(errno.EIO, "a frame of the archive has another length than it had")
        self._kept[number] = frame
        self._kept_size += size
        while self._kept_size > _MOST_KEPT and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_size -= len(oldest)
        return frame


def decompressor(fd: int) -> Callable[[bytes, int], bytes]:
    """Return the function that decompresses one frame of the archive *fd*, and import what it needs.

    The function takes the bytes from the beginning of the frame to that of the next one, and how many bytes it has.

    Raises:
        ImportError: the module for zstd is not installed.
        OSError: *fd* cannot be read.
    """
    return _gunzip() if os.pread(fd, 2, 0) == _GZIP else _unzstd()


def _gunzip() -> Callable[[bytes, int], bytes]:
    import zlib

    def gunzip(stored: bytes, size: int) -> bytes:
        try:
            return zlib.decompressobj(_GZIP_FORMAT).decompress(stored, size)
        except zlib.error as error:
            raise OSError(errno.EIO, f"the compressed data is damaged: {error}") from None

    return gunzip


def _unzstd() -> Callable[[bytes, int], bytes]:
    import importlib
    import sys

    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd: Any = importlib.import_module(name)
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}

    def unzstd(stored: bytes, size: int) -> bytes:
        try:
            return bytes(zstd.ZstdDecompressor(options=options).decompress(stored, size))
        except zstd.ZstdError as error:
            raise OSError(errno.EIO, f"the compressed data is damaged: {error}") from None

    return unzstd
