"""Select what connects a network namespace with other machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sandbox.network.uplink import ProgramUplink, Target, Uplink
from sandbox.plan.network_values import UplinkPlan
from sandbox.spec.values.addresses import HostService, Port


def connect_outside(
    plan: UplinkPlan,
    target: Target,
    *,
    run_directory: str = "",
    ports: Sequence[Port] = (),
    host_access: Sequence[HostService] = (),
    warn: Callable[[str], None],
    trace: Callable[[str], None],
) -> Uplink:
    """Begin to connect *target* as *plan* has it; `Uplink.complete` waits for the end.

    Args:
        plan: of the uplink.
        target: the network namespace.
        run_directory: has the record of the bridge. Only the kind "bridge" needs it.
        ports: that pasta forwards. No other kind forwards any.
        host_access: services of the host that pasta opens.
        warn: receives what the user has to know.
        trace: receives lines for --debug.

    Raises:
        SetupError: it cannot be connected.
    """
    if plan.kind == "bridge":
        from sandbox.network.bridge_uplink import BridgeUplink  # for root only

        return BridgeUplink(target, run_directory, warn=warn, trace=trace)
    return ProgramUplink(plan, target, ports=ports, host_access=host_access, warn=warn, trace=trace)
