"""TCP connections of the network process, from accept(2) over connect(2) to the relay, and their limit."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator

from sandbox.network.event_loop import ERROR, HANGUP, IN, NO_RESOURCES, OUT, Deadlines, EventLoop
from sandbox.network.relay import PipePool, Relay
from unionfs._stdlib.typing import Any

CONNECT_SECONDS = 10.0
"""Seconds for one address to accept a connection."""

_MOST_ACCEPTED = 64

Candidate = tuple[Callable[[], socket.socket], tuple[Any, ...]]
"""A function that makes a socket, and the address to which that is connected."""


class Incoming:
    """A connection that was accepted and has no other side yet. It ends by :meth:`connect` or :meth:`refuse`."""

    __slots__ = ("_candidates", "_connections", "_on_failure", "_target", "ended", "socket")

    def __init__(self, connections: Connections, accepted: socket.socket) -> None:
        """Own *accepted*, and count it."""
        self._connections = connections
        self._candidates: Iterator[Candidate] = iter(())
        self._on_failure: Callable[[OSError], None] | None = None
        self._target: socket.socket | None = None
        self.socket = accepted
        #: Whether the peer has aborted it, or it was refused or connected.
        self.ended = False
        connections.loop.add(accepted.fileno(), 0, self._on_peer_event)

    def refuse(self) -> None:
        """Reset the connection."""
        if not self.ended:
            self._end()
            self._connections.loop.reset(self.socket)
            self._connections.forget()

    def connect(self, candidates: Iterable[Candidate], on_failure: Callable[[OSError], None]) -> None:
        """Connect to the first of *candidates* that accepts, and relay.

        If none does, reset the connection and call *on_failure* with the last error.
        """
        if not self.ended:
            self._candidates, self._on_failure = iter(candidates), on_failure
            self._try_next(OSError(errno.EADDRNOTAVAIL, "no address"))

    def _on_peer_event(self, events: int) -> None:
        if events & (ERROR | HANGUP):
            self.refuse()

    def _try_next(self, failure: OSError) -> None:
        for make, address in self._candidates:
            try:
                self._target = make()
            except OSError as error:
                failure = error
                continue
            number = self._target.connect_ex(address)
            if number in (0, errno.EINPROGRESS):
                self._connections.loop.add(self._target.fileno(), OUT, self._on_target_event)
                self._connections.connecting.renew(self)
                return
            failure = OSError(number, errno.errorcode.get(number, str(number)))
            self._drop_target()
        self.refuse()
        assert self._on_failure is not None
        self._on_failure(failure)

    def _on_target_event(self, _events: int) -> None:
        assert self._target is not None
        number = self._target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._drop_target()
            self._try_next(OSError(number, errno.errorcode.get(number, str(number))))
            return
        target, self._target = self._target, None
        loop = self._connections.loop
        loop.remove(target.fileno())
        loop.remove(self.socket.fileno())
        self._end()
        Relay(loop, self._connections.pipes, self.socket, target, self._connections.forget)

    def time_out(self) -> None:
        """Give up the present attempt."""
        self._drop_target()
        self._try_next(TimeoutError(errno.ETIMEDOUT, "no answer"))

    def _drop_target(self) -> None:
        if self._target is not None:
            self._connections.connecting.discard(self)
            self._connections.loop.reset(self._target)
            self._target = None

    def _end(self) -> None:
        self.ended = True
        self._drop_target()
        self._connections.connecting.discard(self)


class Connections:
    """All TCP connections: counts them, and refuses those above the limit."""

    def __init__(self, loop: EventLoop, limit: int) -> None:
        """Allow *limit* connections at once."""
        self.loop = loop
        self.pipes = PipePool()
        self.connecting: Deadlines[Incoming] = loop.add_deadlines(
            Deadlines(CONNECT_SECONDS, Incoming.time_out)
        )
        self._limit = limit
        #: Connections that exist now.
        self.count = 0
        #: Connections that were refused because of the limit.
        self.above_limit = 0

    def listen(self, listener: socket.socket, on_accept: Callable[[Incoming], None]) -> None:
        """Call *on_accept* with each connection to *listener*, which is not blocking and belongs to the caller."""
        self.loop.add(listener.fileno(), IN, lambda _events: self._accept(listener, on_accept))

    def forget(self) -> None:
        """Count a connection that has ended."""
        self.count -= 1

    def _accept(self, listener: socket.socket, on_accept: Callable[[Incoming], None]) -> None:
        for _ in range(_MOST_ACCEPTED):
            try:
                accepted, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_RESOURCES:
                    self.loop.pause(listener.fileno(), IN)
                    return
                continue  # the connection was aborted, or an error of the network that accept(2) passes on
            if self.count >= self._limit:
                self.above_limit += 1
                self.loop.reset(accepted)
                continue
            accepted.settimeout(0)
            self.count += 1
            on_accept(Incoming(self, accepted))
