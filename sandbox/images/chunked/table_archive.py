"""Read the table of contents of a layer as an archive, whose members are indexed as those of a tar, and list its chunks.

All of it runs in a child process with a memory limit: decompressing, decoding and indexing.
"""

from __future__ import annotations

import zlib

from sandbox.errors import ImageError
from sandbox.images.archive_index import index_archive
from sandbox.images.bounded import bounded
from sandbox.images.chunked.toc import ESTARGZ_NAME, LARGEST_TABLE, TablePlace, decode_table
from sandbox.images.compression import zstd_module
from sandbox.images.oci.digest import Digest
from sandbox.images.tar import TarStream
from unionfs.layer_index.archive_chunks import Chunk, encode_chunks

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.images.lower_layers import LowerLayers
    from sandbox.images.report import UnpackReport
    from sandbox.images.tar import Member
    from sandbox.plan import IdPlan
    from unionfs._stdlib.typing import Any, BinaryIO

_GZIP_FORMAT = 31  # a header and a trailer (zlib.h, inflateInit2)
_WHOLE = "pull the image whole: remove root.lazy"


class TableArchive:
    """The members of a layer by its table (implements `Archive`). Owns nothing. They are read once."""

    def __init__(self, content: bytes, place: TablePlace, name: str) -> None:
        """Read *content*, the bytes of the blob at *place*. *name* is for messages."""
        self.name = name
        self._content = content
        self._place = place
        # Imported here: the process that reads the table may be unable to read this Python's files.
        self._zstd: Any = zstd_module(name) if place.form == "zstd" else None
        #: The name of the current member.
        self.current = b""
        #: Where the contents of the current member begin in the data.
        self.position = 0
        #: The chunks of the members so far.
        self.chunks: list[Chunk] = []

    def __iter__(self) -> Iterator[Member]:
        """Yield every member.

        Raises:
            ImageError: the table has another digest, or is damaged.
        """
        if self._zstd is not None:
            self._compare(self._content)
            table = self._unzstd()
        else:
            table = self._from_tar()
            self._compare(table)
        for entry in decode_table(table, self._place.offset, self.name):
            self.current, self.position = entry.member.name, entry.position
            self.chunks += entry.chunks
            yield entry.member

    def data(self) -> Iterator[tuple[int, memoryview]]:
        """Refuse: the table has no contents."""
        raise NotImplementedError

    def _compare(self, content: bytes) -> None:
        found = str(Digest.of(content))
        if found != self._place.digest:
            raise ImageError(
                f"{self.name}: the table of contents has the digest {found}, not the {self._place.digest} that the manifest states",
                hint="pull the image again, or from another registry",
            )

    def _unzstd(self) -> bytes:
        try:
            frame = self._zstd.ZstdDecompressor()
            content = frame.decompress(self._content, LARGEST_TABLE)
        except self._zstd.ZstdError as error:
            raise self._damaged(str(error).lower()) from None
        if not frame.eof:
            raise self._damaged("it is truncated or too large")
        return bytes(content)

    def _from_tar(self) -> bytes:
        try:
            member = zlib.decompressobj(_GZIP_FORMAT)
            content = member.decompress(self._content, LARGEST_TABLE)
        except zlib.error as error:
            raise self._damaged(str(error)) from None
        if not member.eof:
            raise self._damaged("it is truncated or too large")
        stream = TarStream(iter((content,)), self.name, compressed=False)
        for found in stream:
            if found.name == ESTARGZ_NAME.encode():
                return b"".join(bytes(piece) for _, piece in stream.data())
        raise self._damaged(f"it has no {ESTARGZ_NAME}")

    def _damaged(self, reason: str) -> ImageError:
        return ImageError(f"{self.name}: the table of contents is damaged: {reason}", hint=_WHOLE)


def index_table(
    archive: TableArchive,
    output: BinaryIO,
    chunks: BinaryIO,
    ids: IdPlan,
    lower: Callable[[], LowerLayers],
) -> UnpackReport:
    """Write the index of *archive* to the empty file *output*, and the table of its chunks to the empty file *chunks*.

    *ids* are those of the sandbox, and *lower* returns the layers below.

    Raises:
        ImageError: the table is damaged, a member cannot be shown, or it takes too much memory.
        OSError: a file cannot be written.
    """

    def size() -> int:
        return sum(chunk.size for chunk in archive.chunks)

    def action() -> UnpackReport:
        report = index_archive(archive, lambda: archive.position, output, ids, size, lower=lower())
        chunks.write(encode_chunks(archive.chunks))
        return report

    report = bounded(action, archive, "indexing", _WHOLE)
    output.flush()
    chunks.flush()
    return report
