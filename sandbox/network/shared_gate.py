"""Set up the gate of a network that several sandboxes share: a router between its members.

Each member has a link of its own to the gate, and the gate has a route for its one address. So there is no medium on which members
could answer ARP for each other, and the reverse path filter drops each packet whose source is not the address of its link
(net.ipv4.conf.all.rp_filter = 1, networking/ip-sysctl.rst of the kernel). The rules of the gate, by priority:

    0    packets for addresses of the gate: the gateway, and those of the host, which end here (`closed_host`)
    60   packets for members use a table of their own, which has one route for each
    61   packets for other addresses of the subnet are refused: the default route would lead them to another machine
    62   other packets of members are refused: always in an internal network, otherwise while the uplink is not ready
    63   other packets of a member with `network.egress` are refused
         other packets use the main table, whose default route is that of the uplink
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from itertools import combinations

from sandbox.errors import SetupError
from sandbox.kernel import links, routes
from sandbox.kernel.routes import Route
from sandbox.kernel.routing_rules import Rule, add_rule, remove_rule
from sandbox.network.gate import Gate, Settings, enter_as_root
from sandbox.network.nft import Nft
from unionfs._stdlib.dataclasses import dataclass

SHARED_GATE: Settings = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/icmp_ratelimit", "0"),  # every refused datagram is answered, not one a second
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
)
"""Settings of the gate. Members have IPv4 addresses only."""

UPLINK = "up0"
"""The interface of the gate that leads to other machines."""

_LOOPBACK = "lo"
_MEMBERS_TABLE = 100
_TO_MEMBERS, _ABSENT, _CLOSED, _RESTRICTED = 60, 61, 62, 63


@dataclass(frozen=True, slots=True)
class Subnet:
    """The addresses of a network: the first one is the gateway's, and members have the others."""

    text: str

    @property
    def gateway(self) -> str:
        """The address of the gate."""
        return str(ipaddress.ip_network(self.text)[1])

    def lowest_free(self, used: set[str]) -> str | None:
        """Return the lowest address of a member that is not in *used*; None if all are."""
        hosts = ipaddress.ip_network(self.text).hosts()
        next(hosts)  # the gateway's
        return next((str(one) for one in hosts if str(one) not in used), None)


def choose_subnet(taken: Iterable[str]) -> Subnet:
    """Return a block of 10.89.0.0/16 or, if that is used up, of 10.0.0.0/8, which overlaps none of *taken*, networks in CIDR notation.

    Raises:
        ValueError: there is none.
    """
    used = [ipaddress.ip_network(one) for one in taken]
    for second in (89, *range(90, 256), *range(89)):
        for third in range(256):
            block = ipaddress.ip_network(f"10.{second}.{third}.0/24")
            if not any(block.overlaps(one) for one in used):
                return Subnet(str(block))
    raise ValueError("every block of 10.0.0.0/8 is in use")


def check_subnets(subnets: Mapping[str, str]) -> None:
    """Check the networks of one sandbox, whose routes lead to one of them for each address; *subnets* are in CIDR notation.

    Raises:
        SetupError: two of them have common addresses.
    """
    for (one, first), (other, second) in combinations(subnets.items(), 2):
        if ipaddress.ip_network(first).overlaps(ipaddress.ip_network(second)):
            raise SetupError(
                f"network {other}",
                f"its addresses {second} overlap those of the network {one}, {first}",
                hint=f"set another networks.{one}.subnet or networks.{other}.subnet in all files that join it",
            )


def overlapping(subnet: str, taken: Iterable[str]) -> str | None:
    """Return the first of *taken* that has an address of *subnet*, networks in CIDR notation; None if none has."""
    own = ipaddress.ip_network(subnet)
    return next((one for one in taken if own.overlaps(ipaddress.ip_network(one))), None)


def prepare(gate: Gate, subnet: Subnet) -> None:
    """Make *gate*, which has no links, the router of an internal network.

    Raises:
        OSError: the kernel refuses it.
    """
    loopback = links.interface_index(gate.netlink, _LOOPBACK)
    links.set_up(gate.netlink, loopback)
    links.add_address(gate.netlink, loopback, subnet.gateway, 32)
    everything = Route.to(subnet.text)
    add_rule(gate.netlink, Rule(priority=_TO_MEMBERS, table=_MEMBERS_TABLE, destination=everything))
    add_rule(gate.netlink, Rule(priority=_ABSENT, table=None, destination=everything))
    add_rule(gate.netlink, _closing(subnet))


def _closing(subnet: Subnet) -> Rule:
    return Rule(priority=_CLOSED, table=None, source=Route.to(subnet.text))


def set_closed(gate: Gate, subnet: Subnet, *, closed: bool) -> None:
    """Refuse what members send to other machines, or let it through.

    Raises:
        OSError: the kernel refuses it.
    """
    if closed:
        add_rule(gate.netlink, _closing(subnet))
    else:
        remove_rule(gate.netlink, _closing(subnet))


def add_member(
    gate: Gate,
    subnet: Subnet,
    link: str,
    address: str,
    *,
    restricted: bool,
    inside: socket.socket,
    sandbox_fd: int,
    interface: str,
    default: bool,
) -> None:
    """Connect a sandbox with *gate*.

    Args:
        gate: of the network.
        subnet: its addresses.
        link: the name of the new interface of the gate.
        address: of the member.
        restricted: whether it may reach members only.
        inside: a netlink socket of the sandbox's network namespace.
        sandbox_fd: a descriptor of that namespace.
        interface: the name of the new interface of the sandbox.
        default: whether the sandbox reaches other machines by this network.

    Raises:
        OSError: the kernel refuses it.
    """
    links.add_pair(gate.netlink, link, interface, sandbox_fd)
    outer, inner = links.interface_index(gate.netlink, link), links.interface_index(inside, interface)
    if restricted:
        add_rule(gate.netlink, _restricting(link))
    links.set_up(inside, links.interface_index(inside, _LOOPBACK))
    links.add_address(inside, inner, address, 32)
    links.set_up(inside, inner)
    gateway = Route.to(subnet.gateway, inner)
    routes.add_route(inside, gateway)
    for destination in (subnet.text, *(["0.0.0.0/0"] if default else [])):
        routes.add_route(inside, Route.to(destination, inner), gateway=gateway.destination)
    links.set_up(gate.netlink, outer)
    routes.add_route(gate.netlink, Route.to(address, outer), table=_MEMBERS_TABLE)


def remove_member(gate: Gate, link: str) -> None:
    """Undo :func:`add_member`. What is missing is no error.

    Raises:
        OSError: EPERM.
    """
    remove_rule(gate.netlink, _restricting(link))
    if (index := link_index(gate, link)) is not None:
        links.remove(gate.netlink, index)


def end_member(gate: Gate, link: str) -> None:
    """Undo :func:`add_member`, but leave the interface, brought down: it disappears with the sandbox's network namespace.

    Raises:
        OSError: EPERM.
    """
    remove_rule(gate.netlink, _restricting(link))
    if (index := link_index(gate, link)) is not None:
        links.set_down(gate.netlink, index)


def _restricting(link: str) -> Rule:
    return Rule(priority=_RESTRICTED, table=None, interface=link)


def link_index(gate: Gate, link: str) -> int | None:
    """Return the index of the interface *link* of *gate*; None if it has none of this name."""
    try:
        return links.interface_index(gate.netlink, link)
    except OSError:
        return None


def start_masquerading(gate: Gate, subnet: Subnet) -> Nft:
    """Give what members send to other machines the address of the uplink, by nft(8): the uplink knows no other.

    Raises:
        OSError: no process can be made.
    """
    rules = (
        "table ip sandbox {}\nflush table ip sandbox\n"
        "table ip sandbox {\nchain postrouting {\ntype nat hook postrouting priority srcnat\n"
        f'oifname "{UPLINK}" ip saddr {subnet.text} masquerade\n}}\n}}\n'
    )
    return Nft(rules, lambda: enter_as_root(gate))
