"""Serves DNS over UDP and TCP (RFC 1035, 4.2) on sockets inside a gate, and forwards queries to the resolvers of the host."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

from sandbox.network.dns_answers import (
    MOST_QUERY,
    Answer,
    Forward,
    Zone,
    answer,
    error_answer,
    question_of,
)
from sandbox.network.event_loop import IN, NO_RESOURCES, OUT, Deadlines, EventLoop
from sandbox.network.refusals import RefusalLine, RefusalLog
from unionfs._stdlib.typing import Any

_MOST_AT_ONCE = 64
_ANCILLARY = 128
_MOST_CONNECTIONS = 64
_CONNECTION_SECONDS = 10.0
"""Seconds without a query after which a TCP connection is closed (RFC 7766, 6.2.3: a few seconds)."""
_MOST_FORWARDED = 256
_ANSWER_SECONDS = 2.0
"""Seconds for one resolver of the host. The next one is tried then; programs wait 5 seconds by default."""
_LENGTH = struct.Struct("!H")
_DNS_PORT = 53

Send = Callable[[bytes], None]


class DnsServer:
    """The DNS server of one network namespace."""

    def __init__(
        self,
        loop: EventLoop,
        zone: Zone,
        log: RefusalLog,
        upstream: Upstream | None,
    ) -> None:
        """Answer from *zone*; send what that forwards to *upstream*."""
        self._loop = loop
        self._zone = zone
        self._log = log
        self._upstream = upstream
        self._connections: Deadlines[_Connection] = loop.add_deadlines(
            Deadlines(_CONNECTION_SECONDS, lambda one: one.close())
        )

    def serve_udp(self, one: socket.socket) -> None:
        """Answer the datagrams of *one*, which has IP_PKTINFO and belongs to the caller.

        The answer comes from the address that the program asked, because resolvers accept no other.
        """
        self._loop.add(one.fileno(), IN, lambda _events: self._on_datagrams(one))

    def serve_tcp(self, listener: socket.socket) -> None:
        """Answer the connections of *listener*, which belongs to the caller."""
        self._loop.add(listener.fileno(), IN, lambda _events: self._accept(listener))

    def handle(self, message: bytes, send: Send, *, tcp: bool) -> bool:
        """Answer the query *message* by *send*, now or later; return False if it is no query and gets no answer."""
        found = answer(message, self._zone)
        if isinstance(found, Forward):
            if self._upstream is None:
                send(error_answer(message))
            else:
                self._upstream.forward(message, send, tcp=tcp)
        elif found is not None:
            self._log_refusal(found)
            send(found.message)
        return found is not None

    def _log_refusal(self, found: Answer) -> None:
        if found.refused is not None:
            self._log.add(RefusalLine(found.name, found.refused.reason, found.refused.remedy))

    def _on_datagrams(self, one: socket.socket) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                message, ancillary, _, address = one.recvmsg(MOST_QUERY + 1, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier answer

            def send(
                data: bytes, ancillary: list[Any] = ancillary, address: tuple[Any, ...] = address
            ) -> None:
                try:
                    one.sendmsg([data], ancillary, 0, address)
                except OSError:
                    pass  # the program asks again

            self.handle(message, send, tcp=False)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                accepted, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_RESOURCES:
                    self._loop.pause(listener.fileno(), IN)
                    return
                continue
            if len(self._connections) >= _MOST_CONNECTIONS:
                self._loop.reset(accepted)
                continue
            accepted.settimeout(0)
            _Connection(self, self._loop, self._connections, accepted)


class _Connection:
    """A TCP connection of a program. Queries are answered one after the other; the next is read when the answer was sent."""

    __slots__ = (
        "_busy",
        "_closed",
        "_deadlines",
        "_input",
        "_is_reading",
        "_loop",
        "_output",
        "_server",
        "_socket",
    )

    def __init__(
        self, server: DnsServer, loop: EventLoop, deadlines: Deadlines[_Connection], accepted: socket.socket
    ) -> None:
        self._server = server
        self._loop = loop
        self._deadlines = deadlines
        self._socket = accepted
        self._input = b""
        self._output = b""
        #: Whether a query has no answer yet.
        self._busy = False
        self._is_reading = False
        self._closed = False
        deadlines.renew(self)
        loop.add(accepted.fileno(), IN, self._on_event)

    def close(self) -> None:
        """Close the connection."""
        if not self._closed:
            self._closed = True
            self._deadlines.discard(self)
            self._loop.close(self._socket)

    def _on_event(self, _events: int) -> None:
        try:
            if self._output:
                self._write()
                self._next_query()
            else:
                data = self._socket.recv(MOST_QUERY)
                if not data:
                    self.close()
                    return
                self._input += data
                self._next_query()
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def _next_query(self) -> None:
        self._is_reading = True
        while not self._busy and not self._closed and not self._output and len(self._input) >= 2:
            (length,) = _LENGTH.unpack_from(self._input)
            if length > MOST_QUERY:
                self.close()
                break
            if len(self._input) < 2 + length:
                break
            message, self._input = self._input[2 : 2 + length], self._input[2 + length :]
            self._busy = True
            self._deadlines.renew(self)
            if not self._server.handle(message, self._send, tcp=True):
                self.close()
        self._is_reading = False
        if not self._closed:
            # Hang-ups are reported nevertheless; reading again ends the connection then.
            self._loop.change(self._socket.fileno(), OUT if self._output else 0 if self._busy else IN)

    def _send(self, data: bytes) -> None:
        if self._closed:
            return
        self._busy = False
        self._output = _LENGTH.pack(len(data)) + data
        try:
            self._write()
        except OSError:
            self.close()
            return
        if not self._is_reading:
            self._next_query()

    def _write(self) -> None:
        try:
            self._output = self._output[self._socket.send(self._output, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            pass


class _Query:
    """A forwarded query: where it is now, and what its answer needs."""

    __slots__ = ("identity", "message", "question", "received", "remaining", "send", "socket", "tcp")

    def __init__(self, message: bytes, send: Send, resolvers: list[tuple[str, int]], *, tcp: bool) -> None:
        self.message = message
        self.question = question_of(message)
        self.send = send
        self.tcp = tcp
        self.remaining = list(resolvers)
        self.identity = b""
        self.received = b""
        self.socket: socket.socket | None = None


class Upstream:
    """Sends queries to the resolvers of the host, each from a port and with an identity of its own (RFC 5452)."""

    def __init__(self, loop: EventLoop, resolvers: list[tuple[str, int]]) -> None:
        """Try *resolvers*, addresses and ports, in order."""
        self._loop = loop
        self._resolvers = resolvers
        self._deadlines: Deadlines[_Query] = loop.add_deadlines(Deadlines(_ANSWER_SECONDS, self._try_next))

    def replace(self, resolvers: list[str]) -> None:
        """Use the addresses *resolvers* from the next query on."""
        self._resolvers = [(address, _DNS_PORT) for address in resolvers]

    def forward(self, message: bytes, send: Send, *, tcp: bool) -> None:
        """Send the query *message*, by TCP if *tcp*, and its answer by *send*; SERVFAIL if no resolver answers in time."""
        if len(self._deadlines) >= _MOST_FORWARDED:
            send(error_answer(message))
            return
        self._try_next(_Query(message, send, self._resolvers, tcp=tcp))

    def _try_next(self, query: _Query) -> None:
        self._end(query)
        while query.remaining:
            address = query.remaining.pop(0)
            try:
                self._start(query, address)
            except OSError:
                self._end(query)
                continue
            self._deadlines.renew(query)
            return
        query.send(error_answer(query.message))

    def _start(self, query: _Query, address: tuple[str, int]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM if query.tcp else socket.SOCK_DGRAM)
        query.socket = made
        made.settimeout(0)
        try:
            made.connect(address)
        except BlockingIOError:
            pass
        query.identity = os.urandom(2)
        query.received = b""
        sent = query.identity + query.message[2:]
        if query.tcp:
            self._loop.add(made.fileno(), OUT, lambda _events: self._on_connected(query, sent))
        else:
            made.send(sent)
            self._loop.add(made.fileno(), IN, lambda _events: self._on_datagram(query))

    def _on_connected(self, query: _Query, sent: bytes) -> None:
        assert query.socket is not None
        try:
            query.socket.send(_LENGTH.pack(len(sent)) + sent, socket.MSG_NOSIGNAL)
        except OSError:
            self._try_next(query)
            return
        self._loop.change(query.socket.fileno(), IN, lambda _events: self._on_data(query))

    def _on_datagram(self, query: _Query) -> None:
        assert query.socket is not None
        try:
            data = query.socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:  # ECONNREFUSED
            self._try_next(query)
            return
        self._answered(query, data)

    def _on_data(self, query: _Query) -> None:
        assert query.socket is not None
        try:
            data = query.socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        query.received += data
        if not data:
            self._try_next(query)
        elif len(query.received) >= 2:
            (length,) = _LENGTH.unpack_from(query.received)
            if len(query.received) >= 2 + length:
                self._answered(query, query.received[2 : 2 + length])

    def _answered(self, query: _Query, data: bytes) -> None:
        if data[:2] != query.identity or question_of(data) != query.question:
            return  # forged, or late: the right one may follow
        self._end(query)
        query.send(query.message[:2] + data[2:])

    def _end(self, query: _Query) -> None:
        self._deadlines.discard(query)
        if query.socket is not None:
            self._loop.close(query.socket)
            query.socket = None
