"""Send requests to the routing tables of a network namespace; rtnetlink(7), linux/rtnetlink.h.

The messages are laid out here, because importing a netlink library takes longer than the whole start of a sandbox.

A netlink socket belongs to the network namespace in which it was created, whichever process uses it. With an explicit
destination address, the kernel checks the capabilities of the sender and not those of the process that opened the socket
(__netlink_ns_capable, net/netlink/af_netlink.c). So the owner of a user namespace can configure a network namespace below it
from outside.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator

from unionfs._stdlib.dataclasses import dataclass

_KERNEL = (0, 0)  # struct sockaddr_nl: port id and groups of the kernel
_ROUTE = 0  # NETLINK_ROUTE
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_ERROR, _DONE = 2, 3  # NLMSG_*
_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400  # NLM_F_*
_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26  # RTM_*
_DESTINATION, _OUTPUT_INTERFACE, _TABLE = 1, 4, 15  # RTA_*
_LOCAL_TABLE, _MAIN_TABLE, _PROTOCOL_STATIC, _SCOPE_HOST = (
    255,
    254,
    4,
    254,
)  # RT_TABLE_*, RTPROT_*, RT_SCOPE_*
_UNICAST, _LOCAL, _ANYCAST = 1, 2, 4  # RTN_*
_GROUPS = 0x40 | 0x400  # RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ROUTE_HEADER = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("16si20x")  # struct ifreq: the name, the index, the rest of the union
_BUFFER = 1 << 18

_OWN = (_LOCAL, _ANYCAST)

FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Route:
    """A route of a routing table."""

    #: AF_INET or AF_INET6.
    family: int
    #: The destination in network byte order, and the bits of it that count; a default route has the length 0.
    destination: bytes
    length: int
    #: The index of the outgoing interface; 0 for none.
    interface: int = 0

    def __str__(self) -> str:
        """Return the destination as "ADDRESS/LENGTH"."""
        return f"{socket.inet_ntop(self.family, self.destination)}/{self.length}"

    @property
    def is_loopback(self) -> bool:
        """Whether the destination is in 127.0.0.0/8, or ::1. Such packets never leave a network namespace."""
        if self.family == socket.AF_INET:
            return self.destination[0] == 127
        return self.destination == b"\0" * 15 + b"\1"


@dataclass(frozen=True, slots=True)
class Change:
    """A local route that was added or removed."""

    route: Route
    added: bool


def open_socket(*, watching: bool = False) -> socket.socket:
    """Return a netlink socket of this network namespace; with *watching*, it receives changes of routes.

    Raises:
        OSError: the kernel has no netlink, or no descriptor is left.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE)
    try:
        sock.bind((0, _GROUPS if watching else 0))
    except OSError:
        sock.close()
        raise
    return sock


def local_routes(sock: socket.socket) -> list[Route]:
    """Return the destinations that are addresses of the network namespace of *sock*: routes of the types local and anycast.

    These are the addresses of its interfaces, prefixes that an administrator made local, and, on a router, anycast addresses.

    Raises:
        OSError: the kernel refuses the request.
    """
    return [route for route, kind in _all_routes(sock, _LOCAL_TABLE) if kind in _OWN]


def default_routes(sock: socket.socket) -> list[Route]:
    """Return the default routes of the network namespace of *sock*.

    Raises:
        OSError: the kernel refuses the request.
    """
    found = _all_routes(sock, _MAIN_TABLE)
    return [route for route, kind in found if not route.length and kind == _UNICAST]


def add_local_route(sock: socket.socket, route: Route) -> bool:
    """Make the destination of *route* an address of the network namespace of *sock*, on the interface of *route*.

    Returns False if it is one already, or if the namespace or the interface has no such address family.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN in the user namespace that owns the network namespace.
    """
    try:
        _request(sock, _NEW_ROUTE, _ACK | _CREATE | _EXCL, _local_route(route))
    except OSError as error:
        without_family = {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
        # With net.ipv6.conf.INTERFACE.disable_ipv6 the kernel accepts no route (ip6_route_info_create, net/ipv6/route.c).
        if route.family == socket.AF_INET6:
            without_family.add(errno.EACCES)
        if error.errno == errno.EEXIST or error.errno in without_family:
            return False
        raise OSError(error.errno, os.strerror(error.errno or 0), str(route)) from None
    return True


def remove_local_route(sock: socket.socket, route: Route) -> None:
    """Undo :func:`add_local_route`; a route that is missing is no error.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN in the user namespace that owns the network namespace.
    """
    try:
        _request(sock, _DELETE_ROUTE, _ACK, _local_route(route))
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT, errno.ENODEV):
            raise


def interface_index(sock: socket.socket, name: str) -> int:
    """Return the index of the interface *name* in the network namespace of *sock*; netdevice(7).

    Raises:
        OSError: ENODEV if there is no such interface.
    """
    answer = fcntl.ioctl(sock, _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
    index: int = _IFREQ.unpack(answer)[1]
    return index


def changes(sock: socket.socket) -> list[Change]:
    """Return the changes of local routes that *sock*, which watches, has received; wait for the first packet.

    Raises:
        OSError: ENOBUFS if the kernel had to drop changes: read all routes again.
    """
    found = []
    for kind, payload in _messages(sock.recv(_BUFFER)):
        if kind in (_NEW_ROUTE, _DELETE_ROUTE):
            route, route_type, _ = _parse_route(payload)
            if route_type in _OWN:
                found.append(Change(route, added=kind == _NEW_ROUTE))
    return found


def _local_route(route: Route) -> bytes:
    header = _ROUTE_HEADER.pack(
        route.family, route.length, 0, 0, _LOCAL_TABLE, _PROTOCOL_STATIC, _SCOPE_HOST, _LOCAL, 0
    )
    interface = struct.pack("=I", route.interface)
    return header + _attribute(_DESTINATION, route.destination) + _attribute(_OUTPUT_INTERFACE, interface)


def _all_routes(sock: socket.socket, table: int) -> Iterator[tuple[Route, int]]:
    """Yield the routes of *table*, each with its type."""
    try:
        # The kernel sends only this table. Without the option it sends every route, of which routers have a million.
        sock.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
    except OSError:
        pass  # before Linux 4.20
    for family in FAMILIES:
        header = _ROUTE_HEADER.pack(family, 0, 0, 0, table, 0, 0, 0, 0)
        try:
            answers = _request(sock, _GET_ROUTE, _DUMP, header)
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
                continue  # the kernel has no IPv6, or no such table
            raise
        for kind, payload in answers:
            if kind == _NEW_ROUTE:
                route, route_type, its_table = _parse_route(payload)
                if its_table == table and route.family == family:
                    yield route, route_type


def _parse_route(payload: bytes) -> tuple[Route, int, int]:
    """Return the route in *payload*, its type and its table."""
    family, length, _, _, table, _, _, kind, _ = _ROUTE_HEADER.unpack_from(payload)
    attributes = dict(_attributes(payload[_ROUTE_HEADER.size :]))
    table = _number(attributes.get(_TABLE, b""), table)
    destination = attributes.get(_DESTINATION, b"")
    interface = _number(attributes.get(_OUTPUT_INTERFACE, b""), 0)
    size = 4 if family == socket.AF_INET else 16
    return Route(family, destination.ljust(size, b"\0"), length, interface), kind, table


def _number(value: bytes, otherwise: int) -> int:
    """Return the 32-bit number *value* in the byte order of the machine, or *otherwise* if it is no such number."""
    return int.from_bytes(value, sys.byteorder) if len(value) == 4 else otherwise


def _request(sock: socket.socket, kind: int, flags: int, payload: bytes) -> list[tuple[int, bytes]]:
    """Send one request and return the messages that answer it.

    Raises:
        OSError: the error with which the kernel answers.
    """
    message = _HEADER.pack(_HEADER.size + len(payload), kind, flags | _REQUEST, 0, 0) + payload
    sock.sendto(message, _KERNEL)
    found: list[tuple[int, bytes]] = []
    while True:
        for answer, body in _messages(sock.recv(_BUFFER)):
            if answer in (_ERROR, _DONE):
                number = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                if number:
                    raise OSError(-number, os.strerror(-number))
                return found
            found.append((answer, body))


def _messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of the messages in *packet*; see netlink(7)."""
    while len(packet) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(packet)
        if length < _HEADER.size:
            return
        yield kind, packet[_HEADER.size : length]
        packet = packet[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value.ljust(_aligned(len(value)), b"\0")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
