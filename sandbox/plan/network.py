"""Plan the private network of a sandbox, and the content of its /etc/resolv.conf."""

from __future__ import annotations

from sandbox.host.facts import HostFacts
from sandbox.host.network_facts import NetworkFacts
from sandbox.plan.findings import Findings
from sandbox.plan.network_values import GATE, RESOLVER, EgressPlan, NetworkPlan
from sandbox.spec.model import Spec
from unionfs._stdlib.dataclasses import dataclass

_INSTALL = 'install the package passt (as root: apt-get install passt), or set mode = "host" or "none"'


def plan_network(
    spec: Spec, facts: HostFacts, network: NetworkFacts, findings: Findings
) -> NetworkPlan | None:
    """Return the private network of *spec*; None in another mode, and if this machine has no program to connect one."""
    if spec.network.mode != "private":
        return None
    egress = spec.network.egress
    if egress is not None:
        return NetworkPlan(
            egress=EgressPlan(
                allow=egress.allow, deny=egress.deny, hosts=tuple(sorted(spec.network.hosts.items()))
            ),
            ports=spec.network.ports,
            host_access=spec.network.host_access,
            on_failure=spec.network.on_failure,
            as_root=facts.is_real_root,
        )
    if network.pasta is None:
        findings.refuse("network.mode", "a private network needs the program pasta", _INSTALL)
        return None
    return NetworkPlan(
        pasta=network.pasta,
        ports=spec.network.ports,
        host_access=spec.network.host_access,
        on_failure=spec.network.on_failure,
        as_root=facts.is_real_root,
    )


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


def resolver_configuration(spec: Spec, network: NetworkFacts) -> bytes | None:
    """Return the content of the sandbox's /etc/resolv.conf: what *spec* sets, and otherwise what the host has.

    None leaves the root's file: without a network no name server can be reached, so that another file would only delay the start;
    and the name servers of a network namespace that is joined are not known.

    A private network reaches the name server of the host at an address of its own, because the host's may be a loopback
    address. pasta(1) forwards it only if the host has a name server with an IPv4 address.
    """
    if spec.network.mode == "none":
        return None
    host = ResolverConfiguration.parse(network.resolv_conf)
    servers = spec.network.dns or host.name_servers
    if spec.network.egress is not None:
        servers = spec.network.dns or (GATE,)  # queries to any address are answered by the gate
    elif spec.network.mode == "private" and not spec.network.dns and any("." in one for one in servers):
        servers = (RESOLVER,)
    # The domains of the host would only add queries that are refused, and a line of the log for each.
    search = host.search if spec.network.egress is None else ()
    return ResolverConfiguration(servers, spec.network.search or search, host.options).render()
