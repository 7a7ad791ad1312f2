"""Whether it pays to look for the next request again and again before sleeping. Pure.

A wake-up of a sleeping processor costs several times what answering a request does, and requests come in bursts.
"""

from __future__ import annotations

#: Times to look before sleeping: some tens of microseconds, about one wake-up.
SPINS = 40
#: Of so many waits, spinning must have spared at least a third a sleep, or it pauses for as many.
_TRIAL = 64


class Spinning:
    """Judges it by what it has brought of late."""

    __slots__ = ("_hits", "_resting", "_spins", "_trials")

    def __init__(self, spins: int = SPINS) -> None:
        """Look *spins* times; 0 for one processor alone, where nobody would ask meanwhile."""
        self._spins = spins
        self._trials = self._hits = self._resting = 0

    def times(self) -> int:
        """Return how many times to look in the wait that begins."""
        if self._resting:
            self._resting -= 1
            return 0
        return self._spins

    def judge(self, *, hit: bool) -> None:
        """Learn whether a wait in which :meth:`times` was not 0 ended while looking."""
        self._trials += 1
        self._hits += hit
        if self._trials >= _TRIAL:
            if self._hits * 3 < self._trials:
                self._resting = _TRIAL
            self._trials = self._hits = 0
