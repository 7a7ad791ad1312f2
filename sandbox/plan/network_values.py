"""Define the private network of a sandbox as a value."""

from __future__ import annotations

from sandbox.spec.values.addresses import HostService, Port
from unionfs._stdlib.dataclasses import dataclass, replace

RESOLVER = "169.254.1.1"
"""The address at which a private network reaches the name server of the host."""

INTERFACE = "eth0"
"""The name of the interface of a private network, as in containers of other engines."""


GATE, SANDBOX = "192.0.0.1", "192.0.0.2"
"""The addresses of the gate of `network.egress` and of the sandbox beside it, of a block that no machine has (RFC 7335)."""

GATE6, SANDBOX6 = "fd73:616e:6462::1", "fd73:616e:6462::2"


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPlan:
    """The destinations of `network.egress`, as the file writes them, and the names of `network.hosts` with their addresses."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A private network: the program that connects it with other machines, and what it opens."""

    #: The path of pasta(1); None with *egress*, which the launcher's own process connects.
    pasta: str | None = None
    #: The destinations that can be reached; None for all.
    egress: EgressPlan | None = None
    ports: tuple[Port, ...] = ()
    host_access: tuple[HostService, ...] = ()
    #: "stop" or "restart": what happens to the sandbox if the program ends.
    on_failure: str = "stop"
    #: Whether the launcher is root of the machine. Then pasta has to be told to stay root: as nobody, which is its default, it may
    #: not open the namespaces of the sandbox.
    as_root: bool = False

    @property
    def other_services(self) -> tuple[HostService, ...]:
        """The services with the ports of :attr:`host_access`, but at the loopback address of the other family.

        pasta would open them, too: it takes only the port.
        """
        others = {"127.0.0.1": "::1", "::1": "127.0.0.1"}
        found = [replace(one, address=others[one.address]) for one in self.host_access]
        return tuple(one for one in found if one not in self.host_access)

    @property
    def connected_by(self) -> str:
        """The program that connects the network."""
        return "sandbox-net" if self.pasta is None else self.pasta

    def describe(self) -> list[str]:
        """Return the network as lines."""
        lines = [
            f"private network: connected by {self.connected_by}; if that ends, {self.on_failure} the sandbox"
        ]
        if self.egress is not None:
            lines += [f"allow connections to {one}" for one in self.egress.allow]
            lines += [f"deny connections to {one}" for one in self.egress.deny]
        lines += [f"forward port {port}" for port in self.ports]
        lines += [f"open the service {service} of the host" for service in self.host_access]
        return lines
