"""Decode the tables of contents of zstd:chunked and eStargz layers. Pure; the tables are untrusted.

zstd:chunked (containers/storage, pkg/chunked): the annotations of the layer have the place of the table in the blob, which is one
zstd frame, and the digest of that. eStargz (containerd/stargz-snapshotter, docs/estargz.md): the end of the blob has the place of
the table, which is a gzip member with a tar of one file, and an annotation has the digest of that file.

Both are JSON with one entry for each member, and for each further chunk of a file. Names of fields are those of both formats.
"""

from __future__ import annotations

import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from itertools import pairwise

from sandbox.errors import ImageError
from sandbox.images.attributes import VALUE_LIMIT, is_unpacked
from sandbox.images.names import printable
from sandbox.images.tar import Kind, Member
from unionfs._stdlib.typing import Any, NamedTuple
from unionfs.layer_index.archive_chunks import Chunk

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ZSTD_DIGEST = "io.github.containers.zstd-chunked.manifest-checksum"
ZSTD_POSITION = "io.github.containers.zstd-chunked.manifest-position"
ESTARGZ_DIGEST = "containerd.io/snapshot/stargz/toc.digest"

FOOTER = 51
"""The bytes at the end of an eStargz blob that have the place of its table: an empty gzip member with an extra field (RFC 1952)."""
ESTARGZ_NAME = "stargz.index.json"
"""The name of the table in its tar."""
LARGEST_TABLE = 50 << 20
"""The most bytes of a table, compressed and not, as for podman."""
LARGEST_CHUNK = 1 << 26
"""The most bytes of a chunk and of its piece of the blob. A chunk is decompressed in memory, and a piece is one request."""

_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")
_POSITION = re.compile(r"([0-9]{1,18}):([0-9]{1,18}):([0-9]{1,18}):([0-9]{1,4})")
_CRFS = "1"
"""The kind of the table that is described here; containers/storage calls it CRFS."""
# The extra field of the footer: its subfield "SG" has 16 hexadecimal digits and "STARGZ".
_FOOTER = re.compile(rb"(?s)\x1f\x8b\x08\x04.{6}\x1a\x00SG\x16\x00([0-9a-f]{16})STARGZ.*")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))"
)
_KINDS = {
    "reg": Kind.FILE,
    "hardlink": Kind.HARD_LINK,
    "symlink": Kind.SYMLINK,
    "dir": Kind.DIRECTORY,
    "fifo": Kind.FIFO,
    "char": Kind.CHARACTER_DEVICE,
    "block": Kind.BLOCK_DEVICE,
}
_AGAIN = "pull the image whole: remove root.lazy"


class TablePlace(NamedTuple):
    """Where the table of a layer is, and its digest, "sha256:" and 64 digits: compressed for "zstd", not for "estargz"."""

    form: str
    digest: str
    #: Bytes of the blob; 0 and 0 if only the end of the blob tells.
    offset: int = 0
    length: int = 0


def place_of(annotations: Mapping[str, str], blob_size: int) -> TablePlace | None:
    """Return the place of the table of the layer with *annotations*, whose blob has *blob_size* bytes; None if it has none.

    A layer with annotations of another form is one without a table: it is pulled whole.
    """
    digest = annotations.get(ZSTD_DIGEST, "")
    if _SHA256.fullmatch(digest):
        found = _POSITION.fullmatch(annotations.get(ZSTD_POSITION, ""))
        if found is None or found[4] != _CRFS:
            return None
        offset, length = int(found[1]), int(found[2])
        if not 0 < length <= LARGEST_TABLE or offset + length > blob_size:
            return None
        return TablePlace("zstd", digest, offset, length)
    digest = annotations.get(ESTARGZ_DIGEST, "")
    if _SHA256.fullmatch(digest) and blob_size > FOOTER:
        return TablePlace("estargz", digest)
    return None


def table_of(annotations: Mapping[str, str], blob_size: int) -> str:
    """Return the digest of the table of the layer with *annotations*; "" if it has none."""
    place = place_of(annotations, blob_size)
    return "" if place is None else place.digest


def place_in_footer(footer: bytes, place: TablePlace, blob_size: int) -> TablePlace | None:
    """Return *place* with the place that *footer*, the last bytes of an eStargz blob, tells; None if it is no such footer."""
    found = _FOOTER.fullmatch(footer) if len(footer) == FOOTER else None
    offset = int(found[1], 16) if found is not None else 0
    length = blob_size - FOOTER - offset
    return place._replace(offset=offset, length=length) if 0 < length <= LARGEST_TABLE and offset else None


class TableEntry(NamedTuple):
    """A member of the layer. For a file: where its contents begin in the data, and the chunks that have them."""

    member: Member
    position: int = 0
    chunks: tuple[Chunk, ...] = ()


class _TableError(Exception):
    """An entry is not valid; the text is the reason."""


def decode_table(content: bytes, table_offset: int, name: str) -> Iterator[TableEntry]:
    """Yield the members of the table *content*, which begins at *table_offset* of the blob. *name* is for messages.

    Raises:
        ImageError: the table is damaged, or has a chunk that is too large.
    """
    try:
        document = json.loads(content)
        if type(document["version"]) is not int or document["version"] != 1:
            raise ImageError(f"{name}: the table of contents has an unknown version", hint=_AGAIN)
        entries = document["entries"]
        ends = _ends(entries, table_offset)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise _damaged(name, f"it is no table of version 1: {type(error).__name__}") from None
    decoder = _Decoder(ends)
    number = 0
    while number < len(entries):
        entry = entries[number]
        try:
            following = number + 1
            while following < len(entries) and entries[following].get("type") == "chunk":
                following += 1
            found = decoder.decode(entry, entries[number + 1 : following])
        except _TableError as error:
            raise _damaged(name, f"{_shown(entry)}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _damaged(
                name, f"{_shown(entry)}: a field is missing or has a wrong type: {error}"
            ) from None
        number = following
        yield found


def _ends(entries: Sequence[Mapping[str, Any]], table_offset: int) -> Mapping[int, int]:
    """Return by the offset of each piece of the blob the offset of the next one."""
    offsets = {table_offset}
    for entry in entries:
        for key in ("offset", "endOffset"):
            offset = entry.get(key, 0)
            if type(offset) is not int:
                raise TypeError(key)
            if 0 <= offset < table_offset:
                offsets.add(offset)
    ordered = sorted(offsets)
    return dict(pairwise(ordered))


class _Decoder:
    """Decodes entries in their order; the contents of the files follow each other in the data."""

    def __init__(self, ends: Mapping[int, int]) -> None:
        self._ends = ends
        self._position = 0

    def decode(self, entry: Mapping[str, Any], further: Sequence[Mapping[str, Any]]) -> TableEntry:
        """Return the member of *entry* and the chunks that follow it."""
        kind = _KINDS.get(entry["type"])
        if kind is None:
            raise _TableError("it has an unknown type")
        if further and kind is not Kind.FILE:
            raise _TableError("it has chunks, and is no file")
        name = _path(entry["name"])
        if not name:
            raise _TableError("it has no name")
        size = _count(entry, "size") if kind is Kind.FILE else 0
        position, chunks, extents = self._position, [], []
        for chunk, offset in _chunks(entry, further, size):
            if chunk is None:
                continue
            extents.append((offset, chunk.size))
            chunks.append(self._placed(chunk))
        kept, left_out = _xattrs(entry.get("xattrs") or {})
        stored = sum(length for _, length in extents)
        member = Member(
            name=name,
            kind=kind,
            mode=_count(entry, "mode") & 0o7777,
            uid=_integer(entry, "uid"),
            gid=_integer(entry, "gid"),
            mtime_ns=_time(entry.get("modtime") or ""),
            size=size,
            link=_path(entry.get("linkName") or ""),
            xattrs=kept,
            left_out=left_out,
            extents=tuple(extents) if stored < size else None,
        )
        return TableEntry(member, position, tuple(chunks))

    def _placed(self, chunk: Chunk) -> Chunk:
        end = self._ends.get(chunk.stored)
        # The header of the first file is at the beginning.
        if end is None or not (chunk.stored or chunk.skipped):
            raise _TableError("a chunk is outside of the blob")
        if end - chunk.stored > LARGEST_CHUNK or chunk.size + chunk.skipped > LARGEST_CHUNK:
            raise _TableError(f"a chunk has more than {LARGEST_CHUNK >> 20} MiB")
        placed = chunk._replace(position=self._position, stored_size=end - chunk.stored)
        self._position += chunk.size
        return placed


def _chunks(
    entry: Mapping[str, Any], further: Sequence[Mapping[str, Any]], size: int
) -> Iterator[tuple[Chunk | None, int]]:
    """Yield the chunks of a file of *size* bytes without their places in the data, and their offsets in the file.

    None stands for a chunk of zeros.
    """
    at = 0
    for one in (entry, *further) if size else ():
        offset = _count(one, "chunkOffset")
        length = _count(one, "chunkSize") or size - offset
        if offset != at or not 0 < length <= size - at:
            raise _TableError("its chunks do not follow each other")
        at += length
        if (one.get("chunkType") or "") == "zeros":
            yield None, offset
            continue
        whole = not further and length == size
        found = _SHA256.fullmatch(one.get("chunkDigest") or (one.get("digest") if whole else "") or "")
        if found is None:
            raise _TableError("a chunk has no digest that can be verified")
        yield (
            Chunk(0, length, _count(one, "innerOffset"), _count(one, "offset"), 0, bytes.fromhex(found[1])),
            offset,
        )
    if at != size:
        raise _TableError("its chunks do not have all of its contents")


def _path(value: Any) -> bytes:
    if not isinstance(value, str) or "\0" in value:
        raise _TableError("a name is not valid")
    # The table is JSON, which has no other bytes: writers replace those of names that are not UTF-8.
    return value.encode("utf-8", "surrogatepass")


def _integer(entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key) or 0
    if type(value) is not int:
        raise TypeError(f"{key} is no integer")
    return value


def _count(entry: Mapping[str, Any], key: str) -> int:
    value = _integer(entry, key)
    if not 0 <= value < 1 << 62:
        raise ValueError(f"{key} is out of range")
    return value


def _xattrs(values: Mapping[str, str]) -> tuple[dict[bytes, bytes], tuple[bytes, ...]]:
    """Return the attributes that an archive may set, and the names of the others."""
    kept, left_out = {}, []
    for key, value in values.items():
        name = _path(key)
        if is_unpacked(name):
            try:
                kept[name] = a2b_base64(value, strict_mode=True)
            except Base64Error:
                raise _TableError("an extended attribute is not in base64") from None
            if len(kept[name]) > VALUE_LIMIT:
                raise _TableError(f"an extended attribute has more than {VALUE_LIMIT} bytes")
        else:
            left_out.append(name)
    return kept, tuple(left_out)


def _time(text: str) -> int:
    """Return the time *text* of RFC 3339 in nanoseconds since 1970; 0 if it is empty."""
    if not text:
        return 0
    found = _TIME.fullmatch(text)
    if found is None:
        raise _TableError("its time is not valid")
    from datetime import UTC, datetime, timedelta

    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    moment = datetime(max(year, 1), month, day, hour, minute, min(second, 59), tzinfo=UTC)
    if found[8]:
        shift = timedelta(hours=int(found[9]), minutes=int(found[10]))
        moment = moment - shift if found[8] == "+" else moment + shift
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = since.days * 86400 + since.seconds
    return seconds * 1_000_000_000 + int((found[7] or "0").ljust(9, "0"))


def _shown(entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return printable(str(name or "an entry").encode("utf-8", "backslashreplace"))


def _damaged(name: str, reason: str) -> ImageError:
    return ImageError(f"{name}: the table of contents cannot be used: {reason}", hint=_AGAIN)
