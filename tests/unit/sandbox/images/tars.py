"""Helpers that write tar archives block by block. The module `tarfile` would refuse to write most of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from sandbox.errors import ImageError
from sandbox.images.report import UnpackReport
from sandbox.images.tar import Member, TarStream, open_archive
from sandbox.images.unpack import unpack

FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = (b"%d" % flag for flag in range(7))
END = bytes(1024)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
#: A name that is too long for a header.
LONG = b"d" * 150 + b"/" + b"f" * 150


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def octal(number: int, width: int) -> bytes:
    """Return a number field; in base-256 encoding if it is negative or too large."""
    if 0 <= number < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, number)
    field = bytearray(number.to_bytes(width, "big", signed=True))
    field[0] |= 0x80
    return bytes(field)


def header(
    name: bytes,
    *,
    flag: bytes = FILE,
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_700_000_000,
    link: bytes = b"",
    magic: bytes = USTAR,
    device: tuple[int, int] = (0, 0),
    tail: bytes = b"",
) -> bytes:
    """Return one header block; *tail* follows the device numbers: a prefix, or the fields of GNU tar."""
    block = bytearray(512)
    for start, value in (
        (0, name),
        (100, octal(mode, 8)),
        (108, octal(uid, 8)),
        (116, octal(gid, 8)),
        (124, octal(size, 12)),
        (136, octal(mtime, 12)),
        (148, b" " * 8),
        (156, flag),
        (157, link),
        (257, magic),
        (329, octal(device[0], 8)),
        (337, octal(device[1], 8)),
        (345, tail),
    ):
        block[start : start + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def file(
    name: bytes,
    data: bytes = b"",
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_700_000_000,
) -> bytes:
    return header(name, size=len(data), mode=mode, uid=uid, gid=gid, mtime=mtime) + padded(data)


def directory(
    name: bytes, *, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = 1_700_000_000
) -> bytes:
    return header(name, flag=DIRECTORY, mode=mode, uid=uid, gid=gid, mtime=mtime)


def symlink(name: bytes, target: bytes) -> bytes:
    # A target that is longer than the field is in a record before the header, and the record has precedence.
    long = pax([(b"linkpath", target)]) if len(target) > 100 else b""
    return long + header(name, flag=SYMLINK, mode=0o777, link=target[:100])


def hard_link(name: bytes, target: bytes) -> bytes:
    return header(name, flag=HARD_LINK, link=target)


def pax_record(key: bytes, value: bytes) -> bytes:
    body = b" %s=%s\n" % (key, value)
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d%s" % (length, body)


def record(content: bytes, flag: bytes) -> bytes:
    """Return a header record: pax (x or g), or a long name (L) or link (K) of GNU tar."""
    return header(b"././@header", flag=flag, size=len(content)) + padded(content)


def pax(records: Iterable[tuple[bytes, bytes]], flag: bytes = b"x") -> bytes:
    return record(b"".join(pax_record(key, value) for key, value in records), flag)


def tar(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def read(data: bytes) -> TarStream:
    return open_archive(io.BytesIO(data), "a.tar")


def members(data: bytes) -> list[Member]:
    return list(read(data))


def contents(data: bytes) -> dict[bytes, bytes]:
    """Return the content of every file, with holes filled with zeros."""
    result = {}
    archive = read(data)
    for member in archive:
        content = bytearray()
        for offset, piece in archive.data():
            content += bytes(offset - len(content)) + piece
        content += bytes(member.size - len(content))
        result[member.name] = bytes(content)
    return result


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def extract(
    data: bytes,
    destination: str | os.PathLike[str],
    *below: str | os.PathLike[str],
    single_id: bool = True,
) -> UnpackReport:
    """Unpack *data* into the directory *destination*, which is created if it is missing, above the trees *below*, topmost first."""
    os.makedirs(destination, exist_ok=True)
    with ExitStack() as stack:
        fd, *lower = [stack.enter_context(opened(path)) for path in (destination, *below)]
        return unpack(stack.enter_context(read(data)), fd, single_id=single_id, below=lower)


def error_of(data: bytes) -> ImageError:
    """Read *data*, which must fail, and return the error."""
    with pytest.raises(ImageError) as caught:
        contents(data)
    assert caught.value.hint
    assert caught.value.message.startswith("a.tar: ")
    return caught.value


def only(data: bytes) -> Member:
    """Return the only member of *data*."""
    [member] = members(data)
    return member


SPARSE_CONTENT = bytes(1000) + b"A" * 100 + bytes(900) + b"B" * 50 + bytes(50)
SPARSE_MAP = [(1000, 100), (2000, 50)]
SPARSE_DATA = b"A" * 100 + b"B" * 50


def old_sparse(*, extended: bool) -> bytes:
    """Return a sparse file `s` of SPARSE_CONTENT in the old GNU format; *extended*, with a second block of its map."""
    pairs = [octal(offset, 12) + octal(length, 12) for offset, length in SPARSE_MAP]
    inline, more = (pairs[:1] + [bytes(24)] * 3, pairs[1:]) if extended else (pairs + [bytes(24)] * 2, [])
    tail = bytes(41) + b"".join(inline) + (b"\1" if more else b"\0") + octal(len(SPARSE_CONTENT), 12)
    block = header(b"s", flag=b"S", size=150, magic=GNU, tail=tail)
    return block + (b"".join(more).ljust(512, b"\0") if more else b"") + padded(SPARSE_DATA)


def pax_sparse(version: str) -> bytes:
    """Return a sparse file `s` of SPARSE_CONTENT in *version* of the GNU format with pax headers."""
    numbers = [number for extent in SPARSE_MAP for number in extent]
    if version == "1.0":
        listing = padded(b"".join(b"%d\n" % number for number in [len(SPARSE_MAP), *numbers]))
        records = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.realsize", b"2100"),
            (b"size", b"%d" % (len(listing) + 150)),
        ]
        return pax(records) + header(b"GNUSparseFile.0/s", size=1) + listing + padded(SPARSE_DATA)
    if version == "0.1":
        listed = [(b"GNU.sparse.map", b",".join(b"%d" % number for number in numbers))]
    else:
        listed = [
            (key, b"%d" % value)
            for extent in SPARSE_MAP
            for key, value in zip((b"GNU.sparse.offset", b"GNU.sparse.numbytes"), extent, strict=True)
        ]
    records = [(b"GNU.sparse.size", b"2100"), (b"GNU.sparse.numblocks", b"2"), *listed]
    return pax(records) + header(b"s", size=150) + padded(SPARSE_DATA)
