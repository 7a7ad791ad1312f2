"""The record of one object of an archive: where its contents are, and its extended attributes. Pure codec, which validates.

A record consists of a head (offset of the contents in the archive, number of extents, number of attributes), the extents (offset
in the file and length of each piece of data; the pieces follow each other in the archive), and the attributes (length of the name
and of the value, name, value). An object that is no regular file has no extents.
"""

from __future__ import annotations

import struct

from unionfs._stdlib.typing import NamedTuple
from unionfs.layer_index.format import DamagedError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEAD = struct.Struct("<QII")
_EXTENT = struct.Struct("<QQ")
_ATTRIBUTE = struct.Struct("<HI")
_NO_XATTRS: Mapping[bytes, bytes] = {}


class Record(NamedTuple):
    """What a row of an index has no room for."""

    #: The offset of the contents in the archive, in bytes.
    position: int = 0
    #: Offset in the file and length of each piece of data, ascending.
    extents: Sequence[tuple[int, int]] = ()
    #: By name; at most 65535 bytes each name, as many as the archive has each value.
    xattrs: Mapping[bytes, bytes] = _NO_XATTRS

    def encode(self) -> bytes:
        """Return the record as bytes.

        Raises:
            ValueError: a number or a name does not fit.
        """
        try:
            parts = [_HEAD.pack(self.position, len(self.extents), len(self.xattrs))]
            parts += [_EXTENT.pack(offset, length) for offset, length in self.extents]
            for name, value in self.xattrs.items():
                parts += (_ATTRIBUTE.pack(len(name), len(value)), name, value)
        except struct.error as error:
            raise ValueError(str(error)) from None
        return b"".join(parts)

    @classmethod
    def decode(cls, content: bytes, size: int) -> Record:
        """Return the record in *content*, of an object of *size* bytes.

        Raises:
            DamagedError: the record is incomplete, or its extents overlap or are outside the file.
        """
        try:
            position, extents_count, xattrs_count = _HEAD.unpack_from(content)
            at = _HEAD.size + extents_count * _EXTENT.size
            if at > len(content):
                raise DamagedError("the extents of a record are incomplete")
            extents = tuple(_EXTENT.iter_unpack(content[_HEAD.size : at]))
            xattrs: dict[bytes, bytes] = {}
            for _ in range(xattrs_count):
                name_length, value_length = _ATTRIBUTE.unpack_from(content, at)
                at += _ATTRIBUTE.size
                name, value = content[at : at + name_length], content[at + name_length :][:value_length]
                at += name_length + value_length
                xattrs[name] = value
        except struct.error as error:
            raise DamagedError(str(error)) from None
        if at != len(content) or len(xattrs) != xattrs_count:
            raise DamagedError("the attributes of a record are incomplete")
        if any(not name or b"\0" in name for name in xattrs):
            raise DamagedError("a record has an attribute with an invalid name")
        end = 0
        for offset, length in extents:
            if offset < end or offset + length > size:
                raise DamagedError("the extents of a record are out of order or beyond the file")
            end = offset + length
        return cls(position, extents, xattrs)
