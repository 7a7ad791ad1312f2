"""Read and change the routes of a network namespace; rtnetlink(7), linux/rtnetlink.h."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from sandbox.kernel import netlink
from unionfs._stdlib.dataclasses import dataclass

_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26  # RTM_*
_DESTINATION, _OUTPUT_INTERFACE, _GATEWAY, _TABLE = 1, 4, 5, 15  # RTA_*
LOCAL_TABLE, MAIN_TABLE = 255, 254
"""Tables of routes (RT_TABLE_*)."""
_PROTOCOL_STATIC = 4  # RTPROT_*
_SCOPE_EVERYWHERE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254  # RT_SCOPE_*
_UNICAST, _LOCAL, _ANYCAST = 1, 2, 4  # RTN_*
_OWN = (_LOCAL, _ANYCAST)
_HEADER = struct.Struct("=BBBBBBBBI")  # struct rtmsg

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

    @classmethod
    def to(cls, text: str, interface: int = 0) -> Route:
        """Return the route to *text*, "ADDRESS" or "ADDRESS/LENGTH"."""
        address, _, length = text.partition("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        return cls(family, packed, int(length) if length else 8 * len(packed), interface)

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


def local_routes(sock: socket.socket) -> list[Route]:
    """Return the destinations that are addresses of the network namespace of *sock*: routes of the types local and anycast.

    These are the addresses of its interfaces, prefixes that an administrator made local, and, on a router, anycast addresses.

    Raises:
        OSError: the kernel refuses the request.
    """
    return [route for route, kind in _all_routes(sock, LOCAL_TABLE) if kind in _OWN]


def default_routes(sock: socket.socket) -> list[Route]:
    """Return the default routes of the network namespace of *sock*.

    Raises:
        OSError: the kernel refuses the request.
    """
    return [route for route, kind in _all_routes(sock, MAIN_TABLE) if not route.length and kind == _UNICAST]


def main_routes(sock: socket.socket) -> list[Route]:
    """Return all routes of the main table of the network namespace of *sock*.

    Raises:
        OSError: the kernel refuses the request.
    """
    return [route for route, _ in _all_routes(sock, MAIN_TABLE)]


def add_local_route(sock: socket.socket, route: Route) -> bool:
    """Make the destination of *route* an address of the network namespace of *sock*, on the interface of *route*.

    Returns False if it is one already, or if the namespace or the interface has no such address family.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN in the user namespace that owns the network namespace.
    """
    try:
        netlink.change(sock, _NEW_ROUTE, _local_route(route), netlink.CREATE | netlink.EXCLUSIVE)
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
        netlink.change(sock, _DELETE_ROUTE, _local_route(route))
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT, errno.ENODEV):
            raise


def add_route(
    sock: socket.socket, route: Route, *, gateway: bytes | None = None, table: int = MAIN_TABLE
) -> None:
    """Add *route* to *table* (1 to 255), over *gateway* (an address in network byte order) if there is one.

    Raises:
        OSError: the kernel refuses it: EEXIST, ENETUNREACH for a gateway that no route leads to, EPERM.
    """
    scope = _SCOPE_EVERYWHERE if gateway is not None or route.family == socket.AF_INET6 else _SCOPE_LINK
    payload = _route(route, table, scope, _UNICAST)
    if gateway is not None:
        payload += netlink.attribute(_GATEWAY, gateway)
    netlink.change(sock, _NEW_ROUTE, payload, netlink.CREATE | netlink.EXCLUSIVE)


def changes(sock: socket.socket) -> list[Change]:
    """Return the changes of local routes that *sock*, which watches, has received; wait for the first packet.

    Raises:
        OSError: ENOBUFS if the kernel had to drop changes: read all routes again.
    """
    found = []
    for kind, payload in netlink.received(sock):
        if kind in (_NEW_ROUTE, _DELETE_ROUTE):
            route, route_type, _ = _parse(payload)
            if route_type in _OWN:
                found.append(Change(route, added=kind == _NEW_ROUTE))
    return found


def _local_route(route: Route) -> bytes:
    return _route(route, LOCAL_TABLE, _SCOPE_HOST, _LOCAL)


def _route(route: Route, table: int, scope: int, kind: int) -> bytes:
    header = _HEADER.pack(route.family, route.length, 0, 0, table, _PROTOCOL_STATIC, scope, kind, 0)
    destination = netlink.attribute(_DESTINATION, route.destination) if route.length else b""
    return header + destination + netlink.attribute(_OUTPUT_INTERFACE, netlink.number(route.interface))


def _all_routes(sock: socket.socket, table: int) -> Iterator[tuple[Route, int]]:
    """Yield the routes of *table*, each with its type."""
    for family in FAMILIES:
        header = _HEADER.pack(family, 0, 0, 0, table, 0, 0, 0, 0)
        try:
            answers = netlink.dump(sock, _GET_ROUTE, header)
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
                continue  # the kernel has no IPv6, or no such table
            raise
        for kind, payload in answers:
            if kind == _NEW_ROUTE:
                route, route_type, its_table = _parse(payload)
                if its_table == table and route.family == family:
                    yield route, route_type


def _parse(payload: bytes) -> tuple[Route, int, int]:
    """Return the route in *payload*, its type and its table."""
    family, length, _, _, table, _, _, kind, _ = _HEADER.unpack_from(payload)
    found = netlink.attributes(payload[_HEADER.size :])
    table = netlink.number_in(found.get(_TABLE), table)
    size = 4 if family == socket.AF_INET else 16
    destination = found.get(_DESTINATION, b"").ljust(size, b"\0")
    interface = netlink.number_in(found.get(_OUTPUT_INTERFACE), 0)
    return Route(family, destination, length, interface), kind, table
