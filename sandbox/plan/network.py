"""Plan the private network of a sandbox, and the content of its /etc/resolv.conf."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.host.facts import HostFacts
from sandbox.host.network_facts import NetworkFacts
from sandbox.plan.findings import Findings
from sandbox.plan.network_values import (
    GATE,
    RESOLVER,
    EgressPlan,
    MembershipPlan,
    NetworkPlan,
    UplinkPlan,
)
from sandbox.spec.model import Spec
from unionfs._stdlib.dataclasses import dataclass

_INSTALL = 'install the package passt (as root: apt-get install passt), or set mode = "host" or "none"'
_INSTALL_FOR_NETWORK = (
    "install the package passt (as root: apt-get install passt), or set internal = true in [networks.{}]"
)
_INSTALL_NFT = "install the package nftables (as root: apt-get install nftables), or set internal = true in [networks.{}]"

_LOCKED_PORTS = (5, 16)
"""The version of Linux whose bridges keep a port from sending with the hardware addresses of others."""


def plan_network(
    spec: Spec, facts: HostFacts, network: NetworkFacts, findings: Findings, name: str
) -> NetworkPlan | None:
    """Return the private network of *spec*, a sandbox *name*; None in another mode, and if this machine cannot connect one."""
    if spec.network.mode != "private":
        return None
    egress, definitions = spec.network.egress, [(one, spec.networks[one]) for one in spec.network.networks]
    ends_in_gate = egress is not None or (bool(definitions) and all(one.internal for _, one in definitions))
    if definitions and f".{name}".endswith(".localhost"):
        # Other members would take the connections that their programs mean for themselves to this sandbox.
        findings.refuse(
            "sandbox.name", "every member of a network has this name for itself", "choose another name"
        )
    if network.nft is None:
        for index, (one, definition) in enumerate(definitions):
            if not definition.internal:
                findings.refuse(
                    f"network.networks[{index}]",
                    f"the network {one} is not internal, and needs the program nft",
                    _INSTALL_NFT.format(one),
                )
    # With `egress`, its rules alone decide what is reached outside of the networks.
    uplink = None
    if not ends_in_gate or any(not one.internal for _, one in definitions):
        uplink = _plan_uplink(facts, network, findings, [(one, made.internal) for one, made in definitions])
        if uplink is None:
            return None
    allowed = None
    if egress is not None:
        allowed = EgressPlan(
            allow=egress.allow, deny=egress.deny, hosts=tuple(sorted(spec.network.hosts.items()))
        )
    elif ends_in_gate:
        allowed = EgressPlan()
    return NetworkPlan(
        uplink=None if ends_in_gate or definitions else uplink,
        egress=allowed,
        memberships=tuple(
            MembershipPlan(
                network=one, subnet=definition.subnet, uplink=None if definition.internal else uplink
            )
            for one, definition in definitions
        ),
        names=(name, *spec.network.aliases),
        resolvers=_name_servers(spec, network),
        file=spec.file,
        ports=spec.network.ports,
        host_access=spec.network.host_access,
        on_failure=spec.network.on_failure,
    )


def _plan_uplink(
    facts: HostFacts, network: NetworkFacts, findings: Findings, networks: Sequence[tuple[str, bool]]
) -> UplinkPlan | None:
    """Return what connects the sandbox, or those of *networks* (each with whether it is internal), with other machines."""
    if facts.is_real_root and network.nft is not None and facts.kernel_version >= _LOCKED_PORTS:
        return UplinkPlan(kind="bridge", program=network.nft, as_root=True)
    if network.pasta is not None:
        return UplinkPlan(kind="pasta", program=network.pasta, as_root=facts.is_real_root)
    if network.slirp4netns is not None:
        return UplinkPlan(kind="slirp4netns", program=network.slirp4netns, as_root=facts.is_real_root)
    needs = "needs the program pasta, or at least slirp4netns"
    for index, (name, internal) in enumerate(networks):
        if not internal:
            message = f"the network {name} is not internal, and {needs}"
            findings.refuse(f"network.networks[{index}]", message, _INSTALL_FOR_NETWORK.format(name))
    if networks:
        return None
    findings.refuse("network.mode", f"a private network {needs}", _INSTALL)
    return None


@dataclass(frozen=True, slots=True)
class ResolverConfiguration:
    """The parts of a resolv.conf(5)."""

    name_servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, content: bytes) -> ResolverConfiguration:
        """Return the parts of *content*. As in glibc, the last "search" or "domain" line counts."""
        servers: list[str] = []
        search: tuple[str, ...] = ()
        options: list[str] = []
        for line in content.decode("utf-8", "replace").splitlines():
            words = line.split()
            if not words or words[0][0] in "#;":
                continue
            keyword, *values = words
            if keyword == "nameserver":
                servers += values[:1]
            elif keyword in ("search", "domain"):
                search = tuple(values)
            elif keyword == "options":
                options += values
        return cls(tuple(servers), search, tuple(options))

    def render(self) -> bytes:
        """Return the file."""
        lines = [f"nameserver {address}" for address in self.name_servers]
        lines += [f"{word} {' '.join(values)}" for word, values in self._lists() if values]
        return "".join(f"{line}\n" for line in lines).encode()

    def _lists(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("search", self.search), ("options", self.options)


def _name_servers(spec: Spec, network: NetworkFacts) -> tuple[str, ...]:
    return spec.network.dns or ResolverConfiguration.parse(network.resolv_conf).name_servers


def resolver_configuration(spec: Spec, network: NetworkFacts, plan: NetworkPlan | None) -> bytes | None:
    """Return the content of the sandbox's /etc/resolv.conf: what *spec* sets, and otherwise what the host has.

    None leaves the root's file: without a network no name server can be reached, so that another file would only delay the start;
    and the name servers of a network namespace that is joined are not known.

    A private network, which *plan* describes, reaches the name server of the host at an address of its own, because the host's
    may be a loopback address. pasta(1) forwards it only if the host has a name server with an IPv4 address.
    """
    if spec.network.mode == "none":
        return None
    host = ResolverConfiguration.parse(network.resolv_conf)
    servers = _name_servers(spec, network)
    if plan is not None and plan.memberships:
        servers = (GATE,)  # it knows the names of members, and asks the servers for others
    elif plan is not None and plan.has_gate:
        servers = spec.network.dns or (GATE,)  # with egress, the gate answers queries to any address
    elif plan is not None and not spec.network.dns and any("." in one for one in servers):
        servers = (RESOLVER,)
    # The domains of the host would only add queries that are refused, and a line of the log for each.
    search = host.search if plan is None or plan.egress is None else ()
    return ResolverConfiguration(servers, spec.network.search or search, host.options).render()
