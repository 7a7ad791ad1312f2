"""The format of a layer index file. Pure codec, which validates everything that it reads.

One file describes one stack of layers, or names the layer that cannot be indexed. It consists of

* a header: magic, version, lengths, and a checksum over itself, the key and the table;
* the key, which identifies the reader and the layers (store.py);
* a page for each directory of the merged stack, found by its number;
* the table of the pages.

A page is read as a whole when its directory is first used, and is then validated by its own checksum. It has rows of attributes
(fixed size), a byte for the kind of each row, and the layers that contribute. The names (separated by zero bytes, which no name
contains) and the targets of symbolic links follow. Page 0 has one row without a name: the root, whose page is number 1. A
directory's page has a higher number than the page that contains its name, so no file can describe an infinite tree.

A layer may also be a mounted archive (archive_layer.py). Its index is the only description of the layer, so it also has what a
directory would provide: where the contents of files are in the archive, the extended attributes, and targets of any length.
For such rows, the field of the device number, which no row of an archive needs, has an offset: of the contents in the archive, or
of a record (archive_records.py) in the page, after the names.

Numbers are little-endian. Times are nanoseconds since the epoch in 64 bits; a layer with times outside that range has no index.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

from unionfs._stdlib.typing import NamedTuple
from unionfs.types import Mark

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class _Bytes(Protocol):
        """Bytes, or a mapped file."""

        def __len__(self) -> int: ...
        def __getitem__(self, part: slice, /) -> bytes: ...


MAGIC = b"uni\xf6ncat"
#: Changes whenever the format changes, or the facts on which building relies.
VERSION = 2
#: Magic, version, checksum, length of the file, length of the key, offset of the table, number of pages, layer that cannot be
#: indexed (-1: none).
HEADER = struct.Struct("<8sIIQIQIi")
#: Offset and length of the page, number of its rows, number of its layers, length of its names, checksum.
_PAGE = struct.Struct("<QIIIII")
#: mode, nlink, uid, gid, ino, size, blocks, rdev, atime, mtime, ctime, page number or offset of the target, layer, length of
#: the target.
ROW = struct.Struct("<IIIIQQQQqqqIHH")
_DEVICE = 7
_LENGTH = struct.Struct("<I")
_LAYER, _LAYER_AT = struct.Struct("<H"), ROW.size - 4
#: A layer that contributes to a directory, and the identity of its directory: inode number, ctime, mtime.
_SOURCE = struct.Struct("<HQqq")
_KIND_MARK = 3
_KIND_NO_XATTRS = 4
_KIND_MERGED = 8
_KIND_TARGET = 16
_KIND_POSITION = 32
_KIND_RECORD = 64
_MARKS = tuple(sorted(Mark))
MOST_LAYERS = 1 << 16
#: Bytes; longer targets of symbolic links are read from the layer, unless it is an archive.
LONGEST_TARGET = 255
#: Bytes of any path (PATH_MAX of limits.h, less the final zero).
_PATH_MAX = 4095
ROOT_PAGE = 1


class DamagedError(ValueError):
    """The file is not a valid index of the expected stack."""


class Source(NamedTuple):
    """The contribution of a layer to a directory: the layer's position in the stack, and the identity of its directory."""

    layer: int
    ino: int
    ctime_ns: int
    mtime_ns: int


class Row(NamedTuple):
    """One name of a page. For a whiteout, only the name and the mark are meaningful."""

    name: bytes
    mark: Mark
    #: mode, nlink, uid, gid, ino, size, blocks, rdev, atime, mtime, ctime
    attributes: tuple[int, ...] = (0,) * 11
    #: For a directory: the number of its page.
    page: int = 0
    #: The layer that provides it; for a directory, the topmost.
    layer: int = 0
    #: The object has no extended attributes.
    known_no_xattrs: bool = False
    #: A directory to which several layers contribute.
    merged: bool = False
    #: The target of a symbolic link; None if it is not stored.
    target: bytes | None = None
    #: For a file of an archive that has neither holes nor a record: the offset of its contents.
    position: int | None = None
    #: For an object of an archive: the record, as archive_records.py writes it.
    record: bytes = b""


def archive_key(size: int) -> bytes:
    """Return the key of the index of an archive of *size* bytes."""
    return b"%d archive %d" % (VERSION, size)


def encode_page(offset: int, rows: Iterable[Row], sources: Sequence[Source]) -> tuple[bytes, bytes]:
    """Return the page of *rows*, which the caller writes at *offset* of the file, and its entry in the table.

    Raises:
        ValueError: a value does not fit.
    """
    packed, kinds, targets = bytearray(), bytearray(), bytearray()
    names: list[bytes] = []
    try:
        for row in rows:
            kind = (
                row.mark
                | (_KIND_NO_XATTRS if row.known_no_xattrs else 0)
                | (_KIND_MERGED if row.merged else 0)
            )
            link, length, attributes = row.page, 0, row.attributes
            if row.record:
                kind |= _KIND_RECORD
                attributes = (*attributes[:_DEVICE], len(targets), *attributes[_DEVICE + 1 :])
                targets += _LENGTH.pack(len(row.record)) + row.record
            elif row.position is not None:
                kind |= _KIND_POSITION
                attributes = (*attributes[:_DEVICE], row.position, *attributes[_DEVICE + 1 :])
            if row.target is not None:
                kind |= _KIND_TARGET
                link, length = len(targets), len(row.target)
                targets += row.target
            packed += ROW.pack(*attributes, link, row.layer, length)
            kinds.append(kind)
            names.append(row.name)
        joined = b"\0".join(names)
        blob = b"".join([packed, kinds, *(_SOURCE.pack(*source) for source in sources), joined, targets])
        entry = _PAGE.pack(offset, len(blob), len(names), len(sources), len(joined), zlib.crc32(blob))
    except struct.error as error:
        raise ValueError(str(error)) from None
    return blob, entry


def encode_header(key: bytes, table: bytes, *, length: int, refused: int | None = None) -> bytes:
    """Return the header and the key of a file of *length* bytes that ends with *table*.

    *refused*: the layer that cannot be indexed, if that is why there is no index.
    """
    fields = (len(key), length - len(table), len(table) // _PAGE.size, -1 if refused is None else refused)
    checksum = zlib.crc32(table, zlib.crc32(key, zlib.crc32(HEADER.pack(MAGIC, VERSION, 0, length, *fields))))
    return HEADER.pack(MAGIC, VERSION, checksum, length, *fields) + key


class Page:
    """One directory of the index. Rows are unpacked on demand."""

    __slots__ = ("_at", "_kinds", "_links_end", "_map", "_number", "_targets", "rows", "sources")

    def __init__(self, file: LayerIndex, number: int) -> None:
        """Read page *number* of *file*.

        Raises:
            DamagedError: the page is incomplete or contradicts itself.
        """
        at, length, count, sources, names_length, checksum = file.entry(number)
        if at + length > len(file.map):
            raise DamagedError("a page is beyond the end of the file")
        blob = file.map[at : at + length]
        kinds_at = count * ROW.size
        sources_at = kinds_at + count
        names_at = sources_at + sources * _SOURCE.size
        targets_at = names_at + names_length
        if targets_at > length or zlib.crc32(blob) != checksum:
            raise DamagedError("a page has a wrong checksum or length")
        names = blob[names_at:targets_at]
        split = names.split(b"\0") if count else []
        #: The row numbers by name.
        self.rows = dict(zip(split, range(count), strict=False))
        if len(split) != count or len(self.rows) != count or b"/" in names or (names and not count):
            raise DamagedError("a page contains invalid names")
        if number and (b"" in self.rows or b"." in self.rows or b".." in self.rows):
            raise DamagedError("a page contains invalid names")
        self.sources = tuple(map(Source._make, _SOURCE.iter_unpack(blob[sources_at:names_at])))
        if any(source.layer >= file.layers for source in self.sources):
            raise DamagedError("a page refers to a layer that does not exist")
        self._kinds = blob[kinds_at:sources_at]
        self._map = file.map
        self._number = number
        self._at = at
        self._targets = at + targets_at
        self._links_end = length - targets_at

    def mark(self, row: int) -> Mark:
        """Return the mark of *row*."""
        return _MARKS[self._kinds[row] & _KIND_MARK]

    def known_no_xattrs(self, row: int) -> bool:
        """Return whether the object of *row* has no extended attributes."""
        return bool(self._kinds[row] & _KIND_NO_XATTRS)

    def is_merged(self, row: int) -> bool:
        """Return whether *row* is a directory to which several layers contribute."""
        return bool(self._kinds[row] & _KIND_MERGED)

    def fields(self, row: int) -> tuple[int, ...]:
        """Return the fields of *row*, in the order of ROW."""
        return ROW.unpack_from(self._map, self._at + row * ROW.size)  # type: ignore[arg-type]

    def layer(self, row: int) -> int:
        """Return the layer that provides *row*. The caller must reject a layer that does not exist."""
        found: int = _LAYER.unpack_from(self._map, self._at + row * ROW.size + _LAYER_AT)[0]  # type: ignore[arg-type]
        return found

    def page(self, row: int) -> int:
        """Return the page number of the directory *row*.

        Raises:
            DamagedError: no directory of this page can have that number.
        """
        number = self.fields(row)[11]
        if number <= self._number:
            raise DamagedError("a directory contains itself")
        return number

    def target(self, row: int) -> bytes | None:
        """Return the target of the symbolic link *row*, or None if it is not stored.

        Raises:
            DamagedError: the target is outside the page, or no symbolic link can have it.
        """
        if not self._kinds[row] & _KIND_TARGET:
            return None
        fields = self.fields(row)
        start, length = fields[11], fields[13]
        if not length or start + length > self._links_end or length > _PATH_MAX:
            raise DamagedError("the target of a symbolic link is outside of its page")
        target = self._map[self._targets + start : self._targets + start + length]
        if b"\0" in target:
            raise DamagedError("the target of a symbolic link is invalid")
        return target

    def position(self, row: int) -> int | None:
        """Return the offset of the contents of the file *row* in the archive, or None if only a record has it."""
        return self.fields(row)[_DEVICE] if self._kinds[row] & _KIND_POSITION else None

    def record(self, row: int) -> bytes | None:
        """Return the record of *row*, or None if it has none.

        Raises:
            DamagedError: the record is outside the page.
        """
        if not self._kinds[row] & _KIND_RECORD:
            return None
        start = self.fields(row)[_DEVICE]
        if start + _LENGTH.size > self._links_end:
            raise DamagedError("a record is outside of its page")
        at = self._targets + start
        (length,) = _LENGTH.unpack(self._map[at : at + _LENGTH.size])
        if start + _LENGTH.size + length > self._links_end:
            raise DamagedError("a record is outside of its page")
        return self._map[at + _LENGTH.size : at + _LENGTH.size + length]


class LayerIndex:
    """An index file whose header and table have been validated. `Store.read` creates it and keeps the file mapped."""

    def __init__(self, content: _Bytes, key: bytes, layers: int) -> None:
        """Read *content*, which must describe *key*, a stack of *layers* layers.

        Raises:
            DamagedError: the file describes something else, or is incomplete.
        """
        self.map = content
        self.layers = layers
        if len(content) < HEADER.size:
            raise DamagedError("the file is too short")
        magic, version, checksum, length, key_length, table_at, pages, refused = HEADER.unpack(
            content[: HEADER.size]
        )
        if magic != MAGIC or version != VERSION or length != len(content) or key_length != len(key):
            raise DamagedError("the file has another magic number or version")
        if not HEADER.size + key_length <= table_at <= length or length - table_at != pages * _PAGE.size:
            raise DamagedError("the table is outside of the file")
        head = HEADER.pack(magic, version, 0, length, key_length, table_at, pages, refused)
        stored = content[HEADER.size : HEADER.size + key_length]
        if zlib.crc32(content[table_at:length], zlib.crc32(stored, zlib.crc32(head))) != checksum:
            raise DamagedError("the file has a wrong checksum")
        if stored != key:
            raise DamagedError("the file describes other layers")
        if not -1 <= refused < layers or (refused < 0 and pages <= ROOT_PAGE):
            raise DamagedError("the index has no root")
        #: The layer that cannot be indexed, if that is why there is no index; otherwise None.
        self.refused: int | None = None if refused < 0 else refused
        self._table_at = table_at
        self.pages = pages

    def table(self) -> bytes:
        """Return the table of the pages, which has a checksum of each."""
        return self.map[self._table_at : self._table_at + self.pages * _PAGE.size]

    def entry(self, number: int) -> tuple[int, ...]:
        """Return the table entry of page *number*.

        Raises:
            DamagedError: there is no such page.
        """
        if not 0 <= number < self.pages:
            raise DamagedError("a page number is not in the table")
        start = self._table_at + number * _PAGE.size
        return _PAGE.unpack(self.map[start : start + _PAGE.size])
