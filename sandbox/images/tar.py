"""Read untrusted tar archives, plain or compressed, as streams of members.

`open_archive` detects the compression by magic bytes and returns a `TarStream`: iterate over it once, and read a file's
content from `data()` before the next member. Supported are POSIX ustar and pax (POSIX.1-2024, pax, "pax Interchange
Format"), GNU long names and every GNU form of sparse files (the manual of GNU tar, "Tar Internals"), v7, and extended
attributes as star, GNU tar and libarchive write them.

The headers are not read with `tarfile`, which is made for trusted archives. After the first member it takes a damaged header
for the end of the archive. It takes the times in GNU tar's incremental archives for a part of the name, and stores times as
floats. It reads header records of any size into memory: in Python 3.11.7 a record of 1 MiB of digits takes half an hour
(CVE-2024-6232). Names are bytes throughout this module.
"""

from __future__ import annotations

from enum import Enum

from sandbox.errors import ImageError
from sandbox.images.attributes import AttributeRefusedError, decode
from sandbox.images.compression import DAMAGED, open_plain
from sandbox.images.headers import (
    BLOCK,
    SPARSE_00,
    Header,
    MalformedError,
    decimal,
    digits,
    nanoseconds,
    number,
    old_sparse,
    padded,
    pairs,
    pax_records,
)
from sandbox.images.names import printable
from unionfs._stdlib.typing import NamedTuple, NoReturn, Protocol, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sandbox.images.compression import Readable

RECORD_LIMIT = 1 << 20
"""The most bytes of one header record (pax, long name, sparse map).

This is the limit of Go's archive/tar, which reads and writes most images. All records of one member together may have four
times as many bytes.
"""

NAME_LIMIT = 1 << 16
"""The most bytes of a GNU long name; Linux paths have at most 4095."""

GLOBAL_LIMIT = 1 << 16
"""The most bytes of all used records of global pax headers together. They are limited because each member gets all of them."""


class Kind(Enum):
    """The kind of a member; the values are the type flags of ustar."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMLINK = b"2"
    CHARACTER_DEVICE = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
_ZEROS = bytes(BLOCK)
_KINDS = {kind.value: kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE}


_NO_XATTRS: Mapping[bytes, bytes] = {}


class Member(NamedTuple):
    """One member as the archive describes it; only the form of the fields has been validated."""

    name: bytes  # no NUL, not empty; may be absolute and contain `..`
    kind: Kind
    mode: int  # permission bits, set-id and sticky
    uid: int  # any integer
    gid: int
    mtime_ns: int
    size: int  # of a file, holes included; otherwise 0
    link: bytes = b""  # target of a symbolic or hard link, no NUL
    xattrs: Mapping[bytes, bytes] = _NO_XATTRS  # those that `attributes.is_unpacked` takes
    left_out: tuple[bytes, ...] = ()  # names of the other extended attributes
    extents: tuple[tuple[int, int], ...] | None = None  # of a sparse file: offset and length of its data
    device: tuple[int, int] | None = None  # major and minor number; None if the header has no valid ones


class Archive(Protocol):
    """The interface that unpacking needs; `TarStream` and its wrapper `RootArchive` implement it."""

    name: str

    @property
    def current(self) -> bytes: ...

    def __iter__(self) -> Iterator[Member]: ...

    def data(self) -> Iterator[tuple[int, memoryview]]: ...


def open_archive(file: Readable, name: str, on_frame: Callable[[int, int], None] | None = None) -> TarStream:
    """Return a stream of the members of the tar in *file*, read from its current position; *name* is for messages.

    *file* need not be seekable, and is not closed. *on_frame* is that of `compression.open_plain`.

    Raises:
        ImageError: *file* is empty or no tar; its compression is not supported, or its module is not installed.
        OSError: *file* cannot be read.
    """
    plain = open_plain(file, name, on_frame)
    return TarStream(plain.pieces, name, compressed=plain.compressed)


class _TruncatedError(Exception):
    """The archive ends inside a member."""


class TarStream:
    """Yields the members of a tar in order, once. `open_archive` creates it; the file stays open."""

    def __init__(self, chunks: Iterator[bytes], name: str, *, compressed: bool) -> None:
        self.name = name
        self._chunks = chunks
        self.compressed = compressed
        self._buffer = b""
        self._at = 0  # position of the next byte in _buffer
        self._before = 0  # bytes of the decompressed archive before _buffer
        self._start = 0  # position of the current member in the decompressed archive
        self._data_left = 0  # bytes of the current member's data and padding that have not been read
        self._extents: tuple[tuple[int, int], ...] = ()
        self._globals: dict[bytes, bytes] = {}
        self._globals_size = 0
        self._records = 0
        #: The name of the current member.
        self.current = b""

    @property
    def position(self) -> int:
        """The number of decompressed bytes read so far; between members, the place of the current member's data."""
        return self._before + self._at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Free the decompressor and its memory; the caller closes the file."""
        self._chunks = iter(())
        self._buffer = b""
        self._at = 0

    @property
    def _offset(self) -> int:
        """The position of the next byte in the decompressed archive."""
        return self._before + self._at

    def __iter__(self) -> Iterator[Member]:
        """Yield every member.

        Raises:
            ImageError: the archive is damaged or truncated; the message gives the position.
            OSError: the archive cannot be read.
        """
        while True:
            try:
                self._skip(self._data_left)
                self._start = self._offset
                self._records = 0
                member = self._next_member()
            except _TruncatedError:
                self._fail_truncated()
            except (MalformedError, AttributeRefusedError) as error:
                self._fail_malformed(error)
            if member is None:
                break
            self.current = member.name
            yield member
        # The rest is padding, which may be of any length if the file is sparse. A compressed archive has to be read to its
        # end, because only that shows that it is complete.
        if self.compressed:
            for _ in self._chunks:
                pass

    def data(self) -> Iterator[tuple[int, memoryview]]:
        """Yield the content of the current member, a file, as pairs of offset and piece, in ascending order, without holes.

        A piece is valid until the next one is requested.

        Raises:
            ImageError: the archive is damaged or truncated.
        """
        for offset, length in self._extents:
            position, end = offset, offset + length
            while position < end:
                if self._at == len(self._buffer) and not self._refill():
                    self._fail_truncated()
                piece = memoryview(self._buffer)[self._at : self._at + end - position]
                self._at += len(piece)
                self._data_left -= len(piece)
                yield position, piece
                position += len(piece)
        self._extents = ()

    def _fail_truncated(self) -> NoReturn:
        if self._offset < BLOCK:
            self._fail_malformed(MalformedError(f"its {self._offset} bytes are less than a header"))
        where = f"at byte {self._offset}, within the member that begins at byte {self._start}"
        if self._offset == self._start:
            where = f"at byte {self._offset}, without the two zero blocks of its end"
        raise ImageError(f"{self.name}: truncated: it ends {where}", hint="get the archive again") from None

    def _fail_malformed(self, error: MalformedError | AttributeRefusedError) -> NoReturn:
        if self._start == 0:
            hint = "use a tar archive, plain or compressed with gzip, zstd, bzip2 or xz"
            raise ImageError(f"{self.name}: not a tar archive: {error}", hint=hint) from None
        raise ImageError(f"{self.name}: damaged at byte {self._start}: {error}", hint=DAMAGED) from None

    def _refill(self) -> bool:
        """Replace the buffer, all of which was read, with the next chunk; return False at the end."""
        self._before += len(self._buffer)
        self._buffer = next(self._chunks, b"")
        self._at = 0
        return bool(self._buffer)

    def _read(self, size: int) -> bytes:
        """Return *size* bytes of header."""
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        if len(data) == size:
            return data
        parts = [data]
        left = size - len(data)
        while left:
            if not self._refill():
                raise _TruncatedError
            parts.append(self._buffer[:left])
            self._at = len(parts[-1])
            left -= self._at
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size > len(self._buffer) - self._at:
            size -= len(self._buffer) - self._at
            self._at = len(self._buffer)
            if not self._refill():
                raise _TruncatedError
        self._at += size
        self._data_left = 0

    def _read_record(self, size: int, limit: int = RECORD_LIMIT) -> bytes:
        """Return the *size* bytes of a header record, without the padding after them."""
        if size < 0 or size > limit:
            raise MalformedError(f"a header record of {size} bytes, more than the allowed {limit}")
        self._count_records(size)
        return self._read(padded(size))[:size]

    def _count_records(self, size: int) -> None:
        self._records += BLOCK + size
        if self._records > 4 * RECORD_LIMIT:
            raise MalformedError(f"more than {4 * RECORD_LIMIT} bytes of headers for one member")

    def _next_member(self) -> Member | None:
        """Read headers up to that of the next member, and return the member; None at the end of the archive."""
        pax: dict[bytes, bytes] = {}
        sparse_00: list[tuple[bytes, bytes]] = []
        long: dict[bytes, bytes] = {}
        while True:
            if self._at == len(self._buffer) and not self._refill():
                # The end-of-archive blocks are missing. Compressed data marks its own end; a plain file is truncated.
                if self.compressed and not pax and not long:
                    return None
                raise _TruncatedError
            block = self._read(BLOCK)
            if block == _ZEROS:
                return None
            header = Header(block)
            flag = header.flag
            if flag in b"xX":  # X: pax headers of Solaris
                for key, value in pax_records(self._read_record(header.size)):
                    pax[key] = value
                    if key in SPARSE_00:
                        sparse_00.append((key, value))
            elif flag == b"g":
                for key, value in pax_records(self._read_record(header.size)):
                    self._set_global(key, value)
            elif flag in b"LK":
                long[flag] = self._read_record(header.size, NAME_LIMIT).partition(b"\0")[0]
            else:
                if self._globals:
                    pax = {**self._globals, **pax}
                return self._member(header, pax, sparse_00, long)

    def _set_global(self, key: bytes, value: bytes) -> None:
        before = self._globals.get(key)
        self._globals_size += len(value) + (len(key) if before is None else -len(before))
        if self._globals_size > GLOBAL_LIMIT:
            raise MalformedError(f"more than {GLOBAL_LIMIT} bytes of global headers")
        self._globals[key] = value

    def _member(
        self,
        header: Header,
        pax: dict[bytes, bytes],
        sparse_00: list[tuple[bytes, bytes]],
        long: dict[bytes, bytes],
    ) -> Member:
        name, link = header.name, header.link
        if pax or long:
            name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long.get(b"L") or name
            link = pax.get(b"linkpath") or long.get(b"K") or link
        if not name or b"\0" in name or b"\0" in link:
            raise MalformedError(f"a name that is empty or contains a zero byte: {printable(name)!r}")
        kind = _KINDS.get(header.flag)
        if kind is None:
            raise MalformedError(f"{printable(name)} is of the unknown type {printable(header.flag)!r}")
        size, extents = 0, None
        self._extents = ()
        # Other kinds have no data, even if their size field is not zero: Go and Python read them so.
        if kind is Kind.FILE:
            stored = decimal(pax, b"size", header.size) if pax else header.size
            self._data_left = padded(stored)
            if name.endswith(b"/"):
                kind = Kind.DIRECTORY  # v7 has no type flag for directories
            else:
                size, extents = self._sparse(header, pax, sparse_00, stored)
                if max(size, stored) >= 1 << 63:
                    raise MalformedError(f"{printable(name)} is of {max(size, stored)} bytes")
                self._extents = ((0, stored),) if extents is None else extents
        uid, gid, mtime_ns = header.uid, header.gid, header.mtime * 1_000_000_000
        xattrs: Mapping[bytes, bytes] = _NO_XATTRS
        left_out: tuple[bytes, ...] = ()
        if pax:
            try:
                xattrs, left_out = decode(pax)
            except AttributeRefusedError as error:
                raise MalformedError(f"{printable(name)}: {error}") from None
            uid, gid = decimal(pax, b"uid", uid), decimal(pax, b"gid", gid)
            if pax.get(b"mtime"):
                mtime_ns = nanoseconds(pax[b"mtime"])
        device = header.device() if kind in _DEVICES else None
        mode = header.mode & 0o7777
        return Member(name, kind, mode, uid, gid, mtime_ns, size, link, xattrs, left_out, extents, device)

    def _sparse(
        self,
        header: Header,
        pax: dict[bytes, bytes],
        sparse_00: list[tuple[bytes, bytes]],
        stored: int,
    ) -> tuple[int, tuple[tuple[int, int], ...] | None]:
        """Return the real size of a file, and its map if it is sparse, otherwise None."""
        if not pax and header.flag != b"S":
            return stored, None
        if header.flag == b"S":
            size, extents = number(header.block[483:495]), old_sparse(header.block, 386, 4)
            more = header.block[482]
            while more:
                self._count_records(BLOCK)
                block = self._read(BLOCK)
                extents += old_sparse(block, 0, 21)
                more = block[504]
        elif pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            size, before = decimal(pax, b"GNU.sparse.realsize", -1), self._offset
            extents = self._sparse_10()
            self._data_left -= self._offset - before
            stored -= self._offset - before
        elif b"GNU.sparse.size" in pax:
            size = decimal(pax, b"GNU.sparse.size", -1)
            if b"GNU.sparse.map" in pax:
                numbers = [digits(text) for text in pax[b"GNU.sparse.map"].split(b",") if text]
            else:
                numbers = [digits(value) for _, value in sparse_00]
            extents = pairs(numbers)
        else:
            return stored, None
        end = 0
        for offset, length in extents:
            if offset < end or length < 0 or offset + length > size:
                raise MalformedError("the map of a sparse file that is out of order or beyond its size")
            end = offset + length
        if sum(length for _, length in extents) != stored:
            raise MalformedError("the map of a sparse file that does not fit its data")
        return size, tuple(extents)

    def _sparse_10(self) -> list[tuple[int, int]]:
        """Read the map before the data: decimal numbers, one on each line, padded to a block (GNU sparse format 1.0)."""
        numbers: list[int] = []
        rest, wanted = b"", 1
        while len(numbers) < wanted:
            if len(rest) > 20:
                raise MalformedError("the map of a sparse file with a number that is too long")
            self._count_records(BLOCK)
            *complete, rest = (rest + self._read(BLOCK)).split(b"\n")
            for line in complete:
                if len(numbers) == wanted:
                    break
                numbers.append(digits(line))
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
        return pairs(numbers[1:])
