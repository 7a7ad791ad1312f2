"""Compress a layer and compute its digests while it is written.

Equal archives give equal blobs: whatever the sizes of the pieces are, the compressor receives the same chunks at the same level.
gzip is zlib's, without name and time. zlib-ng and isal compress otherwise, so they are not used, and neither are threads of zstd.
Another version of a library may compress otherwise, too; the diff id does not depend on that.
"""

from __future__ import annotations

from sandbox.images.oci.digest import Digest, new_hash
from sandbox.images.oci.media_types import OCI_LAYER
from sandbox.images.oci.model import Descriptor
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Protocol

GZIP_LEVEL = 6
"""zlib's own default, which gzip(1) and podman use, too."""

ZSTD_LEVEL = 3
"""The library's own default, which zstd(1) and podman use, too."""

CHUNKED = "zstd:chunked"
"""zstd in pieces with a table of contents, from which readers fetch single files (sandbox/images/chunked/)."""

COMPRESSIONS = ("gzip", "zstd", CHUNKED)
"""What a layer can be compressed with. The first is the default, because every tool reads it."""

_CHUNK = 1 << 18
_GZIP_WINDOW = 31  # zlib.h, deflateInit2: 15 for the window, and 16 for a gzip header without name and time


class Output(Protocol):
    """A file that is written sequentially."""

    def write(self, data: bytes, /) -> object:
        """Write all of *data*."""


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    """A layer that was written. `diff_id` is the digest of the uncompressed archive."""

    descriptor: Descriptor
    diff_id: Digest


class LayerBlob:
    """A layer that is being written. It borrows the output, and is used once."""

    def __init__(self, output: Output, compression: str) -> None:
        """Write to *output*, compressed with *compression*: "gzip" or "zstd", or "" for a plain tar."""
        self._output = output
        self._compression = compression
        self._compressor = _compressor(compression)
        self._pending = bytearray()
        self._size = 0
        self._diff_id = new_hash("sha256")
        self._digest = new_hash("sha256")

    def write(self, data: bytes) -> None:
        """Add *data*, a piece of the uncompressed archive.

        Raises:
            OSError: the output cannot be written.
        """
        self._pending += data
        while len(self._pending) >= _CHUNK:
            chunk = bytes(self._pending[:_CHUNK])
            del self._pending[:_CHUNK]
            self._compress(chunk)

    def finish(self) -> WrittenLayer:
        """Write the rest, and return the layer.

        Raises:
            OSError: the output cannot be written.
        """
        self._compress(bytes(self._pending))
        self._put(self._compressor.flush())
        media_type = f"{OCI_LAYER}+{self._compression}" if self._compression else OCI_LAYER
        digest = Digest("sha256", self._digest.hexdigest())
        descriptor = Descriptor(media_type=media_type, digest=digest, size=self._size)
        return WrittenLayer(descriptor, Digest("sha256", self._diff_id.hexdigest()))

    def _compress(self, chunk: bytes) -> None:
        self._diff_id.update(chunk)
        self._put(self._compressor.compress(chunk))

    def _put(self, data: bytes) -> None:
        if data:
            self._digest.update(data)
            self._size += len(data)
            self._output.write(data)


class _Uncompressed:
    """Stands in for a compressor."""

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(compression: str) -> Any:
    if compression == "gzip":
        import zlib

        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    if compression == "zstd":
        from sandbox.images.compression import zstd_module

        return zstd_module("a layer").ZstdCompressor(level=ZSTD_LEVEL)
    if compression:
        raise ValueError(f"layers are not compressed with {compression}")
    return _Uncompressed()
