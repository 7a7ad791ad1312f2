"""Stable offsets of a directory's entries, shared by all its streams, so that no reader needs state of its own. Pure.

POSIX requires that an entry which stays in the directory is reported exactly once, whatever else changes, and that positions of
telldir(3) stay valid. Therefore a name gets a number when it is first seen, and keeps it until an update finds the name gone. A
new name gets the highest number, even if the directory had that name before.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence


class DirectoryOffsets:
    """The names of one directory, each with its number. Numbers ascend from 0, and none is assigned twice."""

    __slots__ = ("_names", "_next", "_numbers")

    def __init__(self) -> None:
        """Start without names."""
        self._names: list[bytes] = []
        #: A range, which needs no memory, as long as no name has gone.
        self._numbers: Sequence[int] = range(0)
        self._next = 0

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._names)

    def update(self, names: Collection[bytes]) -> None:
        """Record that the directory now has exactly *names*, each once."""
        known = set(self._names)
        new = [name for name in names if name not in known] if known else list(names)
        if len(known) + len(new) > len(names):
            there = set(names)
            kept = [
                (name, number)
                for name, number in zip(self._names, self._numbers, strict=True)
                if name in there
            ]
            self._names = [name for name, _ in kept]
            self._numbers = array("Q", [number for _, number in kept])
        if not new:
            return
        end = self._next + len(new)
        if isinstance(self._numbers, range) or not self._names:
            self._numbers = range(end - len(new) - len(self._names), end)
        else:
            numbers = array("Q", self._numbers)
            numbers.extend(range(self._next, end))
            self._numbers = numbers
        self._names += new
        self._next = end

    def since(self, number: int) -> Iterator[tuple[bytes, int]]:
        """Yield each name whose number is *number* or higher, with its number. Do not call `update` during the iteration."""
        names, numbers = self._names, self._numbers
        for at in range(bisect_left(numbers, number), len(names)):
            yield names[at], numbers[at]
