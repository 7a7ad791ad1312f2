"""Create the private network of a sandbox, with the filters and limits of the process that connects it."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.host.facts import HostFacts
from sandbox.network.private_network import PrivateNetwork
from sandbox.plan import IdPlan
from sandbox.plan.network_values import NetworkPlan
from sandbox.runtime import filters
from sandbox.spec.values.addresses import Port
from sandbox.state.directory import StateDirectory
from sandbox.state.runs import name_by_port


def make_network(
    plan: NetworkPlan,
    ids: IdPlan,
    facts: HostFacts,
    state: StateDirectory,
    *,
    secret: bytes | None,
    warn: Callable[[str], None],
    trace: Callable[[str], None],
) -> PrivateNetwork:
    """Return the network of *plan*, whose ports are checked or open, for a sandbox with *ids*.

    *secret* authenticates compiled filters that are cached. *warn* receives warnings and refusals, *trace* lines for --debug.

    Raises:
        SetupError: a port is in use, or may not be used.
    """

    def sandbox_with(port: Port) -> str | None:
        return name_by_port(state.path, port)

    if plan.egress is None:
        from sandbox.network.open_network import OpenNetwork

        return OpenNetwork(plan, sandbox_with=sandbox_with, warn=warn, trace=trace)
    from sandbox.network.egress_network import Confinement, EgressNetwork

    own, resolver = filters.network_programs(facts, state_fd=state.fd, secret=secret)
    confinement = Confinement(
        filter=own,
        resolver_filter=resolver,
        landlock=facts.landlock,
        ids=ids.root if facts.is_real_root else None,
    )
    return EgressNetwork(plan, confinement=confinement, sandbox_with=sandbox_with, warn=warn, trace=trace)
