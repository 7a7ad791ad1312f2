"""Send requests to a network namespace over netlink; netlink(7), rtnetlink(7).

The messages are laid out here, because importing a netlink library takes longer than the whole start of a sandbox.

A netlink socket belongs to the network namespace in which it was created, whichever process uses it. With an explicit
destination address, the kernel checks the capabilities of the sender and not those of the process that opened the socket
(__netlink_ns_capable, net/netlink/af_netlink.c). So the owner of a user namespace can configure a network namespace below it
from outside.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator

_KERNEL = (0, 0)  # struct sockaddr_nl: port id and groups of the kernel
_ROUTE = 0  # NETLINK_ROUTE
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_ERROR, _DONE = 2, 3  # NLMSG_*
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # NLM_F_*
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_NESTED = 0x8000  # NLA_F_NESTED
_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK
_BUFFER = 1 << 18

REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
"""Flags of a request that makes an object (NLM_F_*)."""

ROUTES, LINKS = 0x40 | 0x400, 0x1
"""What a socket can watch: routes of IPv4 and IPv6 (RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE), or interfaces (RTMGRP_LINK)."""


def open_socket(watch: int = 0, *, protocol: int = _ROUTE) -> socket.socket:
    """Return a netlink socket of this network namespace; it receives changes of what *watch* has.

    *protocol* is the part of the kernel that answers (NETLINK_*).

    Raises:
        OSError: the kernel has no netlink, or no descriptor is left.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.bind((0, watch))
    except OSError:
        sock.close()
        raise
    return sock


def change(sock: socket.socket, kind: int, payload: bytes, flags: int = 0) -> None:
    """Send a request of *kind* (RTM_*) and wait until the kernel has fulfilled it.

    Raises:
        OSError: the error with which the kernel answers; EPERM without CAP_NET_ADMIN in the user namespace that owns the network
            namespace.
    """
    _request(sock, kind, flags | _ACK, payload)


def dump(sock: socket.socket, kind: int, payload: bytes) -> list[tuple[int, bytes]]:
    """Return the messages with which the kernel answers a request of *kind* (RTM_GET*) for all objects, each with its type.

    Raises:
        OSError: the error with which the kernel answers.
    """
    try:
        # The kernel sends only what *payload* selects. Without the option it sends every route, of which routers have a million.
        sock.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
    except OSError:
        pass  # before Linux 4.20
    return _request(sock, kind, _DUMP, payload)


def received(sock: socket.socket) -> list[tuple[int, bytes]]:
    """Return the next messages that *sock*, which watches, receives, each with its type; wait for the first packet.

    Raises:
        OSError: ENOBUFS if the kernel had to drop messages.
    """
    return list(_messages(sock.recv(_BUFFER)))


def _request(sock: socket.socket, kind: int, flags: int, payload: bytes) -> list[tuple[int, bytes]]:
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


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in *data* by type."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute with its padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value.ljust(_aligned(len(value)), b"\0")


def nested(kind: int, *parts: bytes) -> bytes:
    """Return an attribute that consists of the attributes *parts*."""
    return attribute(kind | _NESTED, b"".join(parts))


def number(value: int) -> bytes:
    """Return *value* as the 32-bit number of an attribute."""
    return value.to_bytes(4, sys.byteorder)


def number_in(value: bytes | None, otherwise: int) -> int:
    """Return the 32-bit number *value* of an attribute, or *otherwise* if it is no such number."""
    return int.from_bytes(value, sys.byteorder) if value is not None and len(value) == 4 else otherwise


def text(value: str) -> bytes:
    """Return *value* as the string of an attribute."""
    return value.encode() + b"\0"


def _aligned(length: int) -> int:
    return (length + 3) & ~3
