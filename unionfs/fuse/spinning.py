"""Whether it pays to look for the next request again and again before sleeping. Pure.

A wake-up of a sleeping processor costs several times what answering a request does, and requests come in bursts. But who
looks takes a processor from somebody else, perhaps from whoever would ask.
"""

from __future__ import annotations

#: Times to look before sleeping: some ninety microseconds, in which who was answered on another processor wakes up and asks again.
SPINS = 300
#: Of so many waits, half must have ended while looking, or it pauses.
_TRIAL = 32
#: For so many waits at first, and twice as many each time that it has not paid again.
_REST = 64
_LONGEST_REST = 4096


class Spinning:
    """Judges it by what it has brought of late."""

    __slots__ = ("_hits", "_rest", "_resting", "_spins", "_trials")

    def __init__(self, spins: int = SPINS) -> None:
        """Look *spins* times; 0 for one processor alone, where nobody would ask meanwhile."""
        self._spins = spins
        self._trials = self._hits = self._resting = 0
        self._rest = _REST

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
            if self._hits * 2 >= self._trials:
                self._rest = _REST
            else:
                self._resting = self._rest
                self._rest = min(self._rest * 2, _LONGEST_REST)
            self._trials = self._hits = 0
