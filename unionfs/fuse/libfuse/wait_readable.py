"""Wait for requests: poll first, then sleep for a millisecond in poll(2), and only then wait in trio.

A request costs a wake-up of a sleeping processor and a pass through trio's scheduler. Together they cost several times as
much as answering it. Requests come in bursts, so after each one the server waits for the next by itself: some polls without
sleeping, then one of a millisecond. Only if no request came does it wait in trio, which costs nothing while idle. trio
still runs everything else: it gets a checkpoint every millisecond or 64 requests.

pyfuse3 reaches trio through its module attribute ``trio``, which :mod:`pyfuse3.asyncio` replaces in the same way.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType

import trio

from unionfs.fuse.busy_poll import SPINS, BusyPoll

#: Seconds between two ticks while requests come. pyfuse3 reads a blocking descriptor and keeps the interpreter's lock. If a
#: client is killed between poll(2) and read(2), its request vanishes, and the read waits for the next one. The tick's
#: signal interrupts this read (EINTR).
_TICK = 0.02
#: Milliseconds of the poll(2) that sleeps.
_NAP = 1
_REQUESTS_PER_CHECKPOINT = 64
_SECONDS_PER_CHECKPOINT = 0.001


class RequestWait:
    """Replaces ``trio.lowlevel`` in pyfuse3. It owns the poll object and the tick timer."""

    def __init__(self, *, spins: int | None = None, after_first: Callable[[], None] | None = None) -> None:
        """Wait for requests.

        Args:
            spins: polls before sleeping; None: the default, or 0 on a machine with one processor, where no client can run
                meanwhile.
            after_first: called once, when the first request has been answered.
        """
        self._after_first = after_first
        self._started = False
        alone = len(os.sched_getaffinity(0)) == 1
        self._busy_poll = BusyPoll((0 if alone else SPINS) if spins is None else spins)
        self._poll: select.poll | None = None
        self._ticking = False
        self._closed = False
        self._since_checkpoint = 0
        self._checkpoint_at = 0.0
        #: Waits that ended while polling, in the short sleep, and in trio; for the statistics.
        self.spun = self.napped = self.parked = 0

    def __getattr__(self, name: str) -> object:
        """Return the attribute of ``trio.lowlevel``."""
        return getattr(trio.lowlevel, name)

    def notify_closing(self, fd: int) -> None:
        """Note that the session ends. trio would only notify a wait that is in trio."""
        self._closed = True
        trio.lowlevel.notify_closing(fd)

    async def wait_readable(self, fd: int) -> None:
        """Wait until a request can be read from *fd*.

        Raises:
            trio.ClosedResourceError: the session ends.
        """
        if self._after_first is not None and self._started:
            then, self._after_first = self._after_first, None
            then()
        self._started = True
        poll = self._poll
        if poll is None:
            poll = self._poll = select.poll()
            poll.register(fd, select.POLLIN)
        self._since_checkpoint += 1
        now = time.monotonic()
        if self._since_checkpoint >= _REQUESTS_PER_CHECKPOINT or now >= self._checkpoint_at:
            await trio.lowlevel.checkpoint()
            self._since_checkpoint = 0
            self._checkpoint_at = now + _SECONDS_PER_CHECKPOINT
        if self._closed:
            raise trio.ClosedResourceError
        if self._ticking and (self._spin(poll) or self._nap(poll)):
            return
        self._tick(on=False)
        await trio.lowlevel.wait_readable(fd)
        self._tick(on=True)
        self.parked += 1

    def _spin(self, poll: select.poll) -> bool:
        spins = self._busy_poll.times()
        if not spins:
            return False
        hit = any(poll.poll(0) for _ in range(spins))
        self._busy_poll.judge(hit=hit)
        self.spun += hit
        return hit

    def _nap(self, poll: select.poll) -> bool:
        if poll.poll(_NAP):
            self.napped += 1
            return True
        return False

    def _tick(self, *, on: bool) -> None:
        if self._ticking != on:
            interval = _TICK if on else 0
            signal.setitimer(signal.ITIMER_REAL, interval, interval)
            self._ticking = on


class _NoLock:
    """Replaces the lock around the wait: there is one worker, and no handler waits."""

    async def __aenter__(self) -> None:
        """Acquire nothing."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release nothing."""


class TrioForPyfuse3:
    """Replaces the module ``trio`` in pyfuse3."""

    Lock = _NoLock

    def __init__(self, after_first: Callable[[], None]) -> None:
        """Create the replacement of ``trio.lowlevel``; see :class:`RequestWait`."""
        self.lowlevel = RequestWait(after_first=after_first)

    def __getattr__(self, name: str) -> object:
        """Return the attribute of ``trio``."""
        return getattr(trio, name)


def ignore_tick(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing: the signal's only purpose is to interrupt a blocking read."""
