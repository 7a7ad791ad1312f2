"""Decompress archives as streams, in bounded memory for any input.

`decompressed` detects the compression by magic bytes. zlib reads gzip; the modules bz2, lzma and zstandard read the other
formats and are imported only for such an archive. Every format may consist of many frames: pigz, estargz and pzstd write them.
"""

from __future__ import annotations

import re

from sandbox.errors import ImageError
from unionfs._stdlib.typing import Any, Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUTPUT = 1 << 18
"""The most bytes that are decompressed at once; they fit a second-level cache."""

DAMAGED = "get the archive again, or check it with `tar -t`"

# The input that a frame does not use is copied for the next frame, and a frame may be only 14 bytes long. Small inputs keep
# the total cost of these copies linear.
_INPUT = 1 << 14
# 4 bytes of zstd can expand to 128 KiB of zeros, and zstandard cannot limit its output: this gives at most 32 MiB, twice in
# memory.
_ZSTD_INPUT = 1 << 10
_ZSTD_WINDOW = 1 << 27  # the limit of `zstd -d` without --long
_LZMA_MEMORY = 1 << 28  # xz -9 needs 65 MiB
_PADDING = 1 << 26  # bytes of zeros after frames; a tape block has some MiB at most


class _Decompressor(Protocol):
    """The common interface of the decompressor objects of zlib, bz2, lzma and zstandard."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def decompressed(head: bytes, source: Iterator[bytes], name: str) -> Iterator[bytes] | None:
    """Return the decompressed *source*, which begins with *head*; None if it is not compressed. *name* is for messages.

    Raises:
        ImageError: the compression is not supported, or its module is not installed; during iteration: the data is damaged.
    """
    for pattern, decompress in _COMPRESSIONS:
        if pattern.match(head):
            return decompress(name, source)
    for magic, refused in _REFUSED.items():
        if head.startswith(magic):
            raise ImageError(
                f"{name}: compressed with {refused}, which is not supported",
                hint="pack it again with zstd or gzip",
            )
    return None


def _frames(
    name: str,
    source: Iterator[bytes],
    start: Callable[[], _Decompressor],
    feed: Callable[[Any, bytes], tuple[bytes, bytes]],
    errors: tuple[type[Exception], ...],
    *,
    step: int = _INPUT,
) -> Iterator[bytes]:
    """Decompress frame after frame, *step* bytes of input at once.

    *feed* takes the frame's decompressor and input. It returns output and the remaining input, which is empty at the end of
    the frame. Zeros after a frame are padding, as for gzip(1) and xz(1).
    """
    frame: _Decompressor | None = None
    padding = 0
    try:
        for piece in (data[at : at + step] for data in source for at in range(0, len(data), step)):
            rest = piece
            while rest or (frame is not None and getattr(frame, "needs_input", True) is False):
                if frame is None:
                    padded, rest = len(rest), rest.lstrip(b"\0")
                    padding += padded - len(rest)
                    if padding > _PADDING:
                        raise ImageError(
                            f"{name}: more than {_PADDING} bytes of zeros between or after the compressed data",
                            hint=DAMAGED,
                        )
                    if not rest:
                        break
                    frame = start()
                output, rest = feed(frame, rest)
                if output:
                    yield output
                if frame.eof:
                    rest, frame = frame.unused_data, None
    except errors as error:
        # For bad data bz2 raises an OSError, too, but without errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).lower()
        if "memory" in reason:  # lzma: "Memory usage limit exceeded"; zstd: "Frame requires too much memory"
            raise ImageError(
                f"{name}: decompression needs too much memory: {reason}",
                hint="pack it again with `xz -9` or a lower level, or with `zstd` without --long and --ultra",
            ) from error
        raise ImageError(f"{name}: the compressed data is damaged: {reason}", hint=DAMAGED) from error
    if frame is not None:
        text = f"{name}: truncated: the compressed data ends too early"
        raise ImageError(text, hint="get the archive again")


def _gzip(name: str, source: Iterator[bytes]) -> Iterator[bytes]:
    import zlib

    def feed(frame: Any, data: bytes) -> tuple[bytes, bytes]:
        return frame.decompress(data, OUTPUT), frame.unconsumed_tail

    return _frames(name, source, lambda: zlib.decompressobj(31), feed, (zlib.error,))


def _feed_bounded(frame: Any, data: bytes) -> tuple[bytes, bytes]:
    # bz2 and lzma objects buffer their unused input themselves.
    return frame.decompress(data, OUTPUT), b""


def _bzip2(name: str, source: Iterator[bytes]) -> Iterator[bytes]:
    bz2 = _module(name, "bz2", "bzip2", "use a Python that was built with it")
    return _frames(name, source, bz2.BZ2Decompressor, _feed_bounded, (OSError, ValueError))


def _xz(name: str, source: Iterator[bytes]) -> Iterator[bytes]:
    lzma = _module(name, "lzma", "xz", "use a Python that was built with it")
    return _frames(
        name,
        source,
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY),
        _feed_bounded,
        (lzma.LZMAError,),
    )


def _zstd(name: str, source: Iterator[bytes]) -> Iterator[bytes]:
    zstandard = _module(name, "zstandard", "zstd", "`pip install zstandard`")

    def feed(frame: Any, data: bytes) -> tuple[bytes, bytes]:
        return frame.decompress(data), b""

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    errors = (zstandard.ZstdError,)
    return _frames(name, source, decompressor.decompressobj, feed, errors, step=_ZSTD_INPUT)


def _module(name: str, module: str, compression: str, remedy: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImageError(
            f"{name}: compressed with {compression}, for which the Python module {module} is missing",
            hint=f"{remedy}, or pack the archive with gzip",
        ) from None


_COMPRESSIONS: tuple[tuple[re.Pattern[bytes], Callable[[str, Iterator[bytes]], Iterator[bytes]]], ...] = (
    (re.compile(rb"\x1f\x8b\x08"), _gzip),
    # A skippable frame may come first: pzstd writes one (RFC 8878, 3.1.2).
    (re.compile(rb"(?s)\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _zstd),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"), _bzip2),
    (re.compile(rb"\xfd7zXZ\0"), _xz),
)
_REFUSED = {
    b"\x04\x22\x4d\x18": "lz4",
    b"LZIP": "lzip",
    b"\x1f\x9d": "compress",
    b"\x89LZO": "lzop",
    b"PK\x03\x04": "zip",
}
