"""The frames of a compressed archive: where each begins in the file and in the decompressed data. Pure codec, which validates.

Any frame of zstd (RFC 8878) or member of gzip (RFC 1952) can be decompressed by itself. Archives with many of them are written by
pzstd, for zstd:chunked and eStargz, and by bgzip. The table is part of the key of the index (format.py), after its first line.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from unionfs._stdlib.typing import NamedTuple
from unionfs.layer_index.format import HEADER, DamagedError, archive_key

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from unionfs.layer_index.format import _Bytes

LARGEST_FRAME = 1 << 24
"""The most decompressed bytes of one frame: each read may have to decompress one."""
_FRAME = struct.Struct("<QQ")


class Frame(NamedTuple):
    """The beginning of a frame, in bytes. The last one of a table is the end of the archive, where no frame begins."""

    #: In the file.
    stored: int
    #: In the decompressed data.
    shown: int


def key_of(size: int, frames: Iterable[Frame] = ()) -> bytes:
    """Return the key of the index of an archive of *size* bytes. *frames* are empty if it is not compressed."""
    packed = b"".join(_FRAME.pack(*frame) for frame in frames)
    return archive_key(size) + b"\n" + packed if packed else archive_key(size)


def read_key(content: _Bytes, size: int) -> tuple[bytes, tuple[Frame, ...]]:
    """Return the key in *content*, an index of an archive of *size* bytes, and its frames.

    Only the checksum of the index, which the caller compares, shows whether the table is damaged.

    Raises:
        DamagedError: the index is that of another archive, or the frames are out of order or too large.
    """
    if len(content) < HEADER.size:
        raise DamagedError("the file is too short")
    length = HEADER.unpack(content[: HEADER.size])[4]
    key = content[HEADER.size : HEADER.size + length]
    line, newline, packed = key.partition(b"\n")
    if line != archive_key(size) or len(packed) % _FRAME.size or bool(newline) != bool(packed):
        raise DamagedError("the file describes another archive")
    frames = tuple(map(Frame._make, _FRAME.iter_unpack(packed)))
    for one, following in pairwise(frames):
        if not (one.stored < following.stored and one.shown < following.shown <= one.shown + LARGEST_FRAME):
            raise DamagedError("the frames of the archive are out of order or too large")
    if frames and (len(frames) < 2 or frames[0].shown or frames[-1].stored > size):
        raise DamagedError("the frames of the archive are incomplete")
    return key, frames
