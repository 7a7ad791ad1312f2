"""Take a chunk out of a piece of a blob, and compare it with its digest."""

from __future__ import annotations

import zlib

from sandbox.images.compression import zstd_module
from sandbox.state.file_digests import new_sha256
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.layer_index.archive_chunks import Chunk

_GZIP_FORMAT = 31  # a header and a trailer (zlib.h, inflateInit2)
_WINDOW_LOG = 27  # of zstd: 128 MiB, the limit of `zstd -d` without --long


class WrongChunkError(Exception):
    """A chunk is damaged, or has another digest; the text is the reason."""


def is_right(chunk: Chunk, content: bytes | memoryview) -> bool:
    """Return whether *content* is that of *chunk*."""
    if len(content) != chunk.size:
        return False
    found = new_sha256()
    found.update(content)
    return bool(found.digest() == chunk.digest)


def extractor(form: str) -> Callable[[bytes, Chunk], bytes]:
    """Return the function that takes a chunk out of a piece, which is one zstd frame or gzip member (*form*: "zstd" or "estargz").

    The function raises WrongChunkError. It never makes more than the bytes of the chunk and those before it.
    """
    decompress = _unzstd() if form == "zstd" else _gunzip

    def extract(piece: bytes, chunk: Chunk) -> bytes:
        content = decompress(piece, chunk.skipped + chunk.size)[chunk.skipped :]
        if not is_right(chunk, content):
            raise WrongChunkError(
                "the content of a chunk has another digest than the table of contents states"
            )
        return content

    return extract


def _gunzip(piece: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj(_GZIP_FORMAT).decompress(piece, size)
    except zlib.error as error:
        raise WrongChunkError(f"a chunk is damaged: {error}") from None


def _unzstd() -> Callable[[bytes, int], bytes]:
    zstd: Any = zstd_module("a layer")
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}

    def unzstd(piece: bytes, size: int) -> bytes:
        try:
            return bytes(zstd.ZstdDecompressor(options=options).decompress(piece, size))
        except zstd.ZstdError as error:
            raise WrongChunkError(f"a chunk is damaged: {str(error).lower()}") from None

    return unzstd
