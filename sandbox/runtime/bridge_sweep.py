"""Remove the bridge of private networks of root that supervisors left when they were killed."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.state.host_bridge import may_have_record


def sweep_bridge(run_directory: str, warn: Callable[[str], None]) -> None:
    """Remove the ports of supervisors that have ended and, without any other, the bridge with its table and setting.

    Supervisors do it themselves when their sandboxes end. *warn* receives a failure; the next command tries again.
    """
    if not may_have_record(run_directory):
        return
    from sandbox.network.host_bridge import remove_unused  # only while there is a bridge

    try:
        remove_unused(run_directory)
    except OSError as error:
        warn(f"the bridge of ended private networks cannot be removed: {error.strerror}")
