"""[network] and [networks]: the connections from and to the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sandbox.spec.codecs import Boolean, Choice, ListOf, TableOf, Text
from sandbox.spec.decode import Record
from sandbox.spec.settings import setting
from sandbox.spec.values.addresses import (
    AddressCodec,
    AliasCodec,
    DomainCodec,
    EndpointCodec,
    HostService,
    HostServiceCodec,
    Port,
    PortCodec,
    SubnetCodec,
    check_domain,
)
from unionfs._stdlib.dataclasses import dataclass

NETWORK_NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"
NETWORK_NAME_RULE = (
    "a name has 1 to 63 lower-case letters, digits, '_', '.' and '-', the first a letter or digit"
)

_NO_STRINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Egress:
    """network.egress: allowed and denied destinations, by name, address or network. `deny` wins over `allow`."""

    allow: tuple[str, ...] = setting(
        ListOf(EndpointCodec(), distinct=True),
        doc="Destinations that may be connected to; all others are denied.",
        example=["example.org:443", "10.0.0.0/8"],
        default=(),
    )
    deny: tuple[str, ...] = setting(
        ListOf(EndpointCodec(), distinct=True),
        doc="Destinations that may not be connected to.",
        example=["169.254.0.0/16"],
        default=(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """[network]: the network of the sandbox."""

    mode: str = setting(
        Choice("none", "host", "private"),
        doc="none: only a loopback interface of its own. host: the network of the host, including its loopback interface. "
        "private: a network of its own that reaches other machines, but no address of the host.",
        example="private",
        default="none",
    )
    ports: tuple[Port, ...] = setting(
        ListOf(PortCodec()),
        doc="Ports of the host that are forwarded to the sandbox; without an address, only this machine can connect. "
        "Port 0 of the host is any free port, which `sandbox port` prints.",
        example=["127.0.0.1:8080:80/tcp", "8000-8010:8000-8010"],
        default=(),
    )
    dns: tuple[str, ...] = setting(
        ListOf(AddressCodec(), distinct=True),
        doc="Name servers; without any, those of the host.",
        example=["9.9.9.9"],
        default=(),
    )
    search: tuple[str, ...] = setting(
        ListOf(DomainCodec(), distinct=True),
        doc="Domains in which names are looked up; without any, those of the host.",
        example=["example.org"],
        default=(),
    )
    hosts: Mapping[str, str] = setting(
        TableOf(AddressCodec(zones=False), check_domain),
        doc="Names with their addresses, for /etc/hosts.",
        example={"db": "10.0.0.2"},
        default=_NO_STRINGS,
    )
    networks: tuple[str, ...] = setting(
        ListOf(Text(NETWORK_NAME, NETWORK_NAME_RULE), distinct=True),
        doc="Names of networks that the sandbox joins; the file defines each in [networks.NAME]. The members of a network reach "
        "each other by name. Without `egress`, the sandbox reaches other machines through the first network that is not "
        'internal. The key implies mode = "private".',
        example=["backend"],
        default=(),
    )
    aliases: tuple[str, ...] = setting(
        ListOf(AliasCodec(), distinct=True),
        doc="Names by which members of its networks reach the sandbox, besides sandbox.name.",
        example=["db"],
        default=(),
    )
    egress: Egress | None = setting(
        Record(Egress),
        doc='Destinations of connections that are allowed or denied; without it, all are allowed. It implies mode = "private".',
        example={"allow": ["example.org:443"]},
    )
    host_access: tuple[HostService, ...] = setting(
        ListOf(HostServiceCodec(), distinct=True),
        doc="Services on the host's loopback interface that the sandbox reaches at the same address and port.",
        example=["127.0.0.1:5432", "127.0.0.1:53/udp"],
        default=(),
    )
    on_failure: str = setting(
        Choice("stop", "restart"),
        doc="What happens if the program that connects the private network ends: stop the sandbox, or restart it.",
        example="restart",
        default="stop",
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Keys of this table that are not required: if one cannot be enforced, the sandbox starts with a warning.",
        example=["egress"],
        default=(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkDefinition:
    """[networks.NAME]: a network that several sandboxes share."""

    subnet: str | None = setting(
        SubnetCodec(),
        doc="The IPv4 addresses of the network; without it, those of the running members, or a block that this machine has no route to.",
        example="10.89.0.0/24",
    )
    internal: bool = setting(
        Boolean(),
        doc="Whether the members reach only each other through the network, and no other machine.",
        example=True,
        default=False,
    )
