"""Inode numbers: one number for one object, from the first lookup over copy-up to the next mount. Pure.

The number that the kernel gets is the device of the object, as a small index in order of appearance, above the
object's own inode number. The devices of the layers are announced bottom first, so a layer added on top changes
no number. What does not fit (inode numbers of 2**48 and above: another union as a layer, file systems that use all
bits) is spread over a range of its own, in which two objects meet once in 2**61 times; the second one of such a pair,
and what lies on another device (a mount point that a layer is told to cross), gets a number of this mount only.
"""

from __future__ import annotations

from unionfs.types import Ino

_INODE_BITS = 48
_INODE_LIMIT = 1 << _INODE_BITS
#: Numbers spread from larger ones; then those given out for this mount only. Both are above those of every device.
_SPREAD_BASE = 1 << 62
_SPREAD_BITS = 61
_FRESH_BASE = _SPREAD_BASE + (1 << _SPREAD_BITS)
_MAX_DEVICES = (_SPREAD_BASE >> _INODE_BITS) - 1
_WORD = (1 << 64) - 1

#: An object on disk: (st_dev, st_ino).
Identity = tuple[int, int]


class InodeNumbers:
    """Turns identities on disk into inode numbers of the mount."""

    def __init__(self) -> None:
        """Start with no device known."""
        self._devices: dict[int, int] = {}
        self._announced = 0
        self._overflow: dict[Identity, Ino] = {}
        self._spread: set[Ino] = set()
        self._next_fresh = _FRESH_BASE

    def announce(self, device: int) -> int:
        """Give *device* the next index unless it has one; returns it. Call it bottom layer first, before numbering."""
        index = self._devices.setdefault(device, len(self._devices))
        self._announced = len(self._devices)
        return index

    def lasts(self, ino: int) -> bool:
        """Tell whether *ino* means the same object at the next mount of the same layers."""
        return _INODE_LIMIT <= ino < (self._announced + 1) << _INODE_BITS or _SPREAD_BASE <= ino < _FRESH_BASE

    def number(self, identity: Identity) -> Ino:
        """Return the number of the object *identity*: the same at each call, no other object's, never 0 or 1."""
        device, inode = identity
        index = self._devices.get(device)
        if index is None:
            index = self._devices[device] = len(self._devices)
        if 0 < inode < _INODE_LIMIT and index < _MAX_DEVICES:
            return Ino(((index + 1) << _INODE_BITS) | inode)
        known = self._overflow.get(identity)
        if known is None:
            known = self._overflow[identity] = self._large(index, inode)
        return known

    def _large(self, index: int, inode: int) -> Ino:
        if index < self._announced:
            number = Ino(_SPREAD_BASE + _spread(index, inode))
            if number not in self._spread:
                self._spread.add(number)
                return number
        return self.fresh()

    def fresh(self) -> Ino:
        """Return a number that no object has: for one whose proper number is taken."""
        self._next_fresh += 1
        return Ino(self._next_fresh)


def _spread(index: int, inode: int) -> int:
    """Mix the bits, so that any of them tell objects apart: the finalizer of SplitMix64, which loses nothing of 64."""
    word = (inode + (index + 1) * 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return (word ^ (word >> 31)) >> (64 - _SPREAD_BITS)
