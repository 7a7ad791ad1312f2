"""Decode extended attributes from pax records, select those that an archive may set, and set them."""

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
"""The most bytes of one value: XATTR_SIZE_MAX of linux/limits.h, above which setxattr(2) fails with E2BIG."""

_KEPT = 1 << 25  # bytes of memory for all attributes that are kept
_COST = 200  # bytes of memory that Python needs for an attribute besides its name and value

# Attributes that union file systems use for their own state: an archive that sets them could forge that state.
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
"""Failures of setxattr(2) after which the attribute is left out: its namespace, the errno, and the reason why that is safe.

Access control lists are not among them: the mode alone would grant more than the archive does.
"""

_RAW = b"SCHILY.xattr."  # written by star and GNU tar
_ENCODED = b"LIBARCHIVE.xattr."  # names with %XX, values in base64
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


class AttributeRefusedError(Exception):
    """An attribute cannot be decoded or set; the text names it and the reason."""


class SharedAttributes:
    """Sets of extended attributes that are kept in memory. Equal ones are stored once: real archives have few different ones."""

    def __init__(self, of: str = "") -> None:
        """Start with none. *of* says in messages what has the attributes."""
        self._of = of
        self._known: dict[tuple[tuple[bytes, bytes], ...], Mapping[bytes, bytes]] = {}
        self._size = 0

    def share(self, xattrs: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """Return the mapping that is kept for all sets equal to *xattrs*.

        Raises:
            AttributeRefusedError: all sets together take more than 32 MiB.
        """
        kept = self._known.setdefault(tuple(sorted(xattrs.items())), xattrs)
        if kept is xattrs:
            self._size += sum(len(name) + len(value) + _COST for name, value in xattrs.items())
            if self._size > _KEPT:
                raise AttributeRefusedError(
                    f"the extended attributes{self._of} take more than {_KEPT >> 20} MiB of memory"
                )
        return kept


def is_unpacked(name: bytes) -> bool:
    """Tell whether an archive may set the attribute *name*; all others are left out."""
    return (name.startswith(b"user.") and not name.startswith(_MARKS)) or name == _CAPABILITY or name in ACLS


def attribute_of(key: bytes) -> bytes | None:
    """Return the name of the attribute that the pax record *key* sets; None for any other record.

    Raises:
        AttributeRefusedError: the name is empty or contains a zero byte.
    """
    if key.startswith(_RAW):
        # GNU tar encodes "=" and "%" in keys (xattrs.c, xattr_encode_keyword).
        name = key[len(_RAW) :].replace(b"%3D", b"=").replace(b"%25", b"%")
    elif key.startswith(_ENCODED):
        name = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), key[len(_ENCODED) :])
    else:
        return None
    if not name or b"\0" in name:
        raise AttributeRefusedError("an extended attribute whose name is empty or contains a zero byte")
    return name


def decode(records: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], tuple[bytes, ...]]:
    """Return the attributes in the *records* of a pax header that are taken, and the names of those that are left out.

    If an attribute has both a raw and a base64 record, the raw one is used.

    Raises:
        AttributeRefusedError: a name is invalid; a value is not base64, or has more than VALUE_LIMIT bytes.
    """
    found: dict[bytes, bytes] = {}
    left_out: dict[bytes, None] = {}
    for key, value in records.items():
        name = attribute_of(key)
        if name is None:
            continue
        if not is_unpacked(name):
            left_out[name] = None
        elif key.startswith(_RAW):
            found[name] = value
        elif name not in found:
            try:
                # libarchive omits the padding.
                found[name] = a2b_base64(value + b"=" * (-len(value) % 4))
            except Base64Error:
                raise AttributeRefusedError(f"attribute {printable(name)} is not valid base64") from None
    for name, value in found.items():
        if len(value) > VALUE_LIMIT:
            raise AttributeRefusedError(
                f"its attribute {printable(name)} has {len(value)} bytes, more than the {VALUE_LIMIT} that Linux allows"
            )
    return found, tuple(left_out)


def set_attribute(target: int | bytes, name: bytes, value: bytes, *, follow: bool) -> bool:
    """Set the attribute *name* of *target*; return False if it could not be set but may safely be left out.

    Raises:
        AttributeRefusedError: the kernel or the file system rejects the attribute.
        OSError: any other failure, such as ENOSPC.
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
