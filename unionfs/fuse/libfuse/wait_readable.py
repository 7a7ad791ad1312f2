"""Waiting for requests: awake for a moment, then lightly asleep, and only then parked in trio.

A request costs a wake-up of a sleeping processor and a round through trio's scheduler, together several times what
answering it costs. Requests come in bursts, so after one the server looks for the next by itself: a few polls without
sleeping, then one of a millisecond, and only when nothing came does it hand the wait to trio, which costs nothing while
idle. trio still runs everything else: it gets a checkpoint each millisecond or 64 requests.

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

#: Seconds between two ticks while requests come. pyfuse3 reads a blocking descriptor with the interpreter's lock
#: held; a client that is killed between readiness and read takes its request along, and the read waits for the
#: next one. A signal ends the wait (EINTR).
_TICK = 0.02
#: Milliseconds of the poll that sleeps.
_NAP = 1
_REQUESTS_PER_CHECKPOINT = 64
_SECONDS_PER_CHECKPOINT = 0.001


class RequestWait:
    """Stands in for ``trio.lowlevel`` in pyfuse3."""

    def __init__(self, *, spins: int | None = None, after_first: Callable[[], None] | None = None) -> None:
        """Wait for requests.

        Args:
            spins: times to look before sleeping; None finds out: not at all on one processor, where nobody would
                answer.
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
        #: Waits that ended while spinning, while napping, and in trio; for the statistics.
        self.spun = self.napped = self.parked = 0

    def __getattr__(self, name: str) -> object:
        """Be ``trio.lowlevel`` in everything else."""
        return getattr(trio.lowlevel, name)

    def notify_closing(self, fd: int) -> None:
        """Learn that the session is to end; a wait that is not parked would not be told."""
        self._closed = True
        trio.lowlevel.notify_closing(fd)

    async def wait_readable(self, fd: int) -> None:
        """Wait until a request can be read from *fd*.

        Raises:
            trio.ClosedResourceError: the session is to end.
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
    """Stands in for the lock around the wait: there is one worker, and no handler waits for anything."""

    async def __aenter__(self) -> None:
        """Have it at once."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go."""


class TrioForPyfuse3:
    """What pyfuse3 sees as its module ``trio``."""

    Lock = _NoLock

    def __init__(self, after_first: Callable[[], None]) -> None:
        """Wait as :class:`RequestWait` does."""
        self.lowlevel = RequestWait(after_first=after_first)

    def __getattr__(self, name: str) -> object:
        """Be trio in everything else."""
        return getattr(trio, name)


def ignore_tick(_signum: int, _frame: FrameType | None) -> None:
    """Interrupt a blocking read; that is all the tick is for."""
