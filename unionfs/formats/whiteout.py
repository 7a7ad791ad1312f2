"""Whiteouts, opaque marks and private attributes: how layers on disk say that something is gone. Pure codecs.

Formats, each a property of a layer (DESIGN "Formats", Corrections 11):

* overlay: a character device 0:0 named like the deleted entry; ``{trusted,user}.overlay.opaque=y`` on a
  directory (kernel, Documentation/filesystems/overlayfs.rst); a zero-size file with
  ``{trusted,user}.overlay.whiteout`` in a directory whose opaque value is ``x``;
  ``user.fuseoverlayfs.opaque=y`` (fuse-overlayfs).
* aufs: an empty file ``.wh.NAME``; ``.wh..wh..opq`` makes its directory opaque (OCI image-spec layer.md,
  "Whiteouts"). These hide names of *lower* layers only, never of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from unionfs._stdlib.dataclasses import dataclass
from unionfs.types import Mark

WH_PREFIX = b".wh."
WH_OPAQUE = b".wh..wh..opq"
#: Names of AUFS's own bookkeeping (``.wh..wh.plnk`` ...): neither entries nor whiteouts.
WH_META_PREFIX = b".wh..wh."
#: Longest file name of the file systems that matter (NAME_MAX, limits.h).
NAME_MAX = 255


class WhiteoutFormat(Enum):
    """The form in which a writable layer records deletions."""

    OVERLAY = "overlay"
    AUFS = "aufs"


class Raw(Enum):
    """What a directory entry is before marks are read: as much as ``d_type`` and, for devices, a stat tells."""

    DIRECTORY = "directory"
    NULL_DEVICE = "null-device"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class MarkPolicy:
    """Which marks are honoured when a layer is read. A plain directory has none: there every name is just a
    name.
    """

    overlay: bool
    aufs: bool
    #: Directories may be marked as moved here from elsewhere in the layers below (``redirect``).
    redirect: bool = False
    #: Files may be marked as having their contents in a layer below (``metacopy``).
    metacopy: bool = False
    #: Owner, mode and type may be kept in an attribute (``override_stat``).
    override_stat: bool = False
    #: ``redirect`` and ``metacopy`` count as ``user.*`` attributes, too, which anybody may have set; those of
    #: ``trusted.*`` only root can have.
    user_marks: bool = True

    @property
    def any(self) -> bool:
        """Tell whether the layer may hold whiteouts or opaque marks at all."""
        return self.overlay or self.aufs


NO_MARKS = MarkPolicy(overlay=False, aufs=False)
ALL_MARKS = MarkPolicy(overlay=True, aufs=True)
#: For layers that unionfs wrote itself. Anybody can put such attributes into a tar, where they would show files
#: of other layers under names and modes of the tar's choice (Corrections 11).
TRUSTED_MARKS = MarkPolicy(overlay=True, aufs=True, redirect=True, metacopy=True, override_stat=True)


def is_reserved_name(name: bytes, policy: MarkPolicy) -> bool:
    """Tell whether *name* cannot be an ordinary entry of a layer that is read under *policy*."""
    return policy.aufs and name.startswith(WH_PREFIX)


def whiteout_name(name: bytes) -> bytes:
    """Return the ``.wh.`` form of *name*.

    Raises:
        ValueError: the result is longer than a file name may be (names of 252 to 255 bytes).
    """
    marked = WH_PREFIX + name
    if len(marked) > NAME_MAX:
        raise ValueError(f"no .wh. form of a name of {len(name)} bytes")
    return marked


def decode(raw: Iterable[tuple[bytes, Raw]], policy: MarkPolicy) -> tuple[dict[bytes, Mark], bool]:
    """Turn the raw entries of one directory of one layer into marks.

    Returns the marks by name, and whether a ``.wh..wh..opq`` makes the directory opaque. The order of the
    entries does not matter: ``.wh.x`` beside an ``x`` of the same layer hides only the ``x`` below, so a
    directory ``x`` is then opaque.
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
