"""The footer of a zstd:chunked layer, and the annotations of its descriptor in the manifest, which readers trust instead."""

from __future__ import annotations

import os
import struct

from sandbox.images.chunked.names import (
    CHECKSUM,
    FOOTER_MAGIC,
    POSITION,
    SKIPPABLE,
    TAR_SPLIT_POSITION,
    TOC_TYPE,
)
from sandbox.images.oci.digest import Digest, new_hash
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Self

_FIELDS = struct.Struct("<7Q8s")
_LENGTH = struct.Struct("<L")
_FRAME = len(SKIPPABLE) + _LENGTH.size
_PIECE = 1 << 20
_LARGEST_TOC = 150 << 20
"""The most bytes of a compressed table of contents: podman reads no larger one."""


@dataclass(frozen=True, slots=True)
class Table:
    """The place of a table in a layer. All numbers are bytes."""

    offset: int
    #: As it is compressed.
    size: int
    uncompressed: int


NO_TABLE = Table(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Footer:
    """The places of the table of contents and of the tar-split data; NO_TABLE if the layer has no such data."""

    toc: Table
    tar_split: Table = NO_TABLE

    def encode(self) -> bytes:
        """Return the footer as the frame that ends a layer."""
        toc, split = self.toc, self.tar_split
        return skippable(
            _FIELDS.pack(
                toc.offset, toc.size, toc.uncompressed, TOC_TYPE,
                split.offset, split.size, split.uncompressed, FOOTER_MAGIC,
            )
        )  # fmt: skip

    @classmethod
    def decode(cls, frame: bytes) -> Self | None:
        """Return the footer in *frame*, the last bytes of a layer; None if they are none."""
        if len(frame) != SIZE or not frame.startswith(_HEAD):
            return None
        numbers = _FIELDS.unpack(frame[_FRAME:])
        if numbers[3] != TOC_TYPE or numbers[7] != FOOTER_MAGIC:
            return None
        return cls(Table(*numbers[:3]), Table(*numbers[4:7]))

    def annotations(self, checksum: Digest) -> dict[str, str]:
        """Return the annotations of the layer, whose compressed table of contents has the digest *checksum*."""
        toc, split = self.toc, self.tar_split
        found = {
            CHECKSUM: str(checksum),
            POSITION: f"{toc.offset}:{toc.size}:{toc.uncompressed}:{TOC_TYPE}",
        }
        if split != NO_TABLE:
            found[TAR_SPLIT_POSITION] = f"{split.offset}:{split.size}:{split.uncompressed}"
        return found


def skippable(content: bytes) -> bytes:
    """Return a frame with *content* that decompressors skip."""
    return SKIPPABLE + _LENGTH.pack(len(content)) + content


_HEAD = SKIPPABLE + _LENGTH.pack(_FIELDS.size)
SIZE = _FRAME + _FIELDS.size
"""The bytes of the frame with the footer."""


def annotations_of(fd: int) -> dict[str, str]:
    """Return the annotations of the layer in the file *fd*; none if it is not in the format. The file need not be trusted.

    Raises:
        OSError: it cannot be read.
    """
    end = os.fstat(fd).st_size - SIZE
    footer = Footer.decode(os.pread(fd, SIZE, end)) if end > 0 else None
    if footer is None:
        return {}
    toc, split = footer.toc, footer.tar_split
    if not (0 < toc.size <= _LARGEST_TOC and _FRAME <= toc.offset <= end - toc.size):
        return {}
    if split != NO_TABLE and not (_FRAME <= split.offset <= end - split.size):
        return {}
    found = new_hash("sha256")
    for position in range(toc.offset, toc.offset + toc.size, _PIECE):
        found.update(os.pread(fd, min(_PIECE, toc.offset + toc.size - position), position))
    return footer.annotations(Digest("sha256", found.hexdigest()))
