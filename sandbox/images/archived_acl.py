"""Convert access control lists of an archive to what a file system would have after setxattr(2) and chmod(2). Pure.

The kernel validates a list (posix_acl_valid, fs/posix_acl.c), does not store one that the mode bits express, and changes the
entries that correspond to mode bits with each chmod(2) (acl(5), "CORRESPONDENCE BETWEEN ACL ENTRIES AND FILE PERMISSION BITS").
"""

from __future__ import annotations

import struct

_VERSION = struct.pack("<I", 2)  # linux/posix_acl_xattr.h
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ORDER = (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)


class InvalidListError(ValueError):
    """The value is not a valid access control list."""


def settled(value: bytes, mode: int | None) -> bytes | None:
    """Return the list that is shown for *value*; None if none is stored.

    *mode* are the permission bits, for an access list; None for a default list.

    Raises:
        InvalidListError: the kernel would refuse *value*.
    """
    if value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        raise InvalidListError
    entries = list(_ENTRY.iter_unpack(value[4:]))
    if not entries:
        return None
    _validate(entries)
    tags = {tag for tag, _, _ in entries}
    if mode is None:
        return value
    if not tags & {_USER, _GROUP, _MASK}:
        return None
    group = _MASK if _MASK in tags else _GROUP_OBJ
    bits = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return _VERSION + b"".join(
        _ENTRY.pack(tag, bits.get(tag, permissions), number) for tag, permissions, number in entries
    )


def _validate(entries: list[tuple[int, int, int]]) -> None:
    tags = [tag for tag, _, _ in entries]
    if any(tag not in _ORDER or permissions & ~7 for tag, permissions, _ in entries):
        raise InvalidListError
    if tags != sorted(tags, key=_ORDER.index):
        raise InvalidListError
    once = [tags.count(tag) for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER)]
    named = _USER in tags or _GROUP in tags
    if once != [1, 1, 1] or tags.count(_MASK) > 1 or (named and _MASK not in tags):
        raise InvalidListError
