"""Read a layer once: decompress it and compute its digests in threads, while its members are unpacked.

A layer has two digests: that of the blob as it is stored and transferred, and the diff id, that of the uncompressed tar
(image-spec, config.md, "Layer DiffID"). Both are of all bytes, also of those after the end of the tar. Decompression and SHA-256
run without the interpreter lock, so the threads and the consumer use several processors.

    blob -> [reader: decompress] -> consumer: TarStream, unpack
                     |
                     +-> [digester: SHA-256 of blob and tar]

The bytes that are digested are those in memory that are unpacked, not read again: the file could change in between.
"""

from __future__ import annotations

import threading

from sandbox.errors import ImageError
from sandbox.images.bounded_queue import BoundedQueue, ConsumerGoneError
from sandbox.images.compression import DAMAGED, Plain, Readable, open_plain
from sandbox.images.tar import TarStream
from sandbox.state.file_digests import new_sha256
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

EXPANSION = 100
"""The most bytes of tar for each byte of a compressed blob, beyond FREE_EXPANSION.

Real layers have 2 to 10. gzip reaches 1032 and zstd over 30,000, both with nothing but zeros.
"""

FREE_EXPANSION = 1 << 30
"""The bytes of tar that any compressed blob may have, so that a small layer may contain a large empty file."""

MAX_REST = 1 << 26
"""The most bytes after the end of a tar that are read for its digests: they may be a hole of exabytes."""

_AHEAD = 1 << 22  # bytes in each queue
_STACK = (
    1 << 19
)  # bytes of stack of each thread, which counts against RLIMIT_DATA; the usual 8 MiB would be a part of the limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What the manifest and the configuration of an image state of a layer; "" or None where nothing is stated."""

    digest: str = ""  # of the blob, as "sha256:" and 64 hexadecimal digits
    size: int | None = None  # of the blob, in bytes
    diff_id: str = ""  # of the tar, in the same form


NOTHING_EXPECTED = Expected()


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDigests:
    """The digests of a layer that was read to its end, and its sizes in bytes."""

    digest: str
    size: int
    diff_id: str
    tar_size: int


class LayerStream:
    """A layer that is read once. The caller creates it, closes it, and owns *blob*.

    Reading starts with `open_archive`. The threads start when the first member is requested, so the process may fork before.
    """

    def __init__(self, blob: Readable, source: str, expected: Expected = NOTHING_EXPECTED) -> None:
        """Read *blob*, which must not block for ever. *source* is the place that it comes from, for messages."""
        self.name = f"{source}: {expected.digest}" if expected.digest else source
        self._blob = blob
        self._expected = expected
        self._blob_sha256 = new_sha256()
        self._tar_sha256 = new_sha256()
        self._size = 0
        self._tar_size = 0
        self._plain: Plain | None = None
        self._pieces: BoundedQueue[bytes] = BoundedQueue(_AHEAD)
        self._to_digest: BoundedQueue[tuple[Any, bytes]] = BoundedQueue(_AHEAD)
        self._threads: list[threading.Thread] = []
        self._iterator: Iterator[bytes] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, after a read that is under way."""
        self._pieces.close()
        self._to_digest.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._plain = None

    def open_archive(self) -> TarStream:
        """Return the stream of the members; call it once. Nothing may be published before `finish` has returned.

        Raises:
            ImageError: as `sandbox.images.tar.open_archive`. While members are read also: the blob is longer than expected, or
                it expands to more than EXPANSION times its size.
            OSError: the blob cannot be read.
        """
        self._plain = open_plain(self, self.name)
        self._iterator = self._run()
        return TarStream(self._iterator, self.name, compressed=self._plain.compressed)

    def finish(self) -> LayerDigests | None:
        """Read the rest and return the digests; None if nothing is expected and more than MAX_REST bytes follow the tar.

        Call it after the last member was read.

        Raises:
            ImageError: the layer is not the expected one: another size, digest or diff id.
            OSError: the blob cannot be read.
        """
        rest = 0
        for piece in self._iterator:
            rest += len(piece)
            if rest > MAX_REST:
                if self._expected == NOTHING_EXPECTED:
                    return None
                raise ImageError(
                    f"{self.name}: more than {MAX_REST >> 20} MiB follow the end of the archive", hint=DAMAGED
                )
        for thread in self._threads:
            thread.join()
        self._to_digest.get()  # raises the error of the digester
        digest = f"sha256:{self._blob_sha256.hexdigest()}"
        compressed = self._plain is not None and self._plain.compressed
        found = LayerDigests(
            digest=digest,
            size=self._size,
            diff_id=f"sha256:{self._tar_sha256.hexdigest()}" if compressed else digest,
            tar_size=self._tar_size,
        )
        self._check(found)
        return found

    def _check(self, found: LayerDigests) -> None:
        expected = self._expected
        if expected.size is not None and found.size != expected.size:
            raise ImageError(
                f"{self.name}: has {found.size} bytes, and the manifest states {expected.size}", hint=_AGAIN
            )
        if expected.digest and found.digest != expected.digest:
            raise ImageError(f"{self.name}: has another digest: {found.digest}", hint=_AGAIN)
        if expected.diff_id and found.diff_id != expected.diff_id:
            raise ImageError(
                f"{self.name}: its content has the digest {found.diff_id}, and the image's configuration states {expected.diff_id}",
                hint=_AGAIN,
            )

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes of the blob. Only the decompression calls it."""
        data = self._blob.read(size)
        self._size += len(data)
        stated = self._expected.size
        if stated is not None and self._size > stated:
            raise ImageError(
                f"{self.name}: has more than the {stated} bytes that the manifest states", hint=_AGAIN
            )
        if data:
            self._to_digest.put((self._blob_sha256, data), len(data))
        return data

    def _run(self) -> Iterator[bytes]:
        """Start the threads, and yield the tar in pieces."""
        before = threading.stack_size(_STACK)
        try:
            for work in (self._decompress, self._digest):
                thread = threading.Thread(target=work, daemon=True)
                thread.start()
                self._threads.append(thread)
        finally:
            threading.stack_size(before)
        while (piece := self._pieces.get()) is not None:
            yield piece

    def _decompress(self) -> None:
        error: BaseException | None = None
        assert self._plain is not None
        pieces, compressed = self._plain
        try:
            for piece in pieces:
                self._tar_size += len(piece)
                if compressed:
                    if self._tar_size > FREE_EXPANSION + EXPANSION * self._size:
                        raise ImageError(
                            f"{self.name}: {self._size} bytes expand to more than {self._tar_size >> 20} MiB",
                            hint=_BOMB,
                        )
                    self._to_digest.put((self._tar_sha256, piece), len(piece))
                self._pieces.put(piece, len(piece))
        except ConsumerGoneError:
            pass
        except BaseException as caught:  # noqa: BLE001 - whatever it is, the consumer has to raise it
            error = caught
        self._to_digest.end()
        self._pieces.end(error)

    def _digest(self) -> None:
        while (item := self._to_digest.get()) is not None:
            sha256, data = item
            sha256.update(data)


_AGAIN = "get the image again; if the error stays, its source is damaged"
_BOMB = "if its content is meant, pack the layer again with `tar --sparse`, or uncompressed"
