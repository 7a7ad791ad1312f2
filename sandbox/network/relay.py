"""Moves bytes between two connected TCP sockets in both directions with splice(2), without copying them into this process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable

from sandbox.network.event_loop import ERROR, IN, OUT, EventLoop

_PIPE_SIZE = 1 << 20
_MOST = 1 << 20
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
#: All pipes of a user together may have 16384 pages before each further one gets two (pipe(7), pipe-user-pages-soft).
_MOST_LARGE = 4
_UNREGISTERED = -1


class PipePool:
    """Pipes for relays. A relay needs one only while it moves bytes, or while the receiver is too slow for them.

    Up to four pipes have 1 MiB, where the kernel permits it, and are used again and again. Further ones have the default size.
    """

    def __init__(self) -> None:
        """Make no pipe yet."""
        self._free: list[tuple[int, int]] = []
        self._large: set[int] = set()

    def take(self) -> tuple[int, int]:
        """Return the descriptors for reading and writing of an empty pipe.

        Raises:
            OSError: EMFILE, ENFILE: no descriptor is free.
        """
        if self._free:
            return self._free.pop()
        ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if len(self._large) < _MOST_LARGE:
            try:
                fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            except OSError:
                pass  # EPERM: the pipes of this user have too many pages
            self._large.add(ends[0])
        return ends

    def give(self, ends: tuple[int, int], *, empty: bool) -> None:
        """Take back the pipe *ends*; keep it for the next call of :meth:`take` if it is *empty* and a large one."""
        if empty and ends[0] in self._large:
            self._free.append(ends)
            return
        self._large.discard(ends[0])
        for fd in ends:
            os.close(fd)

    def close(self) -> None:
        """Close the pipes that no relay has."""
        while self._free:
            self.give(self._free.pop(), empty=False)


class _Flow:
    """One direction: what *source* sends goes to *target*."""

    __slots__ = ("finished", "pending", "pipe", "source", "source_ended", "target")

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.pipe: tuple[int, int] | None = None
        #: Bytes in the pipe.
        self.pending = 0
        self.source_ended = False
        #: Whether the end has been passed on.
        self.finished = False


class Relay:
    """Two connected sockets and what is on its way between them. Owns the sockets until both directions have ended.

    A direction that ends is shut down, while the other goes on (half-closed connections). A receiver that does not read stops
    the sender, as the relay reads no more while bytes wait. An error of one socket resets the other.
    """

    __slots__ = ("_events", "_flows", "_loop", "_on_end", "_pipes", "_sockets")

    def __init__(
        self,
        loop: EventLoop,
        pipes: PipePool,
        one: socket.socket,
        other: socket.socket,
        on_end: Callable[[], None],
    ) -> None:
        """Relay between *one* and *other*, which are not blocking and not registered. Call *on_end* once at the end."""
        self._loop = loop
        self._pipes = pipes
        self._on_end = on_end
        self._sockets = (one, other)
        self._flows = (_Flow(one, other), _Flow(other, one))
        self._events = [_UNREGISTERED, _UNREGISTERED]
        for end in self._sockets:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._choose_events()

    def _on_first(self, events: int) -> None:
        self._handle(0, events)

    def _on_second(self, events: int) -> None:
        self._handle(1, events)

    def _handle(self, index: int, events: int) -> None:
        outward, inward = self._flows[index], self._flows[1 - index]
        try:
            if events & ERROR:
                raise ConnectionResetError
            if events & OUT:
                self._empty(inward)
            if events & ~OUT and not outward.pending and not outward.source_ended:
                self._fill(outward)
        except OSError:  # of a socket, or no pipe can be made
            self._end(reset=True)
            return
        if outward.finished and inward.finished:
            self._end(reset=False)
        else:
            self._choose_events()

    def _fill(self, flow: _Flow) -> None:
        if flow.pipe is None:
            flow.pipe = self._pipes.take()
        try:
            flow.pending = os.splice(flow.source.fileno(), flow.pipe[1], _MOST, flags=_FLAGS)
        except BlockingIOError:
            self._release(flow)
            return
        flow.source_ended = flow.pending == 0
        self._empty(flow)

    def _empty(self, flow: _Flow) -> None:
        """Pass on what is in the pipe, and the end behind it."""
        while flow.pending:
            assert flow.pipe is not None
            try:
                flow.pending -= os.splice(flow.pipe[0], flow.target.fileno(), flow.pending, flags=_FLAGS)
            except BlockingIOError:
                return
        self._release(flow)
        if flow.source_ended and not flow.finished:
            flow.finished = True
            try:
                flow.target.shutdown(socket.SHUT_WR)
            except OSError as error:
                if (
                    error.errno != errno.ENOTCONN
                ):  # the target has closed already, its own direction shows how
                    raise

    def _release(self, flow: _Flow) -> None:
        if flow.pipe is not None:
            self._pipes.give(flow.pipe, empty=flow.pending == 0)
            flow.pipe = None

    def _choose_events(self) -> None:
        for index, end in enumerate(self._sockets):
            outward, inward = self._flows[index], self._flows[1 - index]
            events = (0 if outward.pending or outward.source_ended else IN) | (OUT if inward.pending else 0)
            if events == 0 and inward.finished:
                # After the peer's end, too, the socket would report a hang-up again and again.
                events = _UNREGISTERED
            before, self._events[index] = self._events[index], events
            if events == before:
                continue
            if events == _UNREGISTERED:
                self._loop.remove(end.fileno())
            elif before == _UNREGISTERED:
                self._loop.add(end.fileno(), events, self._on_first if index == 0 else self._on_second)
            else:
                self._loop.change(end.fileno(), events)

    def _end(self, *, reset: bool) -> None:
        for flow in self._flows:
            self._release(flow)
        for end in self._sockets:
            if reset:
                self._loop.reset(end)
            else:
                self._loop.close(end)
        self._on_end()
