"""The request with which the launcher starts the process `sandbox-net`, as values. Descriptors are numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sandbox.network.names import Member
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

MOST_CONNECTIONS = 2000
"""TCP connections at once. Further ones are reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A forwarded port: from *listener* to *port* of *address*.

    *listener* is the descriptor of a TCP listener or a bound UDP socket, made by `open_socket` or `make_sockets` of `socket_maker`.
    """

    listener: int
    protocol: Literal["tcp", "udp"]
    address: str
    port: int
    #: Whether *address* is reached from the gate (a published port), not from the host's network namespace (host access).
    inside: bool
    #: Whether the connection inside has the address of the client as its source.
    transparent: bool = False
    #: Whether the addresses of the host are those of the sandbox itself (`closed_host`), and so cannot be a source there.
    host_is_closed: bool = False


@dataclass(frozen=True, slots=True)
class EgressListener:
    """A TCP listener inside the gate. *redirected*: an nftables rule redirects connections to other ports there."""

    fd: int
    redirected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRequest:
    """What `network.egress` and `network.hosts` of the file have, and the sockets of the gate for them."""

    allow: tuple[str, ...]
    deny: tuple[str, ...]
    hosts: Mapping[str, str]
    listeners: tuple[EgressListener, ...]
    #: The descriptor of a packet socket (`SocketSpec` "observer"), -1 if refused packets are not to be logged.
    observer: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsRequest:
    """The DNS server of one network namespace: UDP sockets and TCP listeners, normally at port 53 of every address."""

    udp: tuple[int, ...]
    tcp: tuple[int, ...]
    #: Whether it answers names that the egress rules allow, and no others but those of members.
    egress: bool = False
    #: The networks whose members it answers, each with these.
    networks: Mapping[str, tuple[Member, ...]] = MappingProxyType({})
    #: Whether unknown names are sent to the resolvers of the host: a network that is not internal. Not together with *egress*.
    forwards: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """All that `sandbox-net` does for one sandbox."""

    #: Descriptor of one end of a SOCK_SEQPACKET pair; see `control`.
    control: int
    forwards: tuple[Forward, ...] = ()
    egress: EgressRequest | None = None
    dns: tuple[DnsRequest, ...] = ()
    #: Addresses of the host's name servers, from its resolv.conf(5).
    resolvers: tuple[str, ...] = ()
    #: Descriptors of the namespaces for connections into the sandbox; *gate_user* -1 if our user namespace owns the network one.
    gate_user: int = -1
    gate_network: int = -1
    #: BPF programs of `sandbox.seccomp.network`; None if this machine cannot compile any.
    filter: bytes | None = None
    resolver_filter: bytes | None = None
    #: Version of Landlock's ABI, 0 without Landlock.
    landlock: int = 0
    #: User and group id that real root's process changes to, because no process of real root parses what a program sends.
    ids: tuple[int, int] | None = None
    most_connections: int = MOST_CONNECTIONS

    def descriptors(self) -> set[int]:
        """Return every descriptor of the request."""
        found = {self.control, self.gate_user, self.gate_network, *(one.listener for one in self.forwards)}
        for server in self.dns:
            found.update(server.udp, server.tcp)
        if self.egress is not None:
            found.update({self.egress.observer, *(one.fd for one in self.egress.listeners)})
        return found - {-1}
