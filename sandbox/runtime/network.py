"""Create the private network of a sandbox, with the filters and limits of the process that connects it."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.host.facts import HostFacts
from sandbox.network.private_network import PrivateNetwork
from sandbox.plan import Plan
from sandbox.plan.operations import SetHostname
from sandbox.runtime import filters
from sandbox.spec.values.addresses import Port
from sandbox.state.directory import StateDirectory
from sandbox.state.runs import name_by_port


def make_network(
    plan: Plan,
    facts: HostFacts,
    state: StateDirectory,
    *,
    run: str,
    secret: bytes | None,
    warn: Callable[[str], None],
    trace: Callable[[str], None],
) -> PrivateNetwork:
    """Return the private network of the sandbox *plan*, whose ports are checked or open.

    *run* is the directory of the run in the run directory. *secret* authenticates compiled filters that are cached. *warn* receives warnings and refusals, *trace* lines for --debug.

    Raises:
        SetupError: a port is in use, or may not be used.
    """

    def sandbox_with(port: Port) -> str | None:
        return name_by_port(state.path, port)

    network = plan.network
    assert network is not None
    if not network.has_gate:
        from sandbox.network.open_network import OpenNetwork

        return OpenNetwork(network, sandbox_with=sandbox_with, warn=warn, trace=trace)
    from sandbox.network.gate_request import Confinement
    from sandbox.network.gated_network import GatedNetwork

    own, resolver = filters.network_programs(facts, state_fd=state.fd, secret=secret)
    confinement = Confinement(
        filter=own,
        resolver_filter=resolver,
        landlock=facts.landlock,
        ids=plan.ids.root if facts.is_real_root else None,
    )
    return GatedNetwork(
        network,
        run=run,
        hostname=next((one.name for one in plan.operations if isinstance(one, SetHostname)), None),
        confinement=confinement,
        sandbox_with=sandbox_with,
        warn=warn,
        trace=trace,
    )
