"""Tar archives as streams of members, plain or compressed, with nothing in them believed.

`open_archive` tells the compression by magic bytes and returns a `TarStream`: iterate over it once, and take a file's
content from `data()` before the next member. Understood are POSIX ustar and pax (POSIX.1-2024, pax, "pax Interchange
Format"), GNU long names and every GNU form of sparse files (the manual of GNU tar, "Tar Internals"), v7, and extended
attributes as star, GNU tar and libarchive write them.

The headers are not read with `tarfile`, which is made for archives of friends: behind the first member it takes a damaged
header for the end of the archive, takes the times in GNU tar's incremental archives for a part of the name, keeps times as
floats, and reads header records of any size into memory; in Python 3.11.7 a record of 1 MiB of digits costs it half an hour
(CVE-2024-6232). Names are bytes here from beginning to end.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from enum import Enum

from sandbox.errors import ImageError
from sandbox.records import dataclass, field
from sandbox.typed import Any, BinaryIO, NoReturn, Protocol, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512

RECORD_LIMIT = 1 << 20
"""Bytes that one header record (pax, long name, sparse map) may have: as many as Go's archive/tar takes, by which
most images are read and written. All records of one member together may have four times as many."""

_CHUNK = 1 << 18  # bytes that are decompressed or read at once: fits a second-level cache
_INPUT = 1 << 16
_ZSTD_INPUT = (
    1 << 10
)  # 4 bytes of zstd can be 128 KiB of zeros, with no way to stop it: 32 MiB, and twice in memory
_ZSTD_WINDOW = 1 << 27  # what `zstd -d` takes without --long
_LZMA_MEMORY = 1 << 28  # xz -9 needs 65 MiB

DAMAGED = "get the archive again, or see what `tar -t` says of it"


class Kind(Enum):
    """What a member is; the values are the type flags of ustar."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMLINK = b"2"
    CHARACTER_DEVICE = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


_KINDS = {kind.value: kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member as the archive describes it; nothing is checked beyond its form."""

    name: bytes  # no NUL, not empty; may be absolute and hold `..`
    kind: Kind
    mode: int  # permission bits, set-id and sticky
    uid: int  # any integer
    gid: int
    mtime_ns: int
    size: int  # of a file, holes included; else 0
    link: bytes = b""  # target of a symbolic or hard link, no NUL
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    extents: tuple[tuple[int, int], ...] | None = None  # of a sparse file: offset and length of its data


def printable(name: bytes) -> str:
    """Return *name* for a message: on one line, without control characters, at most 200 characters."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 200 else f"{text[:140]}…{text[-59:]}"


def open_archive(file: BinaryIO, name: str) -> TarStream:
    """Return the members of the tar in *file*, read from where it stands; *name* is for messages.

    *file* needs no seek and is not closed.

    Raises:
        ImageError: *file* is empty or no tar; its compression is unknown here, or its module is not installed.
        OSError: *file* cannot be read.
    """
    head = b""
    while len(head) < BLOCK and (more := file.read(_INPUT)):
        head += more
    if not head:
        raise ImageError(f"{name}: the file is empty", hint="get the archive again")
    source = _input(head, file)
    if head[257:262] != b"ustar":  # else it is one whose first member has a name like a magic number
        for pattern, decompress in _COMPRESSIONS:
            if pattern.match(head):
                return TarStream(decompress(name, source), name, compressed=True)
        for magic, refused in _REFUSED.items():
            if head.startswith(magic):
                raise ImageError(
                    f"{name}: compressed with {refused}, which is not supported",
                    hint="pack it again with zstd or gzip",
                )
    return TarStream(source, name, compressed=False)


def _input(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield head
    while data := file.read(_CHUNK):
        yield data


class _Decompressor(Protocol):
    """What zlib, bz2, lzma and zstandard objects have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def _frames(
    name: str,
    source: Iterator[bytes],
    start: Callable[[], _Decompressor],
    feed: Callable[[Any, bytes], tuple[bytes, bytes]],
    errors: tuple[type[Exception], ...],
) -> Iterator[bytes]:
    """Decompress frame after frame: pigz, estargz and pzstd make many of them.

    *feed* takes the frame's decompressor and input, and returns output and the input that is left, none at the end of
    the frame. Zeros behind a frame are padding, as gzip(1) and xz(1) take it.
    """
    frame: _Decompressor | None = None
    try:
        for data in source:
            rest = data
            while rest or (frame is not None and getattr(frame, "needs_input", True) is False):
                if frame is None:
                    rest = rest.lstrip(b"\0")
                    if not rest:
                        break
                    frame = start()
                output, rest = feed(frame, rest)
                if output:
                    yield output
                if frame.eof:
                    rest, frame = frame.unused_data, None
    except errors as error:
        # For bad data bz2 has an OSError too, but one without errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        text = f"{name}: the compressed data is damaged: {str(error).lower()}"
        raise ImageError(text, hint=DAMAGED) from error
    if frame is not None:
        text = f"{name}: truncated: the compressed data ends too early"
        raise ImageError(text, hint="get the archive again")


def _gzip(name: str, source: Iterator[bytes]) -> Iterator[bytes]:
    import zlib

    def feed(frame: Any, data: bytes) -> tuple[bytes, bytes]:
        return frame.decompress(data, _CHUNK), frame.unconsumed_tail

    return _frames(name, source, lambda: zlib.decompressobj(31), feed, (zlib.error,))


def _feed_bounded(frame: Any, data: bytes) -> tuple[bytes, bytes]:
    # bz2 and lzma keep the input that they have not come to.
    return frame.decompress(data, _CHUNK), b""


def _bzip2(name: str, source: Iterator[bytes]) -> Iterator[bytes]:
    bz2 = _module(name, "bz2", "bzip2", "the Python in use was built without it")
    return _frames(name, source, bz2.BZ2Decompressor, _feed_bounded, (OSError, ValueError))


def _xz(name: str, source: Iterator[bytes]) -> Iterator[bytes]:
    lzma = _module(name, "lzma", "xz", "the Python in use was built without it")
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

    slices = (
        data[start : start + _ZSTD_INPUT] for data in source for start in range(0, len(data), _ZSTD_INPUT)
    )
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    return _frames(name, slices, decompressor.decompressobj, feed, (zstandard.ZstdError,))


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


class _TruncatedError(Exception):
    """The archive ends inside of a member."""


class _MalformedError(Exception):
    """A header is not what it has to be; the text says why."""


class TarStream:
    """The members of a tar, in their order, once."""

    def __init__(self, chunks: Iterator[bytes], name: str, *, compressed: bool) -> None:
        self.name = name
        self._chunks = chunks
        self._compressed = compressed
        self._buffer = memoryview(b"")
        self._offset = 0  # in the unpacked archive, of the next byte of _buffer
        self._start = 0  # likewise, of the current member
        self._data_left = 0  # bytes of the current member's data and padding that are still to come
        self._extents: tuple[tuple[int, int], ...] = ()
        self._globals: dict[bytes, bytes] = {}
        self._records = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let go of the decompressor and what it holds in memory; the file is the caller's."""
        self._chunks = iter(())
        self._buffer = memoryview(b"")

    def __iter__(self) -> Iterator[Member]:
        """Yield every member.

        Raises:
            ImageError: the archive is damaged or truncated; the message names the place.
            OSError: it cannot be read.
        """
        while True:
            try:
                self._skip(self._data_left)
                self._start = self._offset
                self._records = 0
                member = self._next_member()
            except _TruncatedError:
                self._fail_truncated()
            except _MalformedError as error:
                self._fail_malformed(error)
            if member is None:
                break
            yield member
        # What follows is padding; but a compressed archive proves only at its end that it is whole.
        for _ in self._chunks:
            pass

    def data(self) -> Iterator[tuple[int, memoryview]]:
        """Yield the content of the current member, a file, as offsets and pieces that follow each other; no holes.

        A piece is valid until the next one is asked for.

        Raises:
            ImageError: the archive is damaged or truncated.
        """
        for offset, length in self._extents:
            position, end = offset, offset + length
            while position < end:
                if not self._buffer and not self._refill():
                    self._fail_truncated()
                piece = self._buffer[: end - position]
                self._buffer = self._buffer[len(piece) :]
                self._offset += len(piece)
                self._data_left -= len(piece)
                yield position, piece
                position += len(piece)
        self._extents = ()

    def _fail_truncated(self) -> NoReturn:
        if self._offset < BLOCK:
            self._fail_malformed(_MalformedError(f"{self._offset} bytes are less than a header"))
        where = f"at byte {self._offset}, inside of the member that begins at byte {self._start}"
        if self._offset == self._start:
            where = f"at byte {self._offset}, without the mark of its end"
        raise ImageError(f"{self.name}: truncated: it ends {where}", hint="get the archive again") from None

    def _fail_malformed(self, error: _MalformedError) -> NoReturn:
        if self._start == 0:
            hint = "a layer is a tar, plain or compressed with gzip, zstd, bzip2 or xz"
            raise ImageError(f"{self.name}: no tar archive: {error}", hint=hint) from None
        raise ImageError(f"{self.name}: damaged at byte {self._start}: {error}", hint=DAMAGED) from None

    def _refill(self) -> bool:
        """Replace the empty buffer; False at the end."""
        self._buffer = memoryview(next(self._chunks, b""))
        return bool(self._buffer)

    def _read(self, size: int) -> bytes:
        """Return *size* bytes of header."""
        parts = []
        while True:
            piece = self._buffer[:size]
            self._buffer = self._buffer[size:]
            self._offset += len(piece)
            parts.append(piece)
            size -= len(piece)
            if not size:
                return b"".join(parts)
            if not self._refill():
                raise _TruncatedError

    def _skip(self, size: int) -> None:
        while size:
            if not self._buffer and not self._refill():
                raise _TruncatedError
            step = min(size, len(self._buffer))
            self._buffer = self._buffer[step:]
            self._offset += step
            size -= step
        self._data_left = 0

    def _read_record(self, size: int) -> bytes:
        """Return the *size* bytes of a header record, without the padding behind them."""
        if size < 0 or size > RECORD_LIMIT:
            raise _MalformedError(f"a header record of {size} bytes, where up to {RECORD_LIMIT} are taken")
        self._count_records(size)
        return self._read(_padded(size))[:size]

    def _count_records(self, size: int) -> None:
        self._records += BLOCK + size
        if self._records > 4 * RECORD_LIMIT:
            raise _MalformedError(f"more than {4 * RECORD_LIMIT} bytes of headers for one member")

    def _next_member(self) -> Member | None:
        """Read headers up to and with that of the next member; None at the end of the archive."""
        pax: dict[bytes, bytes] = {}
        sparse_00: list[tuple[bytes, bytes]] = []
        long: dict[bytes, bytes] = {}
        while True:
            if not self._buffer and not self._refill():
                # The end without its mark. Compressed data says itself where it ends, a plain file is cut off.
                if self._compressed and not pax and not long:
                    return None
                raise _TruncatedError
            block = self._read(BLOCK)
            if block.count(0) == BLOCK:
                return None
            header = _Header(block)
            flag = header.flag
            if flag in b"xX":  # X: what Solaris called its own pax headers
                records = _pax_records(self._read_record(header.size))
                pax.update(records)
                sparse_00 += [record for record in records if record[0] in _SPARSE_00]
            elif flag == b"g":
                self._globals.update(_pax_records(self._read_record(header.size)))
                if sum(len(key) + len(value) for key, value in self._globals.items()) > RECORD_LIMIT:
                    raise _MalformedError(f"more than {RECORD_LIMIT} bytes of global headers")
            elif flag in b"LK":
                long[flag] = self._read_record(header.size).partition(b"\0")[0]
            else:
                if self._globals:
                    pax = {**self._globals, **pax}
                return self._member(header, pax, sparse_00, long)

    def _member(
        self,
        header: _Header,
        pax: dict[bytes, bytes],
        sparse_00: list[tuple[bytes, bytes]],
        long: dict[bytes, bytes],
    ) -> Member:
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long.get(b"L") or header.name
        link = pax.get(b"linkpath") or long.get(b"K") or header.link
        if not name or b"\0" in name or b"\0" in link:
            raise _MalformedError(f"a name that is empty or holds a zero byte: {printable(name)!r}")
        kind = _KINDS.get(header.flag)
        if kind is None:
            raise _MalformedError(f"{printable(name)} is of the unknown type {printable(header.flag)!r}")
        size, extents = 0, None
        self._extents = ()
        if kind is Kind.FILE:  # others have no data, whatever their size says: so do Go and Python read them
            stored = _decimal(pax, b"size", header.size)
            self._data_left = _padded(stored)
            if name.endswith(b"/"):
                kind = Kind.DIRECTORY  # v7 had no type for them
            else:
                size, extents = self._sparse(header, pax, sparse_00, stored)
                if max(size, stored) >= 1 << 63:
                    raise _MalformedError(f"{printable(name)} is of {max(size, stored)} bytes")
                self._extents = ((0, stored),) if extents is None else extents
        return Member(
            name=name,
            kind=kind,
            mode=header.mode & 0o7777,
            uid=_decimal(pax, b"uid", header.uid),
            gid=_decimal(pax, b"gid", header.gid),
            mtime_ns=_nanoseconds(pax[b"mtime"]) if pax.get(b"mtime") else header.mtime * 1_000_000_000,
            size=size,
            link=link,
            xattrs=_xattrs(pax) if pax else {},
            extents=extents,
        )

    def _sparse(
        self,
        header: _Header,
        pax: dict[bytes, bytes],
        sparse_00: list[tuple[bytes, bytes]],
        stored: int,
    ) -> tuple[int, tuple[tuple[int, int], ...] | None]:
        """Return the real size of a file and the map of a sparse one."""
        if header.flag == b"S":
            size, extents = _number(header.block[483:495]), _old_sparse(header.block, 386, 4)
            more = header.block[482]
            while more:
                self._count_records(BLOCK)
                block = self._read(BLOCK)
                extents += _old_sparse(block, 0, 21)
                more = block[504]
        elif pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            size, before = _decimal(pax, b"GNU.sparse.realsize", -1), self._offset
            extents = self._sparse_10()
            self._data_left -= self._offset - before
            stored -= self._offset - before
        elif b"GNU.sparse.size" in pax:
            size = _decimal(pax, b"GNU.sparse.size", -1)
            if b"GNU.sparse.map" in pax:
                numbers = [_digits(text) for text in pax[b"GNU.sparse.map"].split(b",") if text]
            else:
                numbers = [_digits(value) for _, value in sparse_00]
            extents = _pairs(numbers)
        else:
            return stored, None
        end = 0
        for offset, length in extents:
            if offset < end or length < 0 or offset + length > size:
                raise _MalformedError("the map of a sparse file that is out of order or beyond its size")
            end = offset + length
        if sum(length for _, length in extents) != stored:
            raise _MalformedError("the map of a sparse file that does not fit its data")
        return size, tuple(extents)

    def _sparse_10(self) -> list[tuple[int, int]]:
        """Read the map that precedes the data: decimal numbers, each on a line, padded to a block."""
        lines: list[bytes] = []
        rest, wanted = b"", 1
        while len(lines) < wanted:
            if len(rest) > 20:
                raise _MalformedError("the map of a sparse file with a number that is too long")
            self._count_records(BLOCK)
            *complete, rest = (rest + self._read(BLOCK)).split(b"\n")
            lines += complete
            if lines and wanted == 1:
                wanted = 1 + 2 * _digits(lines[0])
        return _pairs([_digits(line) for line in lines[1:wanted]])


class _Header:
    """The fields of one header block; those that GNU tar and POSIX disagree about are told apart by the magic."""

    __slots__ = ("block", "flag", "gid", "link", "mode", "mtime", "name", "size", "uid")

    def __init__(self, block: bytes) -> None:
        stated = _number(block[148:156])
        # The checksum counts its own field as blanks. Some old tars summed signed characters.
        unsigned = sum(block) - sum(block[148:156]) + 256
        if stated != unsigned and stated != unsigned - 256 * sum(
            byte > 127 for byte in block[:148] + block[156:]
        ):
            raise _MalformedError("the checksum of a header does not match")
        self.block = block
        self.name = block[:100].partition(b"\0")[0]
        # Only ustar proper continues names in a prefix: GNU tar keeps times there.
        if block[257:263] == b"ustar\0" and block[345]:
            self.name = block[345:500].partition(b"\0")[0] + b"/" + self.name
        self.mode = _number(block[100:108])
        self.uid = _number(block[108:116])
        self.gid = _number(block[116:124])
        self.size = _number(block[124:136])
        self.mtime = _number(block[136:148])
        self.flag = block[156:157]
        self.link = block[157:257].partition(b"\0")[0]
        if self.size < 0:
            raise _MalformedError("a negative size")


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _number(text: bytes) -> int:
    """Return a number field: octal digits, or with the highest bit set a signed number in base 256."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big") & ~(1 << 8 * len(text) - 1)
        return value - (1 << 8 * len(text) - 1) if text[0] & 0x40 else value
    digits = text.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise _MalformedError(f"{printable(text)!r} in a header is no octal number")
    return int(digits, 8)


def _digits(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise _MalformedError(f"{printable(text)!r} in place of a number")
    return int(text)


def _decimal(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    return _digits(text) if text else default


_TIME = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")


def _nanoseconds(text: bytes) -> int:
    """Return a time of pax, decimal seconds with a fraction, in nanoseconds; digits beyond these are cut off."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise _MalformedError(f"{printable(text)!r} in place of a time")
    value = int(match[2]) * 1_000_000_000 + int((match[3] or b"").ljust(9, b"0")[:9])
    return -value if match[1] else value


def _pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return keys and values of a pax header, whose records are `LENGTH KEY=VALUE\\n`, the length counting itself."""
    records = []
    position = 0
    while position < len(data) and data[position]:
        blank = data.find(b" ", position, position + 21)
        end = position + _digits(data[position:blank]) if blank > 0 else 0
        key, equals, value = data[blank + 1 : max(end - 1, blank + 1)].partition(b"=")
        if not key or not equals or end > len(data) or data[end - 1] != 0x0A:
            raise _MalformedError("a pax header whose records do not fit together")
        records.append((key, value))
        position = end
    return records


_SPARSE_00 = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise _MalformedError("the map of a sparse file with half an entry")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _old_sparse(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    """Return the entries of a sparse map in *block*: two number fields of 12 bytes each, unused ones zero."""
    entries = [
        (_number(block[at : at + 12]), _number(block[at + 12 : at + 24]))
        for at in range(start, start + 24 * count, 24)
    ]
    return [entry for entry in entries if entry[1]]


_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


def _xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the extended attributes: raw as star and GNU tar write them, or in base 64 as libarchive does."""
    result = {}
    for key, value in pax.items():
        if key.startswith(b"SCHILY.xattr."):
            # GNU tar writes the characters that end a key so (xattrs.c, xattr_encode_keyword).
            result[key[13:].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
        elif key.startswith(b"LIBARCHIVE.xattr."):
            name = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), key[17:])
            try:
                result.setdefault(
                    name, a2b_base64(value + b"=" * (-len(value) % 4))
                )  # it leaves out the padding
            except Base64Error:
                raise _MalformedError(f"attribute {printable(name)} is not in base 64") from None
    if any(b"\0" in name or not name for name in result):
        raise _MalformedError("an extended attribute whose name is empty or holds a zero byte")
    return result
