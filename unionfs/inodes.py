"""Inode numbers: one number for one object, from the first lookup over copy-up to the next mount. Pure.

The number that the kernel gets is the device of the object, as a small index in order of appearance, above the
object's own inode number. The devices of the layers are announced bottom first, so a layer added on top changes
no number. What lies on another device (a mount point that a layer is told to cross) has its index by the order
of first use, and what does not fit (inode numbers of 2**48 and above) gets a number from a range of its own, as
with kernel OverlayFS on an xino overflow: both kinds last for this mount only.
"""

from __future__ import annotations

from unionfs.types import Ino

_INODE_BITS = 48
_INODE_LIMIT = 1 << _INODE_BITS
#: Numbers given out for this mount only. Its top bit stays clear of every device index below.
_OVERFLOW_BASE = 1 << 62
_MAX_DEVICES = (_OVERFLOW_BASE >> _INODE_BITS) - 1

#: An object on disk: (st_dev, st_ino).
Identity = tuple[int, int]


class InodeNumbers:
    """Turns identities on disk into inode numbers of the mount."""

    def __init__(self) -> None:
        """Start with no device known."""
        self._devices: dict[int, int] = {}
        self._announced = 0
        self._overflow: dict[Identity, Ino] = {}
        self._next_overflow = _OVERFLOW_BASE

    def announce(self, device: int) -> int:
        """Give *device* the next index unless it has one; returns it. Call it bottom layer first, before numbering."""
        index = self._devices.setdefault(device, len(self._devices))
        self._announced = len(self._devices)
        return index

    def lasts(self, ino: int) -> bool:
        """Tell whether *ino* means the same object at the next mount of the same layers."""
        return _INODE_LIMIT <= ino < (self._announced + 1) << _INODE_BITS

    def number(self, identity: Identity) -> Ino:
        """Return the number of the object *identity*: the same at each call, no other object's, never 0 or 1."""
        device, inode = identity
        index = self._devices.get(device)
        if index is None:
            index = self._devices[device] = len(self._devices)
        if 0 < inode < _INODE_LIMIT and index < _MAX_DEVICES:
            return Ino(((index + 1) << _INODE_BITS) | inode)
        known = self._overflow.get(identity)
        return known if known is not None else self._remember(identity)

    def fresh(self) -> Ino:
        """Return a number that no object has: for one whose proper number is taken."""
        self._next_overflow += 1
        return Ino(self._next_overflow)

    def _remember(self, identity: Identity) -> Ino:
        number = self._overflow[identity] = self.fresh()
        return number
