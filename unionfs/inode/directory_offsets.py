"""The offsets of a directory's entries, shared by all streams of it: nothing is kept for each reader. Pure.

POSIX has what is there all along reported exactly once, however the rest changes, and telldir(3) give places that stay
good. So a name gets a number when it is first seen and keeps it until it is seen to have gone; a new name comes last,
also one that was there before.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence


class DirectoryOffsets:
    """The names of one directory, each with its number: in order, from 0 on, never given twice."""

    __slots__ = ("_names", "_next", "_numbers")

    def __init__(self) -> None:
        """Start without names."""
        self._names: list[bytes] = []
        #: A range as long as nothing has gone, which takes no memory.
        self._numbers: Sequence[int] = range(0)
        self._next = 0

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._names)

    def update(self, names: Collection[bytes]) -> None:
        """Take note that the directory has just *names*, each once."""
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
        """Yield each name that has *number* or a later one, with its number; not to be used over an update."""
        names, numbers = self._names, self._numbers
        for at in range(bisect_left(numbers, number), len(names)):
            yield names[at], numbers[at]
