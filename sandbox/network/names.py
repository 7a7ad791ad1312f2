"""Tables of names: allowed names with an address of their own, and the members of a network. Pure; they change during a run."""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.network.addresses import AddressRange, pack
from sandbox.network.egress_rules import canonical_name
from unionfs._stdlib.dataclasses import dataclass

OWN_ADDRESSES = AddressRange.parse("198.18.0.0/15")
"""Where each allowed name has its address. The network is reserved for benchmarks (RFC 2544), so no service is there."""

MOST_NAMES = 8192
"""The most names that get an address in one run. They take 3 MB; a program can query any number of names of a wildcard."""


class EgressNames:
    """Gives each allowed name one address of `OWN_ADDRESSES`, which it keeps for the run."""

    def __init__(self) -> None:
        """Start without names."""
        self._addresses: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}
        self._next = int.from_bytes(OWN_ADDRESSES.prefix, "big")

    def address_of(self, name: str) -> bytes | None:
        """Return the address of the canonical *name*, a new one at its first query; None if `MOST_NAMES` names have one."""
        address = self._addresses.get(name)
        if address is None and len(self._addresses) < MOST_NAMES:
            self._next += 1
            while self._next & 0xFF in (
                0,
                0xFF,
            ):  # some programs take such an address for a network or a broadcast
                self._next += 1
            address = self._next.to_bytes(4, "big")
            self._addresses[name] = address
            self._names[address] = name
        return address

    def name_at(self, address: bytes) -> str | None:
        """Return the name that has *address*, None if no name has it."""
        return self._names.get(address)


@dataclass(frozen=True, slots=True)
class Member:
    """A sandbox in a network: its name, its other names there, and its address in the usual notation."""

    name: str
    address: str
    aliases: tuple[str, ...] = ()


class MemberNames:
    """The names of the members of one network, also with the name of the network behind a dot."""

    def __init__(self, network: str) -> None:
        """Start without members of *network*."""
        self._suffix = "." + canonical_name(network)
        self._addresses: dict[str, list[bytes]] = {}
        self._names: dict[bytes, str] = {}

    def replace(self, members: Iterable[Member]) -> None:
        """Replace all members.

        Raises:
            ValueError: an address is none; the table is then unchanged.
        """
        addresses: dict[str, list[bytes]] = {}
        names: dict[bytes, str] = {}
        for member in members:
            packed = pack(member.address)
            for name in map(canonical_name, (member.name, *member.aliases)):
                for known in (name, name + self._suffix):
                    found = addresses.setdefault(known, [])
                    if packed not in found:
                        found.append(packed)
            names[packed] = canonical_name(member.name) + self._suffix
        self._addresses, self._names = addresses, names

    def addresses_of(self, name: str) -> list[bytes]:
        """Return the addresses of the canonical *name*; several if members share an alias."""
        return self._addresses.get(name, [])

    def name_at(self, address: bytes) -> str | None:
        """Return NAME.NETWORK of the member with *address*, None if there is none."""
        return self._names.get(address)

    def is_inside(self, name: str) -> bool:
        """Return whether the canonical *name* ends in the name of the network, so that no other server knows it."""
        return name.endswith(self._suffix)
