"""Parse tar headers and their records, with pure functions from bytes to values. Only their form is validated here."""

from __future__ import annotations

import re
from struct import Struct

from sandbox.images.attributes import attribute_of, is_unpacked
from sandbox.images.names import printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512

SPARSE_00 = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
"""Pax keys whose records, in their order, form the map of a sparse file in GNU sparse format 0.0."""


# Name, mode, uid, gid, size, mtime, checksum, type flag, link name, magic (POSIX: 6 bytes), and name prefix.
_FIELDS = Struct("100s8s8s8s12s12s8s1s100s6s82x155s12x")


class MalformedError(Exception):
    """A header has an invalid form; the text gives the reason."""


class Header:
    """The fields of one header block; the magic selects between the formats of GNU tar and POSIX where they differ."""

    __slots__ = ("block", "flag", "gid", "link", "mode", "mtime", "name", "size", "uid")

    def __init__(self, block: bytes) -> None:
        """Read the fields of *block*, which has BLOCK bytes.

        Raises:
            MalformedError: the checksum is wrong, or a number is invalid.
        """
        name, mode, uid, gid, size, mtime, checksum, self.flag, link, magic, prefix = _FIELDS.unpack(block)
        stated = number(checksum)
        # The checksum counts its own field as blanks. Some old tars summed signed characters.
        unsigned = sum(block) - sum(checksum) + 256
        if stated != unsigned and stated != unsigned - 256 * sum(
            byte > 127 for byte in block[:148] + block[156:]
        ):
            raise MalformedError("a header has a wrong checksum")
        self.block = block
        self.name = name.partition(b"\0")[0]
        # Only POSIX ustar has a prefix field for names: GNU tar stores times there.
        if prefix[0] and magic == b"ustar\0":
            self.name = prefix.partition(b"\0")[0] + b"/" + self.name
        self.mode = number(mode)
        self.uid = number(uid)
        self.gid = number(gid)
        self.size = number(size)
        self.mtime = number(mtime)
        self.link = link.partition(b"\0")[0]
        if self.size < 0:
            raise MalformedError("a negative size")

    def device(self) -> tuple[int, int] | None:
        """Return the major and minor number of a device; None if the fields are invalid, as in old formats."""
        try:
            major, minor = number(self.block[329:337]), number(self.block[337:345])
        except MalformedError:
            return None
        return (major, minor) if 0 <= major < 1 << 12 and 0 <= minor < 1 << 20 else None


def padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def number(text: bytes) -> int:
    """Return the value of a number field: octal digits or, if the highest bit is set, a signed number in base 256."""
    digits = text.rstrip(b"\0 ")
    if digits.isdigit() and not digits.strip(b"01234567"):
        return int(digits, 8)
    if text[0] & 0x80:
        value = int.from_bytes(text, "big") & ~(1 << 8 * len(text) - 1)
        return value - (1 << 8 * len(text) - 1) if text[0] & 0x40 else value
    digits = text.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise MalformedError(f"{printable(text)!r} in a header is not an octal number")
    return int(digits, 8)


def digits(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise MalformedError(f"{printable(text)!r} instead of a number")
    return int(text)


def decimal(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    return digits(text) if text else default


_TIME = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")


def nanoseconds(text: bytes) -> int:
    """Return a pax time, decimal seconds with a fraction, in nanoseconds; further digits are cut off."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise MalformedError(f"{printable(text)!r} instead of a time")
    value = int(match[2]) * 1_000_000_000 + int((match[3] or b"").ljust(9, b"0")[:9])
    return -value if match[1] else value


#: The records of a pax header that are used, besides those of extended attributes.
_USED = frozenset(
    (
        b"path",
        b"linkpath",
        b"size",
        b"uid",
        b"gid",
        b"mtime",
        b"GNU.sparse.major",
        b"GNU.sparse.minor",
        b"GNU.sparse.name",
        b"GNU.sparse.realsize",
        b"GNU.sparse.size",
        b"GNU.sparse.map",
        *SPARSE_00,
    )
)


def pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a pax header, whose records are `LENGTH KEY=VALUE\\n`; the length includes itself.

    Unused records are left out. The value of an attribute that is not taken (see `is_unpacked`) is empty.

    Raises:
        MalformedError: the lengths of the records are inconsistent.
        AttributeRefusedError: the name of an attribute is invalid.
    """
    position = 0
    while position < len(data) and data[position]:
        blank = data.find(b" ", position, position + 21)
        end = position + digits(data[position:blank]) if blank > 0 else 0
        equals = data.find(b"=", blank + 1, max(end - 1, blank + 1))
        if equals <= blank + 1 or end > len(data) or data[end - 1] != 0x0A:
            raise MalformedError("a pax header with invalid record lengths")
        key = data[blank + 1 : equals]
        if key in _USED:
            yield key, data[equals + 1 : end - 1]
        elif (name := attribute_of(key)) is not None:
            yield key, data[equals + 1 : end - 1] if is_unpacked(name) else b""
        position = end


def pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise MalformedError("the map of a sparse file with an incomplete entry")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def old_sparse(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    """Return the entries of a sparse map in *block*: two number fields of 12 bytes each; unused entries are zero."""
    entries = [
        (number(block[at : at + 12]), number(block[at + 12 : at + 24]))
        for at in range(start, start + 24 * count, 24)
    ]
    return [entry for entry in entries if entry[1]]
