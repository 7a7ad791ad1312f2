"""Forwards fixed ports: a published port of the host to the sandbox, or a port of the sandbox to a service of the host."""

from __future__ import annotations

import socket
from collections.abc import Callable

from sandbox.network.addresses import class_of, family_of, pack, unpack
from sandbox.network.connections import Connections, Incoming
from sandbox.network.event_loop import IN, Deadlines, EventLoop
from sandbox.network.request import Forward
from sandbox.network.socket_maker import SocketKind, SocketPool
from unionfs._stdlib.typing import Any

IDLE_SECONDS = 180.0
"""Seconds without a datagram after which the socket of a UDP client is closed (RFC 4787 requires at least 120)."""

MOST_CLIENTS = 512
"""UDP clients of all ports together. A further one takes the place of the one that has been idle longest."""

_MOST_DATAGRAMS = 64
_DATAGRAM = 65535
_ANCILLARY = 128
_NOT_A_SOURCE = frozenset({"unspecified", "loopback", "link-local", "multicast", "reserved"})


def may_be_source(client: bytes, target: bytes) -> bool:
    """Return whether a connection inside the gate may have the address of *client* as its source.

    Loopback and link-local addresses mean another machine there, and answers to *target* itself would not leave the sandbox.
    """
    found = class_of(client)
    return (
        len(client) == len(target) and client != target and (found is None or found[0] not in _NOT_A_SOURCE)
    )


def is_of_host(client: tuple[Any, ...]) -> bool:
    """Return whether the address of *client* is one of this network namespace: only such an address can be bound."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in client[0] else socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((client[0], 0, *client[2:]))
    except OSError:
        return False
    return True


def bind_to_client(one: socket.socket, client: tuple[Any, ...], target: bytes) -> None:
    """Bind *one*, a transparent socket, to the address and port of *client*, or at least to its address, where that is possible."""
    if not may_be_source(pack(client[0].partition("%")[0]), target):
        return
    for port in (client[1], 0):
        try:
            one.bind((client[0], port))
            return
        except OSError:  # the port is in use or below 1024, or the socket is not transparent
            continue


def _kind(protocol: str, address: bytes) -> SocketKind:
    if protocol == "tcp":
        return "tcp4" if len(address) == 4 else "tcp6"
    return "udp4" if len(address) == 4 else "udp6"


class SocketSource:
    """Makes the sockets for the target of one forward: in the host's network namespace, or in the gate by *pool*."""

    def __init__(self, forward: Forward, pool: SocketPool | None) -> None:
        """Use *pool* if the target of *forward* is inside."""
        self.target = pack(forward.address)
        self._transparent = forward.transparent
        self._host_is_closed = forward.host_is_closed
        self._kind = _kind(forward.protocol, self.target)
        self._pool = pool if forward.inside else None
        if self._pool is not None:
            self._pool.prepare(self._kind)

    def take(self, client: tuple[Any, ...], on_socket: Callable[[socket.socket | None], None]) -> None:
        """Call *on_socket* with a socket for *client*, None if none can be made."""
        if self._pool is None:
            kind = socket.SOCK_STREAM if self._kind.startswith("tcp") else socket.SOCK_DGRAM
            try:
                made = socket.socket(family_of(self.target), kind)
            except OSError:
                on_socket(None)
                return
            made.settimeout(0)
            on_socket(made)
            return

        def bound(made: socket.socket | None) -> None:
            if made is not None and self._transparent and not (self._host_is_closed and is_of_host(client)):
                bind_to_client(made, client, self.target)
            on_socket(made)

        self._pool.take(self._kind, bound)


def forward_tcp(
    connections: Connections, listener: socket.socket, forward: Forward, source: SocketSource
) -> None:
    """Forward the connections to *listener*. If the target refuses one, its client gets RST."""
    address = (unpack(source.target), forward.port)

    def accept(incoming: Incoming) -> None:
        def on_socket(made: socket.socket | None) -> None:
            if made is None:
                incoming.refuse()
            elif incoming.ended:
                made.close()
            else:
                incoming.connect([(lambda: made, address)], lambda _error: None)

        try:
            client = incoming.socket.getpeername()
        except OSError:
            incoming.refuse()
            return
        source.take(client, on_socket)

    connections.listen(listener, accept)


class _Client:
    """A UDP client, and its socket to the target."""

    __slots__ = ("address", "ancillary", "forward", "socket")

    def __init__(self, forward: DatagramForward, address: tuple[Any, ...], ancillary: list[Any]) -> None:
        self.forward = forward
        self.address = address
        #: IP_PKTINFO: the address of the host that the client knows, which the answers must come from.
        self.ancillary = ancillary
        self.socket: socket.socket | None = None


class DatagramClients:
    """The UDP clients of all forwards, in the order of their last datagrams."""

    def __init__(self, loop: EventLoop) -> None:
        """Close sockets of clients that are idle while *loop* runs."""
        self.loop = loop
        self._idle: Deadlines[_Client] = loop.add_deadlines(Deadlines(IDLE_SECONDS, self._end))

    def renew(self, client: _Client) -> None:
        """Note a datagram from or to *client*; end another client if there are too many."""
        self._idle.renew(client)
        oldest = self._idle.oldest()
        if len(self._idle) > MOST_CLIENTS and oldest is not None:
            self.drop(oldest)

    def drop(self, client: _Client) -> None:
        """End *client* now; the next datagram of its address makes another."""
        self._idle.discard(client)
        self._end(client)

    def _end(self, client: _Client) -> None:
        client.forward.forget(client)
        if client.socket is not None:
            self.loop.close(client.socket)
            client.socket = None


class DatagramForward:
    """Forwards datagrams of one UDP port, with a socket for each client, so that the target's answers find it."""

    def __init__(
        self, clients: DatagramClients, listener: socket.socket, forward: Forward, source: SocketSource
    ) -> None:
        """Forward what arrives at *listener*, which belongs to the caller."""
        self._all = clients
        self._listener = listener
        self._source = source
        self._target = (unpack(source.target), forward.port)
        self._clients: dict[tuple[Any, ...], _Client] = {}
        clients.loop.add(listener.fileno(), IN, self._on_datagrams)

    def forget(self, client: _Client) -> None:
        """Forget a client whose socket is being closed."""
        self._clients.pop(client.address, None)

    def _on_datagrams(self, _events: int) -> None:
        for _ in range(_MOST_DATAGRAMS):
            try:
                data, ancillary, _, address = self._listener.recvmsg(_DATAGRAM, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier answer
            client = self._clients.get(address)
            if client is None:
                client = self._clients[address] = _Client(self, address, ancillary)
                self._all.renew(client)
                self._source.take(address, self._starter(client, data))
                continue
            self._all.renew(client)
            if client.socket is not None:
                _send(client.socket, data)

    def _starter(self, client: _Client, data: bytes) -> Callable[[socket.socket | None], None]:
        """Return a function that gives *client* its socket and sends its first datagram. Datagrams in between are lost."""

        def on_socket(made: socket.socket | None) -> None:
            if self._clients.get(client.address) is not client:
                if made is not None:
                    made.close()
                return
            if made is not None:
                try:
                    made.connect(self._target)
                except OSError:  # no route
                    made.close()
                    made = None
            if made is None:
                self._all.drop(client)
                return
            client.socket = made
            self._all.loop.add(made.fileno(), IN, lambda _events: self._on_answers(client))
            _send(made, data)

        return on_socket

    def _on_answers(self, client: _Client) -> None:
        for _ in range(_MOST_DATAGRAMS):
            if client.socket is None:
                return
            try:
                data = client.socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # ECONNREFUSED: no process of the target has the port; an answer may come later
            self._all.renew(client)
            try:
                self._listener.sendmsg([data], client.ancillary, 0, client.address)
            except OSError:
                continue  # as on any network, a datagram is lost


def _send(one: socket.socket, data: bytes) -> None:
    try:
        one.send(data)
    except OSError:
        pass  # ECONNREFUSED of an earlier datagram, or a full buffer
