"""The chunks of a layer that is fetched in parts, and the messages to the process that fetches them. Pure codec, which validates.

The contents of all files of such a layer are in one sparse file, the data, which the launcher fills. Each file consists of whole
chunks. The table has for each chunk its place in the data, where it is in the blob of the registry, and its digest. The server
needs the places alone.
"""

from __future__ import annotations

import bisect
import struct
import zlib

from unionfs._stdlib.typing import NamedTuple
from unionfs.layer_index.format import DamagedError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MAGIC = b"uni\xf6nchk"
_VERSION = 1
#: Magic, version, checksum of what follows, number of chunks.
_HEADER = struct.Struct("<8sIIQ")
_CHUNK = struct.Struct("<QIIQI32s")

FETCH = struct.Struct("<IIII")
"""A request: its number, the number of the layer, the first chunk, and the number of chunks."""
FETCHED = struct.Struct("<Ii")
"""The answer: the number of the request, and 0 or the errno that reading the chunks fails with."""


class Chunk(NamedTuple):
    """One chunk. All numbers are bytes."""

    #: Where the chunk is in the data.
    position: int
    #: Its length there.
    size: int
    #: How much of the decompressed piece precedes it.
    skipped: int
    #: Where the piece that contains it begins in the blob, and its length there.
    stored: int
    stored_size: int
    #: The SHA-256 of the chunk.
    digest: bytes


def encode_chunks(chunks: Iterable[Chunk]) -> bytes:
    """Return the table of *chunks*, which follow each other in the data.

    Raises:
        ValueError: a number does not fit.
    """
    try:
        rows = [_CHUNK.pack(*chunk) for chunk in chunks]
    except struct.error as error:
        raise ValueError(str(error)) from None
    joined = b"".join(rows)
    return _HEADER.pack(_MAGIC, _VERSION, zlib.crc32(joined), len(rows)) + joined


class ChunkTable:
    """A table that has been validated."""

    def __init__(self, content: bytes) -> None:
        """Read *content*.

        Raises:
            DamagedError: it is no table, or the chunks do not follow each other.
        """
        if len(content) < _HEADER.size:
            raise DamagedError("the table of chunks is too short")
        magic, version, checksum, count = _HEADER.unpack_from(content)
        rows = content[_HEADER.size :]
        if magic != _MAGIC or version != _VERSION or len(rows) != count * _CHUNK.size:
            raise DamagedError("the table of chunks has another form or length")
        if zlib.crc32(rows) != checksum:
            raise DamagedError("the table of chunks has a wrong checksum")
        self._rows = rows
        self._starts = []
        end = 0
        for position, size, *_ in _CHUNK.iter_unpack(rows):
            if position != end or not size:
                raise DamagedError("the chunks of the table do not follow each other")
            self._starts.append(position)
            end += size
        #: The length of the data.
        self.size = end

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._starts)

    def __getitem__(self, number: int) -> Chunk:
        """Return the chunk *number*."""
        return Chunk._make(_CHUNK.unpack_from(self._rows, number * _CHUNK.size))

    def within(self, position: int, length: int) -> range:
        """Return the numbers of the chunks that have the *length* bytes at *position* of the data."""
        if length <= 0 or position >= self.size:
            return range(0)
        first = bisect.bisect_right(self._starts, position) - 1
        return range(first, bisect.bisect_left(self._starts, position + length))
