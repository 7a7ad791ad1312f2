"""Inode numbers: an object keeps its number from the first lookup, over copy-up, to the next mount. Pure.

The high bits of the number that the kernel gets are the object's device, as a small index in order of appearance. The low bits
are the object's own inode number. The devices of the layers are announced bottom first, so an additional layer on top changes
no number.

Inode numbers of 2**48 and above do not fit: those of another union as a layer, or of file systems that use all bits. They are
hashed into a range of their own, in which two objects collide once in 2**61 times. The second object of a collision gets a
number that is valid for this mount only. So does an object with such a number on a device that was not announced (a mount point
that a layer is configured to cross).
"""

from __future__ import annotations

from unionfs.types import Ino

_INODE_BITS = 48
_INODE_LIMIT = 1 << _INODE_BITS
#: The start of the range for hashed numbers, then of the range for numbers of this mount only. Both are above those of every
#: device.
_SPREAD_BASE = 1 << 62
_SPREAD_BITS = 61
_FRESH_BASE = _SPREAD_BASE + (1 << _SPREAD_BITS)
_MAX_DEVICES = (_SPREAD_BASE >> _INODE_BITS) - 1
_WORD = (1 << 64) - 1

#: The identity of an object on disk: (st_dev, st_ino).
Identity = tuple[int, int]


class InodeNumbers:
    """Converts identities on disk to inode numbers of the mount. Each `InodeTable` has one."""

    def __init__(self) -> None:
        """Start with no device known."""
        self._devices: dict[int, int] = {}
        self._announced = 0
        self._overflow: dict[Identity, Ino] = {}
        self._spread: set[Ino] = set()
        self._next_fresh = _FRESH_BASE

    def announce(self, device: int) -> int:
        """Assign the next index to *device*, unless it has one, and return its index. Call it for the bottom layer first, and
        before `number`.
        """
        index = self._devices.setdefault(device, len(self._devices))
        self._announced = len(self._devices)
        return index

    def lasts(self, ino: int) -> bool:
        """Return whether *ino* identifies the same object at the next mount of the same layers."""
        return _INODE_LIMIT <= ino < (self._announced + 1) << _INODE_BITS or _SPREAD_BASE <= ino < _FRESH_BASE

    def number(self, identity: Identity) -> Ino:
        """Return the number of the object *identity*: the same at each call, different from any other object's, never 0 or 1."""
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
        """Return an unused number, for an object whose regular number is taken."""
        self._next_fresh += 1
        return Ino(self._next_fresh)


def _spread(index: int, inode: int) -> int:
    """Mix the bits with the finalizer of SplitMix64, a bijection on 64 bits, so that any subset of the bits tells objects
    apart.
    """
    word = (inode + (index + 1) * 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return (word ^ (word >> 31)) >> (64 - _SPREAD_BITS)
