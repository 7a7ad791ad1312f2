"""Extended attributes of archives: which are taken, how records of pax spell them, and how they are set."""

from __future__ import annotations

import errno
import os
import re
from binascii import Error as Base64Error
from binascii import a2b_base64

from sandbox.images.names import printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VALUE_LIMIT = 1 << 16
"""Bytes of one value: XATTR_SIZE_MAX of linux/limits.h, beyond which setxattr(2) fails with E2BIG."""

# Attributes by which union file systems recognise their own: an archive that sets them would speak in their name.
_MARKS = (
    b"user.overlay.",
    b"user.fuseoverlayfs.",
    b"user.unionfs.",
    b"user.containers.override_",
)
ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_CAPABILITY = b"security.capability"

_TOLERATED: Mapping[tuple[bytes, int], str] = {
    (
        b"user",
        errno.ENOTSUP,
    ): "the file system has none (tmpfs before Linux 6.6); no program fails to start for it",
    (
        b"user",
        errno.EPERM,
    ): "only files and directories can have them (xattr(7)); other systems' archives may differ",
    (b"security", errno.ENOTSUP): "the file system has none; the program gets fewer capabilities, never more",
    (b"security", errno.EPERM): "no CAP_SETFCAP, as in some containers; likewise",
}
"""Failures of setxattr(2) that leave the attribute out: namespace of the attribute and errno, and why that is right. Not
among them are access control lists, without which the mode would allow more than the archive does."""

_RAW = b"SCHILY.xattr."  # of star and GNU tar
_ENCODED = b"LIBARCHIVE.xattr."  # names with %XX, values in base 64
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


class AttributeRefusedError(Exception):
    """An attribute that cannot be read or set; the text says which and why."""


def is_taken(name: bytes) -> bool:
    """Tell whether an archive may set the attribute *name*; all others are left out."""
    return (name.startswith(b"user.") and not name.startswith(_MARKS)) or name == _CAPABILITY or name in ACLS


def attribute_of(key: bytes) -> bytes | None:
    """Return the name of the attribute that the record *key* of a pax header is about; None for any other record.

    Raises:
        AttributeRefusedError: the name is empty or holds a zero byte.
    """
    if key.startswith(_RAW):
        # GNU tar writes the characters that end a key so (xattrs.c, xattr_encode_keyword).
        name = key[len(_RAW) :].replace(b"%3D", b"=").replace(b"%25", b"%")
    elif key.startswith(_ENCODED):
        name = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), key[len(_ENCODED) :])
    else:
        return None
    if not name or b"\0" in name:
        raise AttributeRefusedError("an extended attribute whose name is empty or holds a zero byte")
    return name


def decode(records: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], tuple[bytes, ...]]:
    """Return the attributes that are taken of the *records* of a pax header, and the names of those that are left out.

    Where a value is there in both forms, the raw one wins.

    Raises:
        AttributeRefusedError: a name is impossible; a value is not in base 64, or has more than VALUE_LIMIT bytes.
    """
    found: dict[bytes, bytes] = {}
    left_out: dict[bytes, None] = {}
    for key, value in records.items():
        name = attribute_of(key)
        if name is None:
            continue
        if not is_taken(name):
            left_out[name] = None
        elif key.startswith(_RAW):
            found[name] = value
        elif name not in found:
            try:
                found[name] = a2b_base64(
                    value + b"=" * (-len(value) % 4)
                )  # libarchive leaves out the padding
            except Base64Error:
                raise AttributeRefusedError(f"attribute {printable(name)} is not in base 64") from None
    for name, value in found.items():
        if len(value) > VALUE_LIMIT:
            raise AttributeRefusedError(
                f"its attribute {printable(name)} has {len(value)} bytes, where Linux takes up to {VALUE_LIMIT}"
            )
    return found, tuple(left_out)


def set_attribute(target: int | bytes, name: bytes, value: bytes, *, follow: bool) -> bool:
    """Set the attribute *name* of *target*; False if it is left out, because nothing depends on it here.

    Raises:
        AttributeRefusedError: Linux or the file system refuses it.
        OSError: the machine fails.
    """
    try:
        os.setxattr(target, name, value, follow_symlinks=follow)
    except OSError as error:
        if (name.partition(b".")[0], error.errno) in _TOLERATED:
            return False
        if error.errno in {errno.EINVAL, errno.ENOTSUP, errno.E2BIG, errno.ERANGE}:
            reason = (error.strerror or "").lower()
            raise AttributeRefusedError(f"its attribute {printable(name)} cannot be set: {reason}") from None
        raise
    return True
