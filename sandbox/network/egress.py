"""Connects programs to the destinations that `network.egress` allows, and refuses all others.

A connection arrives at a listener inside the gate, where every address is local. The address to which the program connected is a
name's own address, or an address literal. The other side is a socket of the host's network namespace.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

from sandbox.network.addresses import family_of, is_loopback, pack, unpack
from sandbox.network.connections import Candidate, Connections, Incoming
from sandbox.network.egress_rules import EgressRules, Refusal, endpoint
from sandbox.network.event_loop import IN, EventLoop
from sandbox.network.names import OWN_ADDRESSES, EgressNames
from sandbox.network.packet_filter import SNAPSHOT, Packet, parse_packet
from sandbox.network.refusals import RefusalLine, RefusalLog
from sandbox.network.resolver import Resolver
from unionfs._stdlib.typing import Any

_SO_ORIGINAL_DST = 80  # also IP6T_SO_ORIGINAL_DST
_SOCKADDR_IN = struct.Struct("!2xH4s")
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s")
_ANY_PORT = 9
_DNS_PORT = 53
_MOST_PACKETS = 64


def is_own_address(address: bytes) -> bool:
    """Return whether *address* leads to this network namespace itself.

    The kernel uses such a destination as the source, too, or a loopback address. It takes 0.0.0.0 for a loopback address. No packet
    is sent: connect(2) of a UDP socket only looks up the route.
    """
    with socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((unpack(address), _ANY_PORT))
        except OSError:  # no route, or a broadcast address
            return False
        source, peer = _host(probe.getsockname()), _host(probe.getpeername())
        return source == peer or is_loopback(pack(source))


def original_destination(accepted: socket.socket, *, redirected: bool) -> tuple[bytes, int]:
    """Return the address and port to which the peer of *accepted* connected, before an nftables redirect if *redirected*.

    Raises:
        OSError: ENOENT: the connection was not redirected, or nothing tracks connections.
    """
    if redirected:
        if accepted.family == socket.AF_INET:
            answer = accepted.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
            port, address = _SOCKADDR_IN.unpack_from(answer)
        else:
            answer = accepted.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
            port, address = _SOCKADDR_IN6.unpack_from(answer)
        return address, port
    name = accepted.getsockname()
    return socket.inet_pton(accepted.family, _host(name)), name[1]


def _host(name: tuple[Any, ...]) -> str:
    """Return the address of a socket name without the zone that a link-local address has."""
    return str(name[0]).partition("%")[0]


class Egress:
    """The connections of one sandbox to the outside."""

    def __init__(
        self,
        connections: Connections,
        rules: EgressRules,
        names: EgressNames,
        resolver: Resolver,
        log: RefusalLog,
    ) -> None:
        """Decide by *rules* and *names*, which the DNS server fills."""
        self._connections = connections
        self._rules = rules
        self._names = names
        self._resolver = resolver
        self._log = log

    def listen(self, listener: socket.socket, *, redirected: bool) -> None:
        """Accept connections to *listener*, which an nftables rule redirects there if *redirected*."""

        def accept(incoming: Incoming) -> None:
            try:
                address, port = original_destination(incoming.socket, redirected=redirected)
            except OSError:
                # The program connected to a port that no rule redirects, such as that of the listener.
                address, port = original_destination(incoming.socket, redirected=False)
            self._accept(incoming, address, port)

        self._connections.listen(listener, accept)

    def _accept(self, incoming: Incoming, address: bytes, port: int) -> None:
        name = self._names.name_at(address)
        if name is not None:
            self._connect_to_name(incoming, name, port)
            return
        refusal = self.refuse_literal(address, port)
        if refusal is not None:
            self._refuse(incoming, endpoint(unpack(address), port), refusal)
            return
        self._connect(incoming, endpoint(unpack(address), port), [address], port)

    def refuse_literal(self, address: bytes, port: int) -> Refusal | None:
        """Return why a connection to an address that is no name's is refused, None if it is allowed."""
        if address in OWN_ADDRESSES:
            return Refusal("no name has this address in this run")
        return self._rules.refuse_address(address, port, own=is_own_address(address))

    def _connect_to_name(self, incoming: Incoming, name: str, port: int) -> None:
        place = endpoint(name, port)
        refusal = self._rules.refuse_name(name, port)
        if refusal is not None:
            self._refuse(incoming, place, refusal)
            return

        def on_resolved(addresses: list[bytes]) -> None:
            if not addresses:
                self._refuse(incoming, place, Refusal("the host's resolver has no address of this name"))
                return
            refusals = [
                self._rules.refuse_resolved(name, port, address, own=is_own_address(address))
                for address in addresses
            ]
            passed = [
                address for address, refused in zip(addresses, refusals, strict=True) if refused is None
            ]
            first = next((refused for refused in refusals if refused is not None), None)
            if first is not None and not passed:
                self._refuse(incoming, place, first)
                return
            self._connect(incoming, place, passed, port)

        pinned = self._rules.pinned.get(name)
        if pinned is not None:
            on_resolved([pinned])
        else:
            self._resolver.resolve(name, on_resolved)

    def _connect(self, incoming: Incoming, place: str, addresses: list[bytes], port: int) -> None:
        def on_failure(error: OSError) -> None:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._log.add(RefusalLine(place, "no file descriptor is free", ""))

        candidates: list[Candidate] = [
            (_maker(family_of(address)), (unpack(address), port)) for address in addresses
        ]
        incoming.connect(candidates, on_failure)

    def _refuse(self, incoming: Incoming, place: str, refusal: Refusal) -> None:
        incoming.refuse()
        self._log.add(RefusalLine(place, refusal.reason, refusal.remedy))


def _maker(family: socket.AddressFamily) -> Callable[[], socket.socket]:
    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.settimeout(0)
        return made

    return make


class RefusedPackets:
    """Logs packets that the kernel of the gate refuses by itself, from a packet socket with the filter of `packet_filter`."""

    def __init__(
        self,
        loop: EventLoop,
        observer: socket.socket,
        egress: Egress,
        rules: EgressRules,
        names: EgressNames,
        log: RefusalLog,
    ) -> None:
        """Read *observer* as long as *loop* runs. A flood of packets costs at most `_MOST_PACKETS` every tenth of a second."""
        self._loop = loop
        self._observer = observer
        self._egress = egress
        self._rules = rules
        self._names = names
        self._log = log
        #: Ports at which a listener decides and logs; None if that is every port.
        self._accepted = None if rules.needs_redirect() else frozenset({_DNS_PORT, *rules.ports()})
        loop.add(observer.fileno(), IN, self._on_event)

    def _on_event(self, _events: int) -> None:
        for _ in range(_MOST_PACKETS):
            try:
                data = self._observer.recv(SNAPSHOT)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENETDOWN: the interface is down for the moment
            packet = parse_packet(data)
            if packet is not None:
                self._add(packet)
        self._loop.pause(self._observer.fileno(), IN)

    def _add(self, packet: Packet) -> None:
        if packet.protocol == "tcp" and (self._accepted is None or packet.port in self._accepted):
            return
        name = self._names.name_at(packet.address)
        if packet.protocol != "tcp":
            place = str(packet) if name is None else str(packet).replace(unpack(packet.address), name, 1)
            what = "UDP other than DNS" if packet.protocol == "udp" else "ICMP"
            self._log.add(RefusalLine(place, f"{what} is refused with network.egress", ""))
            return
        if name is not None:
            place, refusal = endpoint(name, packet.port), self._rules.refuse_name(name, packet.port)
        else:
            place = endpoint(unpack(packet.address), packet.port)
            refusal = self._egress.refuse_literal(packet.address, packet.port)
        if refusal is not None:
            self._log.add(RefusalLine(place, refusal.reason, refusal.remedy))
