"""Packed IP addresses, networks of them, and the classes of addresses that are not on the public Internet. Pure.

An address is 4 or 16 bytes in network order. The module `ipaddress` is not used: its import costs a start 4 ms, and its objects
cost memory for each connection.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from unionfs._stdlib.dataclasses import dataclass

_MAPPED = bytes(10) + b"\xff\xff"
_NAT64 = b"\x00\x64\xff\x9b" + bytes(8)
_6TO4 = b"\x20\x02"


def pack(text: str) -> bytes:
    """Return the address *text* as bytes; an IPv4-mapped IPv6 address becomes the IPv4 address.

    Raises:
        ValueError: *text* is not an address, or has a zone.
    """
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IP address without a zone") from None
    return packed[12:] if packed.startswith(_MAPPED) else packed


def unpack(address: bytes) -> str:
    """Return the notation of *address*."""
    return socket.inet_ntop(family_of(address), address)


def family_of(address: bytes) -> socket.AddressFamily:
    """Return AF_INET for 4 bytes, AF_INET6 for 16."""
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


@dataclass(frozen=True, slots=True)
class AddressRange:
    """A network in CIDR notation: the addresses whose first *bits* bits are those of *prefix*."""

    prefix: bytes
    bits: int

    @classmethod
    def parse(cls, text: str) -> AddressRange:
        """Return the network of ``ADDRESS/BITS``, or that of the one address ``ADDRESS``.

        Raises:
            ValueError: *text* is neither.
        """
        address, slash, bits = text.partition("/")
        try:
            prefix = pack(address)
        except ValueError:
            raise ValueError(f"{text!r} is neither an IP address nor a network") from None
        whole = len(prefix) * 8
        if not slash:
            return cls(prefix, whole)
        mapped = ":" in address and whole == 32  # ::ffff:10.0.0.0/104
        number = int(bits) - (96 if mapped else 0) if bits.isdecimal() and bits.isascii() else -1
        if not 0 <= number <= whole:
            raise ValueError(f"{text!r} has no valid prefix length")
        return cls(prefix, number)

    def __contains__(self, address: bytes) -> bool:
        """Return whether *address* is in this network; one of the other family never is."""
        if len(address) != len(self.prefix):
            return False
        rest = len(address) * 8 - self.bits
        return int.from_bytes(address, "big") >> rest == int.from_bytes(self.prefix, "big") >> rest

    def __str__(self) -> str:
        """Return the notation ADDRESS/BITS."""
        return f"{unpack(self.prefix)}/{self.bits}"

    def is_single(self) -> bool:
        """Return whether this is one address."""
        return self.bits == len(self.prefix) * 8

    def is_within(self, other: AddressRange) -> bool:
        """Return whether every address of this network is in *other*."""
        return self.bits >= other.bits and self.prefix in other


def _ranges(texts: str) -> tuple[AddressRange, ...]:
    return tuple(AddressRange.parse(text) for text in texts.split())


CLASSES: Mapping[str, tuple[AddressRange, ...]] = {
    "unspecified": _ranges("0.0.0.0/8 ::/128"),
    "loopback": _ranges("127.0.0.0/8 ::1/128"),
    "link-local": _ranges("169.254.0.0/16 fe80::/10"),
    "private": _ranges("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10 64:ff9b:1::/48"),
    "shared": _ranges("100.64.0.0/10"),
    "multicast": _ranges("224.0.0.0/4 ff00::/8"),
    "reserved": _ranges("192.0.0.0/24 198.18.0.0/15 240.0.0.0/4 ::/96 2001::/32"),
}
"""The classes of addresses to which a name of the Internet has no reason to resolve (RFC 6890). Their order decides for an
address that is in two. The networks for documentation (RFC 5737) are not among them: no service answers there."""

NEEDS_EXPLICIT_RULE = frozenset({"unspecified", "loopback", "link-local", "multicast"})
"""Classes for which a wider rule, such as 0.0.0.0/0, does not count. 169.254.169.254 gives credentials to programs in clouds."""


def class_of(address: bytes) -> tuple[str, AddressRange] | None:
    """Return the class of *address* with the network of the class that it is in; None for a public address.

    An IPv6 address that contains an IPv4 address (RFC 4291, 6052 and 3056) has the class of the latter: a translator on the way
    would deliver to it.
    """
    embedded = embedded_in(address)
    for name, ranges in CLASSES.items():
        for one in ranges:
            if address in one or (embedded is not None and embedded in one):
                return name, one
    return None


def embedded_in(address: bytes) -> bytes | None:
    """Return the IPv4 address that the IPv6 address *address* contains; None if it contains none."""
    if address.startswith((_MAPPED, _NAT64)) and len(address) == 16:
        return address[12:]
    if address.startswith(_6TO4) and len(address) == 16:
        return address[2:6]
    return None


def is_loopback(address: bytes) -> bool:
    """Return whether *address* is in 127.0.0.0/8, or ::1."""
    return any(address in one for one in CLASSES["loopback"])
