"""The direct server's loop: reads requests from /dev/fuse, and answers them with :class:`~unionfs.fuse.direct.handlers.Handlers`.

The descriptor is non-blocking. If a client is killed between poll(2) and read(2), its request vanishes, and a blocking read
would hang. After each request the loop polls some times for the next one without sleeping, because it usually follows at
once. Then it sleeps in poll(2) until a request or a signal arrives, or the lifeline can be read. An idle server uses no
processor time.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal
import time
from collections.abc import Callable
from threading import Lock
from types import FrameType

from unionfs._stdlib.logging import LazyLogger
from unionfs._stdlib.typing import Self
from unionfs.errors import UnionError
from unionfs.fuse.busy_poll import SPINS, WINDOW, BusyPoll
from unionfs.fuse.direct.async_io import AsyncIo
from unionfs.fuse.direct.handlers import Handlers
from unionfs.fuse.lifeline import Lifeline
from unionfs.fuse.protocol import BUFFER, CONNECTION_ENDED, IN_HEADER, OUT_HEADER, Opcode
from unionfs.fuse.statistics import counters, report
from unionfs.options import Optimization
from unionfs.vfs.filesystem import UnionFs

log = LazyLogger(__name__)

#: An exception in the loop is a bug. After this many, the server gives up the mount.
_MAX_RESTARTS = 100
#: The loop checks the lifeline after this many requests, however busy the mount is.
_REQUESTS_PER_LOOK = 256
#: The reply that is deferred, because room may become free.
_FULL = -errno.ENOSPC
#: Requests that failed with ENOSPC are handled again after this many others, among which may be FORGETs that free room. At
#: most so many of them wait.
_REQUESTS_PER_RETRY = 64
_MOST_TO_RETRY = 16
#: Nanoseconds without a request after which the mount counts as idle.
_IDLE = 10_000_000
#: read(2) on /dev/fuse fails with these if the request has vanished, or after a signal.
_NOTHING_READ = frozenset((errno.EINTR, errno.ENOENT))
#: write(2) of a reply fails with these if the client of the request or the mount is gone.
_NOBODY_WAITS = CONNECTION_ENDED | {errno.ENOENT}


def serve(
    fs: UnionFs,
    fuse_fd: int,
    *,
    ending: frozenset[signal.Signals],
    on_ready: Callable[[], None],
    lifeline: Lifeline | None = None,
    callers_visible: bool = True,
    unopened: bool = False,
    disabled: frozenset[Optimization] = frozenset(),
) -> int:
    """Serve *fs* until it is unmounted or one of the signals *ending* arrives.

    Args:
        fs: closed at the end.
        fuse_fd: a mounted /dev/fuse; taken over.
        ending: signals that end the server; blocked before and after it serves.
        on_ready: called when the mount can be used.
        lifeline: handled when it can be read; the server also ends when its other end is closed.
        callers_visible: process ids in requests belong to this process's own pid namespace.
        unopened: do without OPEN and OPENDIR if the kernel supports that.
        disabled: optimizations to leave out, to measure their effect.

    Returns:
        The exit status: 0, or 1 if the server gave up after repeated failures of its loop.

    Raises:
        UnionError: the kernel is too old.
    """
    loop: _Loop | None = None
    try:
        os.set_blocking(fuse_fd, False)
        with _Signals(ending) as signals:
            loop = _Loop(
                fs,
                fuse_fd,
                signals,
                on_ready,
                lifeline,
                callers_visible=callers_visible,
                unopened=unopened,
                disabled=disabled,
            )
            for _ in range(_MAX_RESTARTS):
                try:
                    loop.run()
                except UnionError:
                    raise
                except Exception:
                    log.exception("the serving loop failed; it continues")
                else:
                    return 0
            return 1
    finally:
        if loop is None:
            os.close(fuse_fd)
        else:
            loop.close()
        fs.close()


class _Signals:
    """Records arrived signals, and has a descriptor that becomes readable when one arrives.

    As a context manager it installs the handlers and the wake-up descriptor, and restores the previous ones.
    """

    def __init__(self, ending: frozenset[signal.Signals]) -> None:
        self.ending = ending
        #: One of *ending* has arrived.
        self.ended = False
        #: SIGUSR1, which requests statistics, has arrived.
        self.statistics_requested = False
        self.fd = self._writer = -1
        self._before: dict[int, object] = {}
        self._wakeup_before = -1
        self._waking = Lock()

    def __enter__(self) -> Self:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (*self.ending, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._note)
        # The mounting process blocked these signals: a signal that kills the server would leave a dead mount behind.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.ending)
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self.ending)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup_before)
        with self._waking:
            os.close(self.fd)
            os.close(self._writer)
            self._writer = -1

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.statistics_requested = True
        else:
            self.ended = True

    def wake(self) -> None:
        """Make the descriptor readable; callable from any thread."""
        with self._waking:
            try:
                if self._writer >= 0:
                    os.write(self._writer, b"\0")
            except BlockingIOError:
                pass  # the pipe is full, hence readable

    def drain(self) -> None:
        """Empty the pipe, so that the descriptor is no longer readable."""
        try:
            while os.read(self.fd, 512):
                pass
        except BlockingIOError:
            pass


class _Loop:
    """Reads requests, passes them to the handlers, and writes the replies. It owns the /dev/fuse descriptor and the buffer."""

    def __init__(
        self,
        fs: UnionFs,
        fd: int,
        signals: _Signals,
        on_ready: Callable[[], None],
        lifeline: Lifeline | None,
        *,
        callers_visible: bool,
        unopened: bool,
        disabled: frozenset[Optimization],
    ) -> None:
        self._fs = fs
        self._fd = fd
        self._signals = signals
        self._on_ready: Callable[[], None] | None = on_ready
        # An anonymous mapping: its pages take memory only after a large request has been written into them.
        self._buffer = mmap.mmap(-1, BUFFER)
        self._view = memoryview(self._buffer)
        self._requests = Handlers(
            fs,
            self._view,
            connection=fd,
            callers_visible=callers_visible,
            unopened=unopened,
            disabled=disabled,
        )
        self._reply_lock = Lock()
        self._closed = False
        spins = 0 if len(os.sched_getaffinity(0)) == 1 or Optimization.SPIN in disabled else SPINS
        if Optimization.THREADS not in disabled:
            self._requests.async_io = AsyncIo(fs, self._send_async, signals.wake)
        self._async_io = self._requests.async_io
        #: Requests that failed with ENOSPC, and the number of other requests before they are handled again.
        self._full: list[bytes] = []
        self._until_retry = 0
        fs.prepare_copies()
        self._lifeline = lifeline
        self._ended = False
        self._busy_poll = BusyPoll(spins)
        self._spun = self._slept = 0
        self._poll = select.poll()
        self._control = select.poll()
        self._next = select.poll()
        self._next.register(fd, select.POLLIN)
        for watched in (fd, signals.fd):
            self._poll.register(watched, select.POLLIN)
        if lifeline is not None:
            for poll in (self._poll, self._control):
                poll.register(lifeline.fileno(), select.POLLIN)

    def answer(self, request: bytes) -> None:
        """Handle one request that was read earlier."""
        self._view[: len(request)] = request
        _, opcode, unique, ino, _, _, _, _, _ = IN_HEADER.unpack_from(self._view)
        reply = self._requests.answer(opcode, ino, len(request))
        if reply is not None:
            self._write(opcode, unique, reply)
        self._requests.answered()

    def run(self) -> None:
        """Serve until the mount, a signal or the lifeline ends the server."""
        fd, signals = self._fd, self._signals
        into, readv, unpack = [self._buffer], os.readv, IN_HEADER.unpack_from
        view = self._view
        answer, answered, reply_with = self._requests.answer, self._requests.answered, self._write
        ready = () if self._async_io is None else self._async_io.ready
        full = self._full
        look = _REQUESTS_PER_LOOK
        while not (signals.ended or self._ended):
            if signals.statistics_requested:
                signals.statistics_requested = False
                report(counters(self._fs, {**self._requests.requests, **self._counters()}), self._fs)
            if ready:
                self._resume()
            try:
                end = readv(fd, into)
            except BlockingIOError:
                if full:
                    self._retry()
                else:
                    self._wait()
                continue
            except OSError as error:
                if error.errno in CONNECTION_ENDED:
                    return
                if error.errno not in _NOTHING_READ:
                    raise
                continue
            _, opcode, unique, ino, _, _, _, _, _ = unpack(view)
            reply = answer(opcode, ino, end)
            if reply == _FULL and len(full) < _MOST_TO_RETRY:
                self._put_off(end)
            elif reply is not None:
                reply_with(opcode, unique, reply)
            answered()  # the client already runs meanwhile
            if full:
                self._until_retry -= 1
                if not self._until_retry:
                    self._retry()
            look -= 1
            if not look % WINDOW:
                self._busy_poll.passed()
                if not look:
                    look = _REQUESTS_PER_LOOK
                    self._look()

    def _counters(self) -> dict[str, int]:
        """Return how many waits ended while polling and while asleep, and how many requests threads handled."""
        return {
            "spun": self._spun,
            "slept": self._slept,
            "threaded": 0 if self._async_io is None else self._async_io.count,
        }

    def _resume(self) -> None:
        """Handle the requests again that were parked until contents were copied."""
        assert self._async_io is not None
        for request in self._async_io.resume():
            self.answer(request)

    def _put_off(self, end: int) -> None:
        """Defer the request that ends at *end* in the buffer, which failed with ENOSPC, and handle it again later.

        The space of a deleted file becomes free when the kernel forgets the inode. The kernel may send this FORGET after
        requests that were made later (fuse_dev_do_read). So a client that deletes a file on a full disk and writes another
        one succeeds, as on other file systems.
        """
        if not self._full:
            self._until_retry = _REQUESTS_PER_RETRY
        self._full.append(bytes(self._view[:end]))

    def _retry(self) -> None:
        """Handle the requests again that failed with ENOSPC, and send whatever reply results."""
        requests, self._full[:] = self._full[:], []
        self._fs.make_room()
        for request in requests:
            self.answer(request)

    def _put(self, unique: int, reply: bytes | memoryview | int) -> None:
        if isinstance(reply, int):
            os.write(self._fd, OUT_HEADER.pack(OUT_HEADER.size, reply, unique))
        else:
            os.writev(self._fd, (OUT_HEADER.pack(OUT_HEADER.size + len(reply), 0, unique), reply))

    def _send_async(self, unique: int, reply: bytes | memoryview | int) -> None:
        """Send a reply that contains no lookups and no handle; callable from any thread."""
        try:
            with self._reply_lock:
                if not self._closed:
                    self._put(unique, reply)
        except OSError as error:
            if error.errno not in _NOBODY_WAITS:
                log.warning("the kernel rejected an asynchronous reply: %s", error.strerror)

    def close(self) -> None:
        """Close /dev/fuse. Replies of threads are discarded from now on."""
        with self._reply_lock:
            self._closed = True
            os.close(self._fd)
        if self._async_io is not None:
            self._async_io.close()

    def _write(self, opcode: int, unique: int, reply: bytes | memoryview | int) -> None:
        try:
            self._put(unique, reply)
        except OSError as error:
            # With any other errno, the kernel rejected the reply, and the client gets an error (fuse_dev_do_write).
            if error.errno not in _NOBODY_WAITS:
                log.warning("the kernel rejected a reply to %s: %s", opcode, error.strerror)
            self._requests.take_back(opcode, reply)
            return
        if opcode == Opcode.INIT:
            if isinstance(reply, int):
                raise UnionError(
                    "the kernel has a FUSE version that the direct server does not support: use server=pyfuse3"
                )
            if self._on_ready is not None:
                then, self._on_ready = self._on_ready, None
                then()

    def _wait(self) -> None:
        """Poll for a request for a moment, if that pays, and then sleep until there is something to do."""
        spins = self._busy_poll.times()
        if spins:
            look = self._next.poll
            for _ in range(spins):
                if look(0):
                    self._busy_poll.judge(hit=True)
                    self._spun += 1
                    return
            self._busy_poll.judge(hit=False)
        self._slept += 1
        since = time.monotonic_ns()
        ready = {number for number, _ in self._poll.poll()}
        if time.monotonic_ns() - since > _IDLE:
            self._busy_poll.idle()
        if self._signals.fd in ready:
            self._signals.drain()
        if self._lifeline is not None and self._lifeline.fileno() in ready:
            self._ended = not self._lifeline.handle()

    def _look(self) -> None:
        """Handle the lifeline, if it can be read."""
        if self._lifeline is not None and self._control.poll(0):
            self._ended = not self._lifeline.handle()
