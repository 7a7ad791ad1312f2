"""POSIX access control lists: the list and the mode that a new object inherits from its directory. Pure.

The value of ``system.posix_acl_access`` and ``system.posix_acl_default`` is a version, followed by entries of tag,
permissions and id, little-endian (linux/posix_acl_xattr.h). A file system on disk applies the inheritance by itself.
The server applies it to an object that it creates in another directory before the object gets its name.
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
_EXTENDED = frozenset((0x02, 0x08, _MASK))  # entries that mode bits cannot express


class _Entry(NamedTuple):
    tag: int
    permissions: int
    id: int


def inherit(default: bytes, mode: int) -> tuple[bytes | None, int]:
    """Apply a directory's *default* list to an object that is created in it with *mode* (no umask applied).

    Returns the object's access list, or None if its mode expresses the list completely, and its mode (acl(5), "OBJECT
    CREATION AND DEFAULT ACLs"; the kernel's posix_acl_create_masq).

    Raises:
        ValueError: *default* is malformed.
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
    """Return the list *value* without entries for users and groups that the server's user namespace does not map.

    No process in the namespace can have these ids. The kernel rejects a list that contains them, and the file could not
    be opened.
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
