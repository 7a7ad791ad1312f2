"""Headers of tar archives in the pax interchange format (pax(1), "pax Interchange Format"). Pure.

Values that do not fit into the old header are pax records. Extended attributes are ``SCHILY.xattr.NAME`` (as of GNU tar and Go),
files with holes are in GNU's format 1.0 ("Storing Sparse Files", GNU tar manual), which GNU tar, Go and libarchive read. Names
are bytes, which GNU tar and Go take them for; ``hdrcharset=BINARY`` tells other readers if one is not UTF-8.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence

from unionfs._stdlib.dataclasses import dataclass, field

BLOCK = 512
END = bytes(2 * BLOCK)
_MOST_NAME = 100
_MOST_ID = 0o7777777
_MOST_SIZE = 0o77777777777
_TYPES = {
    stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4", stat.S_IFDIR: b"5", stat.S_IFIFO: b"6",
}  # fmt: skip
_HARD_LINK = b"1"
#: A ``%`` that GNU tar's decoding would take for the beginning of a code.
_DECODED = re.compile(rb"%(?=3D|25)")
_EXTENDED = b"x"
_XATTR = b"SCHILY.xattr."

#: Offset and length of a range with data.
Range = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class Member:
    """One member of an archive."""

    path: bytes
    #: With the type; types that an archive cannot hold (sockets) are for the caller to leave out.
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    #: Bytes of a regular file.
    size: int = 0
    #: The target of a symbolic link, or the path of the member of which this one is another name.
    link: bytes = b""
    hard_link: bool = False
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    #: The ranges with data of a file with holes; None for a file that is written whole.
    ranges: Sequence[Range] | None = None


def is_supported(mode: int) -> bool:
    """Return whether an archive can hold an object of the type in *mode*."""
    return stat.S_IFMT(mode) in _TYPES


def header(member: Member) -> bytes:
    """Return everything of *member* before the data of its file: pax records, header, and the map of a file with holes."""
    records: list[tuple[bytes, bytes]] = []
    path = member.path + b"/" if stat.S_ISDIR(member.mode) else member.path
    size = 0 if member.hard_link or not stat.S_ISREG(member.mode) else member.size
    sparse_map, sparse = b"", []
    if member.ranges is not None and not member.hard_link:
        sparse_map = _map(member.ranges, member.size)
        size = len(sparse_map) + sum(length for _, length in member.ranges)
        sparse = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", path)]
        sparse.append((b"GNU.sparse.realsize", b"%d" % member.size))
        directory, _, name = path.rpartition(b"/")
        path = b"/".join(filter(None, (directory, b"GNUSparseFile.0", name)))
    if not (_is_utf8(path) and _is_utf8(member.link)):
        records.append((b"hdrcharset", b"BINARY"))
    if len(path) > _MOST_NAME or not path.isascii():
        records.append((b"path", path))
    if len(member.link) > _MOST_NAME or not member.link.isascii():
        records.append((b"linkpath", member.link))
    records += sparse  # after "path", which replaces GNU.sparse.name in Python's tarfile
    for key, number, most in (
        (b"uid", member.uid, _MOST_ID),
        (b"gid", member.gid, _MOST_ID),
        (b"size", size, _MOST_SIZE),
    ):
        if number > most:
            records.append((key, b"%d" % number))
    if member.mtime_ns % 10**9 or not 0 <= member.mtime_ns <= _MOST_SIZE * 10**9:
        records.append((b"mtime", _time(member.mtime_ns)))
    records += [(_XATTR + xattr_key(name), value) for name, value in sorted(member.xattrs.items())]
    kind = _HARD_LINK if member.hard_link else _TYPES[stat.S_IFMT(member.mode)]
    main = _block(path, kind, member, size)
    if not records:
        return main + sparse_map
    body = b"".join(_record(key, value) for key, value in records)
    extended = _block(b"././@PaxHeader", _EXTENDED, None, len(body))
    return extended + padded(body) + main + sparse_map


def padded(data: bytes) -> bytes:
    """Return *data* filled up with zeros to a multiple of the block size."""
    return data + bytes(-len(data) % BLOCK)


def _map(ranges: Sequence[Range], size: int) -> bytes:
    if not ranges or sum(ranges[-1]) < size:
        # GNU tar takes the end of the last range for the end of the file (sparse.c, sparse_extract_region).
        ranges = [*ranges, (size, 0)]
    numbers = [len(ranges), *(number for each in ranges for number in each)]
    return padded(b"".join(b"%d\n" % number for number in numbers))


def xattr_key(name: bytes) -> bytes:
    """Return the part of the key of a record that stands for the attribute *name*.

    A key ends at the first ``=``, so GNU tar writes and reads ``%3D`` for it (xattrs.c, xattr_encode_keyword). A ``%`` stays,
    for readers that decode nothing, unless what follows would be decoded.
    """
    return _DECODED.sub(b"%25", name).replace(b"=", b"%3D")


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _time(nanoseconds: int) -> bytes:
    """Return a time as pax records have it: seconds with a fraction, also before the epoch."""
    sign, value = (b"-", -nanoseconds) if nanoseconds < 0 else (b"", nanoseconds)
    seconds, fraction = divmod(value, 10**9)
    return sign + b"%d.%09d" % (seconds, fraction)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _block(path: bytes, kind: bytes, member: Member | None, size: int) -> bytes:
    """Return one header block. A value that does not fit is cut off, or 0; a pax record has it."""

    def octal(number: int, digits: int) -> bytes:
        return b"%0*o\0" % (digits, number if 0 <= number < 8**digits else 0)

    mode, uid, gid, seconds, link, device = 0o644, 0, 0, 0, b"", (0, 0)
    if member is not None:
        mode, uid, gid = stat.S_IMODE(member.mode), member.uid, member.gid
        seconds, link, device = member.mtime_ns // 10**9, member.link, member.device
    fields = [
        path[-_MOST_NAME:].ljust(_MOST_NAME, b"\0"), octal(mode, 7), octal(uid, 7), octal(gid, 7),
        octal(size, 11), octal(seconds, 11), b" " * 8, kind, link[-_MOST_NAME:].ljust(_MOST_NAME, b"\0"),
        b"ustar\x0000", bytes(64), octal(device[0], 7), octal(device[1], 7), bytes(155),
    ]  # fmt: skip
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
