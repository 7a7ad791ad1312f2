"""Decompress archives as streams, in bounded memory for any input.

`open_plain` detects the compression by magic bytes. gzip is read by isal where that is installed, which takes half the time,
otherwise by zlib. The modules that read gzip, zstd, bzip2 and xz are imported only for such an archive. Every format may consist
of many frames: pigz, estargz and pzstd write them.
"""

from __future__ import annotations

import re
import sys

from sandbox.errors import ImageError
from unionfs._stdlib.typing import Any, NamedTuple, Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _OnFrame = Callable[[int, int], None]
    _Decompress = Callable[[str, Iterator[bytes], _OnFrame], Iterator[bytes]]

OUTPUT = 1 << 20
"""The most bytes that are read or decompressed at once. With a quarter of them, an import takes 5 percent longer or more."""

DAMAGED = "get the archive again, or check it with `tar -t`"

_HEADER = 512  # bytes of the first header of a tar
# A frame begins with little input, which doubles up to much: input that a frame does not use is copied, and a frame may have
# only 14 bytes. So the total cost of these copies is linear.
_FIRST_INPUT = 1 << 12
_MOST_INPUT = 1 << 18
_ZSTD_WINDOW_LOG = 27  # 128 MiB, the limit of `zstd -d` without --long
_LZMA_MEMORY = 1 << 27  # xz -9 needs 65 MiB
_PADDING = 1 << 26  # bytes of zeros after frames; a tape block has some MiB at most


class Readable(Protocol):
    """A file that is read sequentially from its current position, without seeking."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, b"" at the end."""


class Plain(NamedTuple):
    """The decompressed data of an archive in pieces of at most a few MiB, and whether it was compressed."""

    pieces: Iterator[bytes]
    compressed: bool


class _Frame(Protocol):
    """The common interface of the decompressor objects of bz2, lzma and zstd, each for one frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: Any, max_length: int, /) -> bytes: ...


class _GzipFrame:
    """Gives a decompressor object of zlib or isal the interface of the others. `_frames` creates one for each frame."""

    def __init__(self, start: Callable[[int], Any]) -> None:
        self._object = start(31)  # a gzip header and trailer; zlib.h, inflateInit2

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return bytes(self._object.unused_data)

    def decompress(self, data: Any, max_length: int, /) -> bytes:
        return bytes(self._object.decompress(data or self._object.unconsumed_tail, max_length))


def open_plain(file: Readable, name: str, on_frame: _OnFrame | None = None) -> Plain:
    """Return the decompressed content of the tar in *file*, read from its current position; *name* is for messages.

    *on_frame* is called with the offsets of the beginning of each frame, and at last of the end of the data: in *file* from that
    position on, and in the decompressed data.

    Raises:
        ImageError: *file* is empty; its compression is not supported, or its module is not installed; during iteration: the
            data is damaged.
        OSError: *file* cannot be read.
    """
    head = b""
    while len(head) < _HEADER and (more := file.read(OUTPUT)):
        head += more
    if not head:
        raise ImageError(f"{name}: the file is empty", hint="get the archive again")
    source = _input(head, file)
    # A file with this magic is a plain tar, even if its first member's name looks like the magic of a compression.
    if head[257:262] != b"ustar":
        for pattern, decompress in _COMPRESSIONS:
            if pattern.match(head):
                return Plain(decompress(name, source, on_frame or _ignore), compressed=True)
        for magic, refused in _REFUSED.items():
            if head.startswith(magic):
                raise ImageError(
                    f"{name}: compressed with {refused}, which is not supported",
                    hint="pack it again with zstd or gzip",
                )
    return Plain(source, compressed=False)


def _input(head: bytes, file: Readable) -> Iterator[bytes]:
    yield head
    while data := file.read(OUTPUT):
        yield data


def _ignore(_stored: int, _shown: int) -> None:
    """Do nothing at the beginning of a frame."""


def _frames(
    name: str,
    source: Iterator[bytes],
    start: Callable[[], _Frame],
    errors: tuple[type[Exception], ...],
    on_frame: _OnFrame,
) -> Iterator[bytes]:
    """Decompress frame after frame of *source*. Zeros after a frame are padding, as for gzip(1) and xz(1)."""
    frame: _Frame | None = None
    padding, step = 0, _FIRST_INPUT
    stored = shown = 0  # offsets of the end of *data*, and of the next output
    try:
        for data in source:
            rest = memoryview(data)
            stored += len(data)
            while rest or (frame is not None and not frame.needs_input):
                if frame is None:
                    head = bytes(rest[:_FIRST_INPUT])
                    zeros = len(head) - len(head.lstrip(b"\0"))
                    if zeros:
                        rest = rest[zeros:]
                        padding += zeros
                        if padding > _PADDING:
                            raise ImageError(
                                f"{name}: more than {_PADDING} bytes of zeros between or after the compressed data",
                                hint=DAMAGED,
                            )
                        continue
                    frame, step = start(), _FIRST_INPUT
                    on_frame(stored - len(rest), shown)
                piece = rest[:0]
                if frame.needs_input:
                    piece, rest = rest[:step], rest[step:]
                    step = min(2 * step, _MOST_INPUT)
                output = frame.decompress(piece, OUTPUT)
                if output:
                    shown += len(output)
                    yield output
                if frame.eof:
                    unused = len(rest) + len(frame.unused_data)
                    rest, frame = memoryview(data)[len(data) - unused :], None
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
    on_frame(stored, shown)


def _gzip(name: str, source: Iterator[bytes], on_frame: _OnFrame) -> Iterator[bytes]:
    import importlib

    try:
        zlib: Any = importlib.import_module("isal.isal_zlib")
    except ImportError:
        zlib = importlib.import_module("zlib")
    return _frames(name, source, lambda: _GzipFrame(zlib.decompressobj), (zlib.error,), on_frame)


def _bzip2(name: str, source: Iterator[bytes], on_frame: _OnFrame) -> Iterator[bytes]:
    bz2 = _module(name, "bz2", "bzip2", "use a Python that was built with it")
    return _frames(name, source, bz2.BZ2Decompressor, (OSError, ValueError), on_frame)


def _xz(name: str, source: Iterator[bytes], on_frame: _OnFrame) -> Iterator[bytes]:
    lzma = _module(name, "lzma", "xz", "use a Python that was built with it")
    return _frames(
        name,
        source,
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY),
        (lzma.LZMAError,),
        on_frame,
    )


def _zstd(name: str, source: Iterator[bytes], on_frame: _OnFrame) -> Iterator[bytes]:
    zstd = zstd_module(name)
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return _frames(name, source, lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,), on_frame)


def zstd_module(name: str) -> Any:
    """Return the module that reads and writes zstd: `compression.zstd` of Python 3.14, earlier its backport.

    Raises:
        ImageError: it is not installed; the message names the archive *name*.
    """
    if sys.version_info >= (3, 14):
        return _module(name, "compression.zstd", "zstd", "use a Python that was built with it")
    return _module(name, "backports.zstd", "zstd", "`pip install backports.zstd`")


def _module(name: str, module: str, compression: str, remedy: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImageError(
            f"{name}: compressed with {compression}, for which the Python module {module} is missing",
            hint=f"{remedy}, or pack the archive with gzip",
        ) from None


_COMPRESSIONS: tuple[tuple[re.Pattern[bytes], _Decompress], ...] = (
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
