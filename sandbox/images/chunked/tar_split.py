"""Tar-split data (github.com/vbatts/tar-split, tar/storage/entry.go): a tar without the contents of its files.

With the data, a reader makes the tar again from the files, bit by bit. podman fetches a part of a layer only if the layer has such
data, because it compares the digest of the tar with the diff id in the configuration of the image.

The data are lines of JSON. One has the headers of a member, with the padding of the member before it. The next one has the
member's name, its size, and a checksum of its content.
"""

from __future__ import annotations

import json
from binascii import b2a_base64

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FILE, _SEGMENT = 1, 2
_ONES = (1 << 64) - 1


class TarSplit:
    """The tar-split data of one layer, compressed while they are written. Needs memory for the compressed data."""

    def __init__(self, compressor: Any) -> None:
        """Compress with *compressor*, of the module zstd."""
        self._compressor = compressor
        self._compressed = bytearray()
        self._entries = 0
        #: The bytes of the data before compression.
        self.size = 0

    def segment(self, data: bytes) -> None:
        """Add *data*: the headers of the next member, with the padding before them, or the end of the tar."""
        self._add({"type": _SEGMENT}, data)

    def member(self, name: str, size: int, checksum: int) -> None:
        """Add the member whose headers were added last. *checksum* is the CRC-64 of its *size* bytes of content."""
        named = {"type": _FILE, "name": name}
        if size:
            self._add({**named, "size": size}, checksum.to_bytes(8))
        else:
            self._add(named, None)

    def finish(self) -> bytes:
        """Return the compressed data."""
        self._compressed += self._compressor.flush()
        return bytes(self._compressed)

    def _add(self, entry: dict[str, Any], payload: bytes | None) -> None:
        encoded = None if payload is None else b2a_base64(payload, newline=False).decode()
        entry |= {"payload": encoded, "position": self._entries}
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        self._entries += 1
        self.size += len(line)
        self._compressed += self._compressor.compress(line)


def crc64(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-64 of ISO 3309 of *data* that follows data with the CRC *before*, as hash/crc64 of Go computes it.

    A CRC is the remainder of a division of polynomials over GF(2), here by x^64 + x^4 + x^3 + x + 1. So x^64 is congruent to
    x^4 + x^3 + x + 1, and, as squaring is linear, x^(64 m) to x^(4 m) + x^(3 m) + x^m + 1 for each power of two m. Such a
    replacement halves the length. Shifts of integers do it, some hundred times as fast as a table that is read byte by byte.

    The bits are reversed: the lowest bit of the integer is the coefficient of the highest power.
    """
    bits = 8 * len(data) + 64  # the division is of the data times x^64
    value = int.from_bytes(data, "little") ^ before ^ _ONES
    while bits > 64:
        low = 64
        while 2 * low + low // 4 <= bits:
            low *= 2
        m, high = low // 64, bits - low
        # The part with the high powers, and the rest.
        upper, rest = value & ((1 << high) - 1), value >> high
        bits = max(low, high + 4 * m)
        value = rest << (bits - low)
        for power in (0, m, 3 * m, 4 * m):
            value ^= upper << (bits - high - power)
    return value ^ _ONES
