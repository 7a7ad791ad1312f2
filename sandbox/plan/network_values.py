"""Define the private network of a sandbox as a value."""

from __future__ import annotations

from sandbox.spec.values.addresses import HostService, Port
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import Literal

RESOLVER = "169.254.1.1"
"""The address at which a private network reaches the name server of the host."""

INTERFACE = "eth0"
"""The name of the first interface of a private network, as in containers of other engines."""

HOST_INTERFACE = "host0"
"""The name of the interface that leads to the sandbox's own gate, beside those of networks or of an uplink."""

HOST_BRIDGE = "sandbox0"
"""The bridge of the host that connects private networks of root with other machines."""

GATE, SANDBOX = "192.0.0.1", "192.0.0.2"
"""The addresses of the sandbox's own gate and of the sandbox beside it, of a block that no machine has (RFC 7335)."""

GATE6, SANDBOX6 = "fd73:616e:6462::1", "fd73:616e:6462::2"


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPlan:
    """The destinations of `network.egress`, as the file writes them, and the names of `network.hosts` with their addresses."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkPlan:
    """What connects a private network, or a network of several sandboxes, with other machines."""

    kind: Literal["pasta", "slirp4netns", "bridge"]
    #: The path of the program. For a bridge, nft(8), which makes its rules and ends.
    program: str
    #: Whether the launcher is root of the machine.
    as_root: bool = False

    def __str__(self) -> str:
        """Return what connects it, for a person."""
        return f"the bridge {HOST_BRIDGE}" if self.kind == "bridge" else self.program


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipPlan:
    """A network of several sandboxes that this one joins."""

    network: str
    #: The addresses of the network in CIDR notation; None if the launcher chooses them.
    subnet: str | None = None
    #: What connects the network with other machines; None for an internal one.
    uplink: UplinkPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A private network: what connects it with other machines, and what it opens."""

    #: What connects the sandbox itself; None if the networks or *egress* do.
    uplink: UplinkPlan | None = None
    #: The destinations that can be reached; None for all.
    egress: EgressPlan | None = None
    memberships: tuple[MembershipPlan, ...] = ()
    #: The names of the sandbox in its networks: its own first.
    names: tuple[str, ...] = ()
    #: The name servers to which the gate sends queries that it cannot answer.
    resolvers: tuple[str, ...] = ()
    #: The environment file, for messages.
    file: str = ""
    ports: tuple[Port, ...] = ()
    host_access: tuple[HostService, ...] = ()
    #: "stop" or "restart": what happens to the sandbox if the program ends.
    on_failure: str = "stop"

    @property
    def has_gate(self) -> bool:
        """Whether the sandbox has a gate of its own, which `sandbox-net` serves. Otherwise pasta does everything."""
        return self.uplink is None or self.uplink.kind != "pasta"

    @property
    def forwards_names(self) -> bool:
        """Whether the gate sends queries that it cannot answer to the name servers."""
        return self.has_gate and self.egress is None

    @property
    def other_services(self) -> tuple[HostService, ...]:
        """The services with the ports of :attr:`host_access`, but at the loopback address of the other family.

        pasta would open them, too: it takes only the port.
        """
        if self.has_gate:
            return ()
        others = {"127.0.0.1": "::1", "::1": "127.0.0.1"}
        found = [replace(one, address=others[one.address]) for one in self.host_access]
        return tuple(one for one in found if one not in self.host_access)

    @property
    def uplinks(self) -> tuple[UplinkPlan, ...]:
        """What connects the sandbox itself and its networks with other machines."""
        found = (self.uplink, *(one.uplink for one in self.memberships))
        return tuple(one for one in found if one is not None)

    @property
    def connected_by(self) -> str:
        """The programs, or the bridge, that connect the network."""
        programs = [str(one) for one in self.uplinks] if self.egress is None else []
        own = ["sandbox-net"] if self.has_gate else []
        return " and ".join(dict.fromkeys(own + programs))

    def describe(self) -> list[str]:
        """Return the network as lines."""
        lines = [
            f"private network: connected by {self.connected_by}; if that ends, {self.on_failure} the sandbox"
        ]
        if self.uplink is not None and self.uplink.kind == "slirp4netns":
            lines.append("slirp4netns has no IPv6, and is slower than pasta")
        if any(one.kind == "bridge" for one in self.uplinks):
            lines.append(f"{HOST_BRIDGE} has no IPv6, and needs net.ipv4.ip_forward, which is set if it is 0")
        for one in self.memberships:
            kind = "internal" if one.uplink is None else f"connected by {one.uplink}"
            lines.append(f"join the network {one.network} as {', '.join(self.names)} ({kind})")
        if self.egress is not None:
            lines += [f"allow connections to {one}" for one in self.egress.allow]
            lines += [f"deny connections to {one}" for one in self.egress.deny]
        lines += [f"forward port {port}" for port in self.ports]
        lines += [f"open the service {service} of the host" for service in self.host_access]
        return lines
