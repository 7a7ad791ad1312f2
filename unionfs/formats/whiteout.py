"""Whiteouts and opaque marks: how layers on disk record that a name is deleted. Pure codecs.

The format is a property of the layer:

* overlay: a character device 0:0 with the name of the deleted entry; ``{trusted,user}.overlay.opaque=y`` on a directory
  (kernel, Documentation/filesystems/overlayfs.rst); a zero-size file with ``{trusted,user}.overlay.whiteout`` in a
  directory whose opaque value is ``x``; ``user.fuseoverlayfs.opaque=y`` (fuse-overlayfs).
* aufs: an empty file ``.wh.NAME``; ``.wh..wh..opq`` makes its directory opaque (OCI image-spec layer.md, "Whiteouts").
  These hide names of *lower* layers only, never of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from unionfs._stdlib.dataclasses import dataclass
from unionfs.types import Mark

WH_PREFIX = b".wh."
WH_OPAQUE = b".wh..wh..opq"
#: Names that AUFS uses for its own records (``.wh..wh.plnk`` ...): neither entries nor whiteouts.
WH_META_PREFIX = b".wh..wh."
#: The longest file name of common Linux file systems, in bytes (NAME_MAX, limits.h).
NAME_MAX = 255


class WhiteoutFormat(Enum):
    """The form in which a writable layer records deletions."""

    OVERLAY = "overlay"
    AUFS = "aufs"


class Raw(Enum):
    """The type of a directory entry before marks are read, as ``d_type`` and, for devices, a stat report it."""

    DIRECTORY = "directory"
    NULL_DEVICE = "null-device"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class MarkPolicy:
    """The marks that are honoured when a layer is read. A plain directory has none: there every name is an ordinary entry."""

    overlay: bool
    aufs: bool
    #: A directory may have a mark that it was moved here from another path of the layers below (``redirect``).
    redirect: bool = False
    #: A file may have a mark that its contents are in a layer below (``metacopy``).
    metacopy: bool = False
    #: Owner, mode and type may be stored in an attribute (``override_stat``).
    override_stat: bool = False
    #: ``redirect`` and ``metacopy`` also count as ``user.*`` attributes, which any user may set. Only root can set
    #: those of ``trusted.*``.
    user_marks: bool = True

    @property
    def any(self) -> bool:
        """Return whether the layer may contain whiteouts or opaque marks at all."""
        return self.overlay or self.aufs


NO_MARKS = MarkPolicy(overlay=False, aufs=False)
ALL_MARKS = MarkPolicy(overlay=True, aufs=True)
#: For layers that unionfs wrote itself. A tar archive may contain any such attributes, and they would show files of
#: other layers under names and modes of its choice.
TRUSTED_MARKS = MarkPolicy(overlay=True, aufs=True, redirect=True, metacopy=True, override_stat=True)


def is_reserved_name(name: bytes, policy: MarkPolicy) -> bool:
    """Return whether *name* cannot be an ordinary entry of a layer that is read under *policy*."""
    return policy.aufs and name.startswith(WH_PREFIX)


def whiteout_name(name: bytes) -> bytes:
    """Return the ``.wh.`` form of *name*.

    Raises:
        ValueError: the result exceeds the maximum length of a file name (names of 252 to 255 bytes).
    """
    marked = WH_PREFIX + name
    if len(marked) > NAME_MAX:
        raise ValueError(f"a name of {len(name)} bytes is too long for a .wh. name")
    return marked


def decode(raw: Iterable[tuple[bytes, Raw]], policy: MarkPolicy) -> tuple[dict[bytes, Mark], bool]:
    """Convert the raw entries of one directory of one layer to marks.

    Returns the marks by name, and whether a ``.wh..wh..opq`` makes the directory opaque. The order of the entries does
    not matter. ``.wh.x`` beside an ``x`` of the same layer hides only the ``x`` below, so a directory ``x`` is then
    opaque.
    """
    entries: dict[bytes, Mark] = {}
    hidden_below: list[bytes] = []
    opaque = False
    for name, kind in raw:
        if policy.aufs and name.startswith(WH_PREFIX):
            if name == WH_OPAQUE:
                opaque = True
            elif not name.startswith(WH_META_PREFIX) and len(name) > len(WH_PREFIX):
                hidden_below.append(name[len(WH_PREFIX) :])
        elif kind is Raw.DIRECTORY:
            entries[name] = Mark.DIRECTORY
        elif kind is Raw.NULL_DEVICE and policy.overlay:
            entries[name] = Mark.WHITEOUT
        else:
            entries[name] = Mark.OTHER
    for name in hidden_below:
        own = entries.get(name)
        if own is None:
            entries[name] = Mark.WHITEOUT
        elif own is Mark.DIRECTORY:
            entries[name] = Mark.OPAQUE_DIRECTORY
    return entries, opaque
