"""The bridge `sandbox0`, which connects private networks of root with other machines, and its nftables table `inet sandbox`.

The bridge is in the network namespace of the machine. Each sandbox, or gate of a network, is at a port of its own: a veth pair. The
hardware address of a sandbox is a function of its IPv4 address, so the kernel has all of them before any program runs:

- A port is locked to the hardware address of its sandbox, isolated from other ports, and receives no frames for others
  (`links.add_port`). The bridge neither sends nor answers ARP requests, and learns no address.
- The table drops each packet whose hardware and IPv4 addresses do not belong together. So no program can send as another sandbox,
  even with the capability NET_RAW or NET_ADMIN.
- The table refuses what is for the machine itself, for another sandbox or for the metadata service of clouds: TCP with RST, other
  packets with ICMP, of which the kernel limits the rate (icmp_ratelimit of icmp(7)). It does so before the rules of others could
  change the destination. Only answers go to a sandbox. There is no IPv6.

The tables of others remain as they are. They can refuse more: a packet must pass all of them.

`sandbox.state.host_bridge` has the record of the ports. Bridge, table and setting disappear with the last port. After a SIGKILL of
the last supervisor, the next command removes them (:func:`remove_unused`).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable

from sandbox.errors import SetupError
from sandbox.kernel import links, neighbors, netlink, nftables, process, routes
from sandbox.network import shared_gate
from sandbox.network.closed_host import METADATA_SERVICE
from sandbox.network.nft import execute_nft
from sandbox.network.private_network import STEP
from sandbox.network.shared_gate import Subnet
from sandbox.plan.network_values import HOST_BRIDGE
from sandbox.state.host_bridge import BridgeDirectory, BridgePort, BridgeRecord
from sandbox.state.shared_networks import addresses_locked, list_networks
from unionfs._stdlib.dataclasses import dataclass, replace

TABLE = "sandbox"
"""The name of the table of nftables, of the family inet."""

_FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_DISABLE_IPV6 = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"
_MAC_PREFIX = b"\x02\x73"  # locally administered


def hardware_address(address: str) -> bytes:
    """Return the hardware address of the interface with the IPv4 *address*."""
    return _MAC_PREFIX + socket.inet_aton(address)


def table_rules(subnet: Subnet, *, alone: bool) -> str:
    """Return the table for sandboxes of *subnet*, in the language of nft(8).

    With *alone*, it also keeps the machine from forwarding between other interfaces, as it did not before the launcher set
    net.ipv4.ip_forward.
    """
    addresses = [str(one) for one in ipaddress.ip_network(subnet.text).hosts()]
    pairs = [f"{hardware_address(one).hex(':')} . {one}" for one in addresses if one != subnet.gateway]
    metadata = socket.inet_ntoa(METADATA_SERVICE.destination)
    others = f'iifname != "{HOST_BRIDGE}" oifname != "{HOST_BRIDGE}" drop' if alone else ""
    return f"""table inet {TABLE} {{
  set sandboxes {{ type ether_addr . ipv4_addr; elements = {{ {", ".join(pairs)} }}; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }}
  chain prerouting {{
    type filter hook prerouting priority mangle
    iifname != "{HOST_BRIDGE}" accept
    meta nfproto != ipv4 drop
    ether saddr . ip saddr != @sandboxes drop
    ip daddr {{ {subnet.text}, {metadata} }} goto refuse
    fib daddr type != unicast goto refuse
  }}
  chain input {{
    type filter hook input priority filter
    iifname "{HOST_BRIDGE}" goto refuse
  }}
  chain forward {{
    type filter hook forward priority filter
    iifname "{HOST_BRIDGE}" oifname "{HOST_BRIDGE}" goto refuse
    iifname "{HOST_BRIDGE}" accept
    oifname "{HOST_BRIDGE}" ct state established,related accept
    oifname "{HOST_BRIDGE}" goto refuse
    {others}
  }}
  chain output {{
    type filter hook output priority filter
    oifname "{HOST_BRIDGE}" ct state != {{ established, related }} goto refuse
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip saddr {subnet.text} oifname != "{HOST_BRIDGE}" masquerade
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A new port of the bridge. It has no link yet."""

    link: str
    address: str
    gateway: str
    #: The index of the bridge.
    bridge: int


def join(host: socket.socket, run_directory: str, warn: Callable[[str], None]) -> Joined:
    """Record a new port, and make what is missing of the bridge, its table and the setting.

    Args:
        host: a netlink socket of this network namespace.
        run_directory: has the record. Its lock (`BridgeDirectory.locked`) is the caller's.
        warn: receives that the setting is changed.

    Raises:
        SetupError: the bridge or the table belongs to others, or no address is free.
        OSError: the kernel or nft(8) refuses a part, or the record cannot be written.
    """
    directory = BridgeDirectory(run_directory)
    record = directory.read()
    if record is None:
        _refuse_those_of_others(host)
    else:
        record = _remove_ended(host, record)
    with addresses_locked(run_directory):  # until the route to the bridge shows which addresses are in use
        if record is None or not record.ports:
            if record is not None:
                _remove_bridge(host, record)
            record = BridgeRecord(
                subnet=_choose_subnet(host, run_directory),
                set_forwarding=_read(_FORWARDING) == "0",
                ports=(),
            )
        subnet = Subnet(record.subnet)
        port = _new_port(subnet, record)
        # First: whatever is made from here on, the next command can remove.
        directory.write(replace(record, ports=(*record.ports, port)))
        bridge = _make_bridge(host, subnet)
    if not nftables.has_table(TABLE):
        execute_nft(table_rules(subnet, alone=record.set_forwarding))
    if _read(_FORWARDING) == "0":  # after the table, which then closes the new way between other interfaces
        _write(_FORWARDING, "1")
        warn(
            f"{STEP}: net.ipv4.ip_forward was 0 and is 1 now, until the last private network of root ends; "
            "meanwhile, this machine still forwards nothing else"
        )
    return Joined(link=port.link, address=port.address, gateway=subnet.gateway, bridge=bridge)


def leave(host: socket.socket, directory: BridgeDirectory, link: str) -> None:
    """Remove the port *link* and, if it was the last one in use, the bridge, the table and the setting.

    The caller has the lock of *directory*. A port that is missing is no error.

    Raises:
        OSError: the kernel or nft(8) refuses it, or the record cannot be changed.
    """
    if (record := directory.read()) is None:
        if not directory.has_record():  # otherwise it is that of another pid namespace
            directory.remove()
        return
    kept = tuple(one for one in record.ports if one.link != link)
    _remove_link(host, link)
    record = _remove_ended(host, replace(record, ports=kept))
    if record.ports:
        directory.write(record)
        return
    _remove_bridge(host, record)
    directory.remove()


def remove_unused(run_directory: str) -> None:
    """Remove what supervisors that were killed have left of the bridge.

    Raises:
        OSError: the kernel or nft(8) refuses it, or the record cannot be changed.
    """
    directory = BridgeDirectory(run_directory)
    with directory.locked(), netlink.open_socket() as host:
        leave(host, directory, "")


def _refuse_those_of_others(host: socket.socket) -> None:
    """Refuse a bridge or a table of that name that no record has."""
    hint = "if no sandbox of root is running, remove it: {}"
    if _index(host, HOST_BRIDGE) is not None:
        raise SetupError(
            STEP,
            f"there is an interface {HOST_BRIDGE} already, which no sandbox of this run directory has made",
            hint=hint.format(f"ip link delete {HOST_BRIDGE}"),
        )
    if nftables.has_table(TABLE):
        raise SetupError(
            STEP,
            f"there is a table inet {TABLE} of nftables already, which no sandbox of this run directory has made",
            hint=hint.format(f"nft delete table inet {TABLE}"),
        )


def _remove_ended(host: socket.socket, record: BridgeRecord) -> BridgeRecord:
    """Remove the ports of supervisors that have ended; return the others."""
    used = record.used()
    for one in record.ports:
        if one not in used:
            _remove_link(host, one.link)
    return replace(record, ports=used)


def _choose_subnet(host: socket.socket, run_directory: str) -> str:
    taken = [str(one) for one in routes.main_routes(host) if one.family == socket.AF_INET and one.length]
    taken += [record.subnet for _, record in list_networks(run_directory)]
    try:
        return shared_gate.choose_subnet(taken).text
    except ValueError as error:
        raise SetupError(STEP, str(error)) from None


def _new_port(subnet: Subnet, record: BridgeRecord) -> BridgePort:
    address = subnet.lowest_free({one.address for one in record.ports})
    if address is None:
        raise SetupError(
            STEP, f"no address of {subnet.text} is free", hint="end another private network of root"
        )
    pid = os.getpid()
    return BridgePort(
        link=f"sb{os.urandom(5).hex()}", address=address, pid=pid, start=process.start_time(pid) or 0
    )


def _make_bridge(host: socket.socket, subnet: Subnet) -> int:
    """Make the bridge unless it exists; return its index."""
    index = _index(host, HOST_BRIDGE)
    if index is not None:
        return index
    links.add_bridge(host, HOST_BRIDGE, hardware_address(subnet.gateway))
    index = links.interface_index(host, HOST_BRIDGE)
    disable_ipv6(HOST_BRIDGE)
    links.add_address(host, index, subnet.gateway, int(subnet.text.partition("/")[2]))
    links.set_up(host, index, arp=False)
    return index


def connect(host: socket.socket, port: Joined, inside: socket.socket, namespace: int, interface: str) -> None:
    """Make the link of *port*, and give *interface* of the namespace behind it its address and its default route.

    Args:
        host: a netlink socket of this network namespace.
        port: what :func:`join` has returned.
        inside: a netlink socket of the network namespace of the sandbox or gate.
        namespace: a descriptor of that namespace.
        interface: the name of the interface to make there.

    Raises:
        OSError: the kernel refuses it.
    """
    own = hardware_address(port.address)
    links.add_pair(host, port.link, interface, namespace, peer_hardware=own)
    outer, inner = links.interface_index(host, port.link), links.interface_index(inside, interface)
    disable_ipv6(port.link)
    links.add_port(host, outer, port.bridge)
    neighbors.add_forwarding(host, outer, own)
    neighbors.add_neighbor(host, port.bridge, port.address, own)
    links.set_up(host, outer)
    links.generate_no_address(inside, inner)
    links.add_address(inside, inner, port.address, 32)
    links.set_up(inside, inner)
    neighbors.add_neighbor(inside, inner, port.gateway, hardware_address(port.gateway))
    gateway = routes.Route.to(port.gateway, inner)
    routes.add_route(inside, gateway)
    routes.add_route(inside, routes.Route.to("0.0.0.0/0", inner), gateway=gateway.destination)


def is_connected(host: socket.socket, port: Joined) -> bool:
    """Return whether the bridge and the link of *port* exist."""
    return _index(host, HOST_BRIDGE) == port.bridge and _index(host, port.link) is not None


def _remove_bridge(host: socket.socket, record: BridgeRecord) -> None:
    """Remove bridge, table and setting. The setting and the bridge go first: without the table, the bridge would be open."""
    if record.set_forwarding and _read(_FORWARDING) == "1":
        _write(_FORWARDING, "0")
    _remove_link(host, HOST_BRIDGE)
    if nftables.has_table(TABLE):
        execute_nft(f"delete table inet {TABLE}\n")


def _remove_link(host: socket.socket, name: str) -> None:
    if name and (index := _index(host, name)) is not None:
        links.remove(host, index)


def _index(host: socket.socket, name: str) -> int | None:
    try:
        return links.interface_index(host, name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def disable_ipv6(interface: str) -> None:
    """Keep the host's end from getting an IPv6 address. Without IPv6 in the kernel, this does nothing.

    Raises:
        OSError: the setting cannot be changed.
    """
    path = _DISABLE_IPV6.format(interface)
    if os.path.exists(path):
        _write(path, "1")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _write(path: str, content: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(content)
