"""The event loop of the network process: one thread, epoll(7), level-triggered, and deadlines."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Hashable

from unionfs._stdlib.typing import Generic, TypeVar

IN, OUT, ERROR, HANGUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP

Handler = Callable[[int], None]
"""Receives the EPOLL* bits of an event. Errors and hang-ups are always reported, also to a registration for nothing."""

NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) after which the connection still waits, so that epoll reports it again and again."""

_MOST_EVENTS = 128
_PAUSE = 0.1
_LINGER_0 = struct.pack("@ii", 1, 0)

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Keys that expire a fixed number of seconds after they were added or renewed, in order. Constant time for each call."""

    def __init__(self, seconds: float, on_expiry: Callable[[K], None]) -> None:
        """Call *on_expiry* with each key that expires; it has been removed by then."""
        self._seconds = seconds
        self._on_expiry = on_expiry
        self._times: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._times)

    def renew(self, key: K) -> None:
        """Let *key* expire a full period from now."""
        self._times.pop(key, None)
        self._times[key] = time.monotonic() + self._seconds

    def discard(self, key: K) -> None:
        """Forget *key*, if it is there."""
        self._times.pop(key, None)

    def oldest(self) -> K | None:
        """Return the key that expires first, None if there is none."""
        return next(iter(self._times), None)

    def next_time(self) -> float | None:
        """Return the time, on the clock of time.monotonic, at which the first key expires."""
        return next(iter(self._times.values()), None)

    def expire(self) -> None:
        """Expire the keys whose time has come."""
        now = time.monotonic()
        while self._times:
            key, at = next(iter(self._times.items()))
            if at > now:
                return
            del self._times[key]
            self._on_expiry(key)


class EventLoop:
    """Calls handlers for descriptors that are ready. Owns the epoll descriptor; sockets belong to their handlers."""

    def __init__(self) -> None:
        """Open the epoll descriptor."""
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._deadlines: list[Deadlines[object]] = []
        self._closing: list[socket.socket] = []
        self._running = False
        self._paused: Deadlines[tuple[int, int]] = self.add_deadlines(Deadlines(_PAUSE, self._resume))

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call *handler* when one of *events* is true of *fd*."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int, handler: Handler | None = None) -> None:
        """Replace the events, and the handler unless it is None, of the registered *fd*."""
        self._epoll.modify(fd, events)
        if handler is not None:
            self._handlers[fd] = handler

    def pause(self, fd: int, events: int) -> None:
        """Report no events of *fd* for a tenth of a second, and *events* again after that."""
        self._epoll.modify(fd, 0)
        self._paused.renew((fd, events))

    def _resume(self, paused: tuple[int, int]) -> None:
        if paused[0] in self._handlers:
            self._epoll.modify(*paused)

    def remove(self, fd: int) -> None:
        """Forget *fd*, if it is registered; it must still be open."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self, one: socket.socket) -> None:
        """Forget *one* and close it after the events of this turn: an event of it must not reach the next socket of its number."""
        self.remove(one.fileno())
        self._closing.append(one)

    def reset(self, one: socket.socket) -> None:
        """Close *one* as :meth:`close` does, so that the peer gets RST."""
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        except OSError:
            pass  # the connection has ended already
        self.close(one)

    def add_deadlines(self, deadlines: Deadlines[K]) -> Deadlines[K]:
        """Expire the keys of *deadlines* from now on, and return it."""
        self._deadlines.append(deadlines)  # type: ignore[arg-type]
        return deadlines

    def run(self) -> None:
        """Handle events until :meth:`stop`."""
        self._running = True
        while self._running:
            self.turn()

    def stop(self) -> None:
        """Let :meth:`run` return after this turn."""
        self._running = False

    def turn(self, timeout: float | None = None) -> None:
        """Wait for events or the next deadline, at most *timeout* seconds, and handle what there is."""
        self._close_ended()
        times = [at for at in (one.next_time() for one in self._deadlines) if at is not None]
        if times:
            until = max(0.0, min(times) - time.monotonic())
            timeout = until if timeout is None else min(timeout, until)
        for fd, events in self._epoll.poll(timeout, _MOST_EVENTS):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        for one in self._deadlines:
            one.expire()
        self._close_ended()

    def close_all(self) -> None:
        """Close the epoll descriptor and the sockets that wait for it."""
        self._close_ended()
        self._epoll.close()

    def _close_ended(self) -> None:
        while self._closing:
            self._closing.pop().close()
