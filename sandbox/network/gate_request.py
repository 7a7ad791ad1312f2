"""Make the sockets that `sandbox-net` serves for one sandbox with a gate of its own, and the request that has them."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from sandbox.network.egress_rules import EgressRules
from sandbox.network.gate import GATE_INTERFACE, Gate, redirect
from sandbox.network.request import DnsRequest, EgressListener, EgressRequest, Forward, NetworkRequest
from sandbox.network.socket_maker import SocketSpec, make_sockets
from sandbox.plan.network_values import SANDBOX, EgressPlan, NetworkPlan
from sandbox.spec.values.addresses import Port
from unionfs._stdlib.dataclasses import dataclass

_EVERY_ADDRESS = ("0.0.0.0", "::")
_DNS_PORT = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What the process `sandbox-net` is confined by; see `request.NetworkRequest`."""

    filter: bytes | None
    resolver_filter: bytes | None
    landlock: int
    ids: tuple[int, int] | None


def rules_of(plan: NetworkPlan) -> EgressRules | None:
    """Return the rules of the destinations that *plan* allows; None if it allows all."""
    egress = plan.egress
    return None if egress is None else EgressRules.parse(egress.allow, egress.deny, dict(egress.hosts))


def make_request(
    plan: NetworkPlan,
    gate: Gate,
    sandbox: tuple[int, int],
    published: Sequence[tuple[Port, socket.socket]],
    confinement: Confinement,
    channel: int,
    stack: ExitStack,
) -> NetworkRequest:
    """Return the request for a sandbox that is connected with *gate*.

    Args:
        plan: of the network.
        gate: the sandbox's own.
        sandbox: descriptors of the user and network namespaces of the sandbox.
        published: the forwarded ports, with their listeners.
        confinement: of the process.
        channel: the process's end of the control channel.
        stack: closes the sockets that are made here.

    Raises:
        OSError: a socket cannot be made, or nft(8) cannot redirect connections.
    """
    rules = rules_of(plan)
    with_ipv6 = rules is not None and rules.needs_ipv6()
    addresses = _EVERY_ADDRESS if with_ipv6 else _EVERY_ADDRESS[:1]
    specs = [SocketSpec(kind, address, _DNS_PORT) for kind in ("udp", "tcp") for address in addresses]
    udp, tcp = slice(0, len(addresses)), slice(len(addresses), 2 * len(addresses))
    numbers: Sequence[int] = ()
    if rules is not None:
        numbers = (0,) if rules.needs_redirect() else [port for port in rules.ports() if port != _DNS_PORT]
        specs += [SocketSpec("tcp", address, number) for number in numbers for address in addresses]
        specs.append(SocketSpec("observer", GATE_INTERFACE))
    found = _make(gate.user_fd, gate.network_fd, specs, stack)
    egress = None
    if rules is not None and plan.egress is not None:
        *listeners, observer = found[tcp.stop :]
        egress = _egress_request(plan.egress, rules, gate, listeners, observer)
    return NetworkRequest(
        control=channel,
        forwards=(
            *_forwards_in(published, host_is_closed=plan.uplink is not None),
            *_forwards_out(plan, sandbox, stack),
        ),
        egress=egress,
        dns=(
            DnsRequest(
                udp=tuple(found[udp]),
                tcp=tuple(found[tcp]),
                egress=egress is not None,
                networks={one.network: () for one in plan.memberships},  # their members follow as messages
                forwards=plan.forwards_names,
            ),
        ),
        resolvers=plan.resolvers if plan.forwards_names else (),
        gate_user=gate.user_fd,
        gate_network=gate.network_fd,
        filter=confinement.filter,
        resolver_filter=confinement.resolver_filter,
        landlock=confinement.landlock,
        ids=confinement.ids,
    )


def _make(user_fd: int, network_fd: int, specs: Sequence[SocketSpec], stack: ExitStack) -> list[int]:
    found = make_sockets(user_fd, network_fd, specs) if specs else []
    for one in found:
        stack.callback(one.close)
    return [one.fileno() for one in found]


def _egress_request(
    egress: EgressPlan, rules: EgressRules, gate: Gate, listeners: Sequence[int], observer: int
) -> EgressRequest:
    redirected = rules.needs_redirect()
    if redirected:
        for fd in listeners:
            redirect(gate, _port_of(fd))
    return EgressRequest(
        allow=egress.allow,
        deny=egress.deny,
        hosts=dict(egress.hosts),
        listeners=tuple(EgressListener(fd, redirected=redirected) for fd in listeners),
        observer=observer,
    )


def _forwards_in(published: Sequence[tuple[Port, socket.socket]], *, host_is_closed: bool) -> list[Forward]:
    return [
        Forward(
            listener=one.fileno(),
            protocol=port.protocol,
            address=SANDBOX,
            port=port.sandbox,
            inside=True,
            transparent=True,
            host_is_closed=host_is_closed,
        )
        for port, one in published
    ]


def _forwards_out(plan: NetworkPlan, sandbox: tuple[int, int], stack: ExitStack) -> list[Forward]:
    services = plan.host_access
    specs = [SocketSpec(one.protocol, one.address, one.port) for one in services]
    return [
        Forward(listener=fd, protocol=one.protocol, address=one.address, port=one.port, inside=False)
        for one, fd in zip(services, _make(*sandbox, specs, stack), strict=True)
    ]


def _port_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as one:
        port: int = one.getsockname()[1]
        return port
