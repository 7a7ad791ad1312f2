"""Whether it pays to look for the next request again and again before sleeping. Pure.

A wake-up of a sleeping processor costs several times what answering a request does, and requests come in bursts. But who
looks takes a processor from somebody else, perhaps from whoever would ask. Where client and server take turns on one
processor, nothing has to be woken, and the next request is there when the last has been answered; looking would end that, as
the scheduler moves one of the two away. So now and then it is tried whether they come to do so if nobody looks (SPEED.md).
"""

from __future__ import annotations

#: Times to look before sleeping: some ninety microseconds, in which who was answered on another processor wakes up and asks again.
SPINS = 300
#: Of so many waits, half must have ended while looking, or it pauses.
_TRIAL = 32
#: For so many waits at first, and twice as many each time that it has not paid again.
_REST = 64
_LONGEST_REST = 4096
#: Requests between two calls of :meth:`BusyPoll.passed`.
WINDOW = 32
#: For so many waits it is tried without: after an idle time, and after so many windows, twice as many each time that it was for nothing.
_TRY = 16
_WINDOWS_PER_TRY = 64
_MOST_WINDOWS_PER_TRY = 1024


class BusyPoll:
    """Judges it by what it has brought of late."""

    __slots__ = (
        "_hits",
        "_rest",
        "_resting",
        "_spins",
        "_trials",
        "_waits",
        "_windows",
        "_windows_per_try",
    )

    def __init__(self, spins: int = SPINS) -> None:
        """Look *spins* times; 0 for one processor alone, where nobody would ask meanwhile."""
        self._spins = spins
        self._trials = self._hits = self._resting = 0
        self._waits = self._windows = 0
        self._windows_per_try = _WINDOWS_PER_TRY
        self._rest = _REST

    def passed(self) -> None:
        """Learn that :data:`WINDOW` requests more have been answered."""
        if self._waits * 2 < WINDOW:
            # Most were there without waiting. That is not to be disturbed.
            self._resting = max(self._resting, WINDOW)
            self._windows, self._windows_per_try = 0, _WINDOWS_PER_TRY
        else:
            self._windows += 1
            if self._windows >= self._windows_per_try:
                self._windows_per_try = min(self._windows_per_try * 2, _MOST_WINDOWS_PER_TRY)
                self.idle()
        self._waits = 0

    def idle(self) -> None:
        """Learn that nothing came for a while: who asks next may do so on this processor."""
        self._resting = max(self._resting, _TRY)
        self._windows = 0

    def times(self) -> int:
        """Return how many times to look in the wait that begins."""
        self._waits += 1
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
