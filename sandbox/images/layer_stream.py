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

import re
import threading

from sandbox.errors import ImageError
from sandbox.images.bounded_queue import BoundedQueue, ConsumerGoneError
from sandbox.images.compression import Plain, Readable, open_plain
from sandbox.images.names import printable
from sandbox.images.tar import TarStream
from sandbox.state.file_digests import new_sha256
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXPANSION = 100
"""The most bytes of tar for each byte of a compressed blob, beyond FREE_EXPANSION.

Real layers have 2 to 10. gzip reaches 1032 and zstd over 30,000, both with nothing but zeros.
"""

FREE_EXPANSION = 1 << 30
"""The bytes of tar that any compressed blob may have, so that a small layer may contain a large empty file."""

MAX_REST = 1 << 26
"""The most bytes after the end of a tar that are read for its digests: they may be a hole of exabytes."""

_AHEAD = 1 << 22  # bytes in each queue
_SHA256 = re.compile("sha256:[0-9a-f]{64}")
_AGAIN = "get the image again; if the error stays, its source is damaged"
_BOMB = "if that is meant, pack the layer without compression, or its large files with `tar --sparse`"
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
    """The digests of a layer that was read to its end, and the size of its blob in bytes."""

    digest: str
    size: int
    diff_id: str


class LayerStream:
    """A layer that is read once. The caller creates it, closes it, and owns *blob*.

    The threads start when the first member is requested, so the process may fork after `open_archive`.
    """

    def __init__(self, blob: Readable, source: str, expected: Expected = NOTHING_EXPECTED) -> None:
        """Read *blob*, whose reads end by themselves. *source* is the place that it comes from, for messages.

        Raises:
            ImageError: an expected digest is not a SHA-256, or not a digest at all.
        """
        for stated in (expected.digest, expected.diff_id):
            if stated and not _SHA256.fullmatch(stated):
                raise ImageError(
                    f"{source}: {printable(stated.encode())} is no digest that can be verified",
                    hint="use an image whose digests are sha256: and 64 hexadecimal digits",
                )
        self.name = f"{source}: {expected.digest}" if expected.digest else source
        self._expected = expected
        self._to_digest: BoundedQueue[tuple[Any, bytes]] = BoundedQueue(_AHEAD)
        self._blob = _Blob(blob, self.name, expected.size, self._to_digest)
        self._plain = Plain(iter(()), compressed=False)
        self._tar_sha256 = new_sha256()
        self._tar_size = 0
        self._pieces: BoundedQueue[bytes] = BoundedQueue(_AHEAD)
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None  # of a thread
        self._rest: Iterator[bytes] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, after a read that is under way, and free the decompressor."""
        self._pieces.close()
        self._to_digest.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._plain = Plain(iter(()), compressed=False)

    def open_archive(self, on_frame: Callable[[int, int], None] | None = None) -> TarStream:
        """Return the stream of the members; call it once. Publish nothing of them before `finish` has returned.

        *on_frame* is that of `compression.open_plain`. A thread calls it, for the last time before `finish` returns.

        Raises:
            ImageError: as `sandbox.images.tar.open_archive`. While members are read also: the blob is longer than expected, or
                it expands to more than EXPANSION times its size.
            OSError: the blob cannot be read.
        """
        self._plain = open_plain(self._blob, self.name, on_frame)
        self._rest = self._run()
        return TarStream(self._rest, self.name, compressed=self._plain.compressed)

    def finish(self) -> LayerDigests | None:
        """Read the rest and return the digests; None if nothing is expected and more than MAX_REST bytes follow the tar.

        Call it once all members were read.

        Raises:
            ImageError: the layer is not the expected one: it has another size, digest or diff id; or it is damaged.
            OSError: the blob cannot be read.
        """
        rest = 0
        for piece in self._rest:
            rest += len(piece)
            if rest > MAX_REST:
                if self._expected == NOTHING_EXPECTED:
                    return None
                raise ImageError(
                    f"{self.name}: more than {MAX_REST >> 20} MiB follow the end of the archive", hint=_AGAIN
                )
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error
        digest = f"sha256:{self._blob.sha256.hexdigest()}"
        compressed = self._plain.compressed
        found = LayerDigests(
            digest=digest,
            size=self._blob.size,
            diff_id=f"sha256:{self._tar_sha256.hexdigest()}" if compressed else digest,
        )
        self._check(found)
        return found

    def _check(self, found: LayerDigests) -> None:
        expected = self._expected
        if expected.size is not None and found.size != expected.size:
            raise ImageError(
                f"{self.name}: has {found.size} bytes, not the {expected.size} that the manifest states",
                hint=_AGAIN,
            )
        if expected.digest and found.digest != expected.digest:
            raise ImageError(f"{self.name}: has another digest, {found.digest}", hint=_AGAIN)
        if expected.diff_id and found.diff_id != expected.diff_id:
            raise ImageError(
                f"{self.name}: its content has the diff id {found.diff_id}, not the {expected.diff_id} that the image states",
                hint=_AGAIN,
            )

    def _run(self) -> Iterator[bytes]:
        """Start the threads, and yield the tar in pieces."""
        before = threading.stack_size(_STACK)
        try:
            for work in (self._decompress, self._digest):
                thread = threading.Thread(target=self._guard, args=(work,), daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            raise ImageError(
                f"{self.name}: {error}", hint="permit this account more processes: see `ulimit -u`"
            ) from None
        finally:
            threading.stack_size(before)
        while (piece := self._pieces.get()) is not None:
            yield piece

    def _guard(self, work: Callable[[], None]) -> None:
        """Run *work* in a thread; the consumer of the pieces raises its error, or `finish` if it has got all pieces."""
        try:
            work()
        except ConsumerGoneError:
            self._pieces.end()
        except BaseException as error:  # noqa: BLE001 - without an end, the consumer would wait for ever
            self._error = error
            self._pieces.end(error)
            self._to_digest.close()

    def _decompress(self) -> None:
        pieces, compressed = self._plain
        for piece in pieces:
            self._tar_size += len(piece)
            if compressed:
                if self._tar_size > FREE_EXPANSION + EXPANSION * self._blob.size:
                    raise ImageError(
                        f"{self.name}: {self._blob.size} bytes of it expand to {self._tar_size}, as those of a decompression bomb do",
                        hint=_BOMB,
                    )
                self._to_digest.put((self._tar_sha256, piece), len(piece))
            self._pieces.put(piece, len(piece))
        self._to_digest.end()
        self._pieces.end()

    def _digest(self) -> None:
        while (item := self._to_digest.get()) is not None:
            sha256, data = item
            sha256.update(data)


class _Blob:
    """The blob as it is stored; the thread that decompresses it reads it. `LayerStream` creates it."""

    def __init__(
        self, file: Readable, name: str, stated: int | None, to_digest: BoundedQueue[tuple[Any, bytes]]
    ) -> None:
        self._file = file
        self._name = name
        self._stated = stated
        self._to_digest = to_digest
        self.sha256 = new_sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, b"" at the end."""
        data = self._file.read(size)
        self.size += len(data)
        if self._stated is not None and self.size > self._stated:
            raise ImageError(
                f"{self._name}: has more than the {self._stated} bytes that the manifest states", hint=_AGAIN
            )
        if data:
            self._to_digest.put((self.sha256, data), len(data))
        return data
