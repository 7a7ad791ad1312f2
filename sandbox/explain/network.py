"""Make the section about the network: what the program reaches, what reaches it, and unix sockets."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.explain.case import Case
from sandbox.explain.report import DEFAULT, Fact
from sandbox.explain.storage import binds, sockets_below


def network_section(case: Case) -> Iterator[Fact]:
    """Yield facts about what the program can reach over the network and over unix sockets."""
    joined = next((join.asked for join in case.plan.joins if join.kind == "net"), None)
    host = "net" not in case.plan.namespaces and joined is None
    keys = ("network.mode", "namespaces.net")
    origin = case.effective(*keys, "network.egress", "network.networks")
    network = case.plan.network
    value = joined or ("host" if host else "none" if network is None else "private")
    reaches = "only a loopback interface of its own"
    listens = "on its own loopback interface"
    if host:
        reaches = "everything that this machine reaches, and the services on its loopback interface"
        listens = "on every address of this machine, at ports that any user may listen on"
    elif joined:
        reaches = f"everything that {joined} reaches, and the services on its loopback interface"
        listens = f"on every address of {joined}"
    elif network is not None:
        reaches = "other machines, but no address of this machine"
        if network.memberships:
            reaches = "other machines and the members of its networks, but no address of this machine"
        if network.uplink is not None and network.uplink.kind == "slirp4netns":
            reaches += "; by slirp4netns, which has no IPv6 and is slower than pasta"
        if network.egress is not None:
            reaches = "only the destinations below, over TCP"
            reaches += ", and the members of its networks" if network.memberships else ""
        listens = "on an interface of its own, which other machines reach only at the ports below"
        if network.memberships:
            listens = "on interfaces of its own: members of its networks reach every port, other machines only the ports below"
        if case.spec.network.egress is None and network.memberships and network.egress is not None:
            reaches = "only the members of its networks"
    yield Fact(label="reaches", text=reaches, value=value, origin=origin, keys=keys[:1])
    yield Fact(label="listens", text=listens, value=value, origin=origin)
    yield from _openings(case)
    abstract = list(case.surroundings.abstract_sockets) if host else []
    text = "the program can connect to those of this machine" + (
        f"; at present {' '.join(abstract)}" if abstract else "; at present there are none"
    )
    yield Fact(
        label="abstract sockets",
        text=text if host else f"those of {joined}" if joined else "its own only",
        value=abstract,
        origin=origin,
    )
    sources = [bind.source for bind in binds(case.plan.operations)]
    found = sorted({socket for source in sources for socket in sockets_below(source, case)})
    yield Fact(
        label="sockets in volumes",
        text=f"the program can connect to them, also in read-only volumes: {' '.join(found)}"
        if found
        else "none at present; the program could connect to sockets that are created there later"
        if sources
        else "none: there is no bind volume",
        value=found,
        origin=DEFAULT,
    )
    yield Fact(
        label="sockets in layers",
        text="the program cannot connect to them: unionfs shows them without a listener"
        if case.plan.bound is None
        else "none: a layer with sockets does not qualify for a direct bind",
        value=[],
        origin=DEFAULT,
    )


def _openings(case: Case) -> Iterator[Fact]:
    """Yield facts about the ports that are forwarded, the services of the host, and the program that connects the network."""
    network = case.plan.network
    ports = [] if network is None else [str(port) for port in network.ports]
    yield Fact(
        label="ports",
        text=f"forwarded from this machine: {' '.join(ports)}"
        if ports
        else "no port of this machine is forwarded",
        value=list(ports),
        origin=case.effective("network.ports"),
        keys=("network.ports",),
    )
    if network is None:
        return
    services = [str(service) for service in network.host_access]
    yield Fact(
        label="services of this machine",
        text=f"reachable at the same address and port: {' '.join(services)}" if services else "none",
        value=list(services),
        origin=case.effective("network.host_access"),
        keys=("network.host_access",),
    )
    if network.memberships:
        joined = [
            f"{one.network} ({'internal' if one.uplink is None else f'connected with other machines by {one.uplink}'})"
            for one in network.memberships
        ]
        yield Fact(
            label="networks",
            text=f"{', '.join(joined)}; members find the sandbox as {' and '.join(network.names)}",
            value={"names": list(network.names), "networks": [one.network for one in network.memberships]},
            origin=case.effective("network.networks"),
            keys=("network.networks", "network.aliases"),
        )
    if case.spec.network.egress is not None and network.egress is not None:
        for label, destinations, none in (
            ("destinations", network.egress.allow, "none"),
            ("denied destinations", network.egress.deny, "none in addition"),
        ):
            key = f"network.egress.{'deny' if label.startswith('denied') else 'allow'}"
            yield Fact(
                label=label,
                text=" ".join(destinations) or none,
                value=list(destinations),
                origin=case.effective(key),
                keys=(key,),
            )
    does = "restarted" if network.on_failure == "restart" else "stopped"
    ends = f"if it ends, nothing is reachable, and the sandbox is {does}"
    if network.egress is None and any(one.uplink is not None for one in network.memberships):
        ends = f"if sandbox-net ends, nothing is reachable, and the sandbox is {does}; what connects a network is started again"
    yield Fact(
        label="connected by",
        text=f"{network.connected_by}; {ends}",
        value=network.connected_by,
        origin=case.effective("network.on_failure"),
        keys=("network.on_failure",),
    )
