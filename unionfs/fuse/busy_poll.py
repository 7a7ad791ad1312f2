"""Decide whether the server polls for the next request without sleeping (busy polling). Pure.

Waking a sleeping processor costs several times as much as answering a request, and requests come in bursts. But a polling
server occupies a processor that another process could use, perhaps the client itself.

Client and server can also take turns on one processor. Then no processor has to be woken, and the next request is there
when the last one has been answered. Polling would end this, because the scheduler moves one of the two to another
processor. Therefore polling is suspended from time to time, to give both the chance to settle on one processor
(docs/unionfs/speed.md).
"""

from __future__ import annotations

#: Polls before sleeping: about 90 us. In this time a client on another processor wakes up and sends its next request.
SPINS = 300
#: Number of waits in a measurement. If fewer than half of them ended while polling, polling pauses.
_TRIAL = 32
#: Length of the pause, in waits. It doubles each time that polling fails to pay again, up to the longest pause.
_REST = 64
_LONGEST_REST = 4096
#: Requests between two calls of :meth:`BusyPoll.passed`.
WINDOW = 32
#: Length of a pause, in waits, that gives client and server the chance to share a processor. One follows each idle time.
#: More follow after a number of windows, which doubles each time up to the maximum.
_TRY = 16
_WINDOWS_PER_TRY = 64
_MOST_WINDOWS_PER_TRY = 1024


class BusyPoll:
    """Decides from recent hits and misses whether to poll."""

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
        """Poll *spins* times per wait; 0 on a machine with one processor, where no client can run while the server polls."""
        self._spins = spins
        self._trials = self._hits = self._resting = 0
        self._waits = self._windows = 0
        self._windows_per_try = _WINDOWS_PER_TRY
        self._rest = _REST

    def passed(self) -> None:
        """Count :data:`WINDOW` more answered requests."""
        if self._waits * 2 < WINDOW:
            # For most requests the server did not have to wait: client and server may share a processor. Do not disturb that.
            self._resting = max(self._resting, WINDOW)
            self._windows, self._windows_per_try = 0, _WINDOWS_PER_TRY
        else:
            self._windows += 1
            if self._windows >= self._windows_per_try:
                self._windows_per_try = min(self._windows_per_try * 2, _MOST_WINDOWS_PER_TRY)
                self.idle()
        self._waits = 0

    def idle(self) -> None:
        """Note that no request came for a while. The client may send the next one from this processor, so polling pauses."""
        self._resting = max(self._resting, _TRY)
        self._windows = 0

    def times(self) -> int:
        """Return how many times to poll in the wait that begins now."""
        self._waits += 1
        if self._resting:
            self._resting -= 1
            return 0
        return self._spins

    def judge(self, *, hit: bool) -> None:
        """Record whether a wait ended while polling (*hit*); called for waits in which :meth:`times` was not 0."""
        self._trials += 1
        self._hits += hit
        if self._trials >= _TRIAL:
            if self._hits * 2 >= self._trials:
                self._rest = _REST
            else:
                self._resting = self._rest
                self._rest = min(self._rest * 2, _LONGEST_REST)
            self._trials = self._hits = 0
