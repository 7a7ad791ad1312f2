"""POSIX access control lists: what a new object inherits from its directory. Pure.

The value of ``system.posix_acl_access`` and ``system.posix_acl_default`` is a version and entries of tag, permissions
and id, little-endian (linux/posix_acl_xattr.h). On disk a file system does all this by itself; we do it for an object
that is built elsewhere before it gets its name.
"""

from __future__ import annotations

import struct

from unionfs._stdlib.typing import NamedTuple

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_VERSION = 2
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20
_NAMED = frozenset((0x02, 0x08))
_NO_ID = (1 << 32) - 1
_EXTENDED = frozenset((0x02, 0x08, _MASK))  # entries that no mode can say


class _Entry(NamedTuple):
    tag: int
    permissions: int
    id: int


def inherit(default: bytes, mode: int) -> tuple[bytes | None, int]:
    """Apply a directory's *default* list to an object that is made in it with *mode* (no umask applied).

    Returns the object's access list, None where its mode says it all, and its mode (acl(5), "OBJECT CREATION AND
    DEFAULT ACLs"; the kernel's posix_acl_create_masq).

    Raises:
        ValueError: *default* is no such value.
    """
    entries = _parse(default)
    has_mask = any(entry.tag == _MASK for entry in entries)
    permissions = mode & 0o777
    result: list[_Entry] = []
    for entry in entries:
        if entry.tag == _USER_OBJ:
            allowed = entry.permissions & permissions >> 6 & 7
            permissions = permissions & 0o077 | allowed << 6
        elif entry.tag == _MASK or (entry.tag == _GROUP_OBJ and not has_mask):
            allowed = entry.permissions & permissions >> 3 & 7
            permissions = permissions & 0o707 | allowed << 3
        elif entry.tag == _OTHER:
            allowed = entry.permissions & permissions & 7
            permissions = permissions & 0o770 | allowed
        else:
            allowed = entry.permissions
        result.append(entry._replace(permissions=allowed))
    access = _encode(result) if any(entry.tag in _EXTENDED for entry in result) else None
    return access, mode & ~0o777 | permissions


def mapped(value: bytes) -> bytes:
    """Return the list *value* without entries of users and groups that our user namespace does not map.

    Nobody whom they are about can ask, and the kernel refuses the whole list for them: such a file could not be opened.
    """
    try:
        entries = _parse(value)
    except ValueError:
        return value
    return _encode([entry for entry in entries if entry.tag not in _NAMED or entry.id != _NO_ID])


def _parse(value: bytes) -> list[_Entry]:
    if len(value) < 4 or (len(value) - 4) % 8 or struct.unpack_from("<I", value)[0] != _VERSION:
        raise ValueError("malformed access control list")
    return [_Entry(*fields) for fields in struct.iter_unpack("<HHI", value[4:])]


def _encode(entries: list[_Entry]) -> bytes:
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
