"""A private network that reaches every address but those of the host, connected by pasta(1), which also forwards ports."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from sandbox.network import ports
from sandbox.network.outside import connect_outside
from sandbox.network.private_network import PrivateNetwork
from sandbox.network.uplink import Target, Uplink
from sandbox.plan.network_values import INTERFACE, NetworkPlan
from sandbox.spec.values.addresses import Port


class OpenNetwork(PrivateNetwork):
    """The network of one sandbox. It owns the uplink."""

    def __init__(
        self,
        plan: NetworkPlan,
        *,
        sandbox_with: Callable[[Port], str | None],
        warn: Callable[[str], None],
        trace: Callable[[str], None],
    ) -> None:
        """Check the ports of *plan* before anything is started.

        Args:
            plan: of the network, with pasta as its uplink.
            sandbox_with: returns the name of the sandbox that has a port, None if none has it.
            warn: receives what is missing.
            trace: receives lines for --debug.

        Raises:
            SetupError: a port is in use, or may not be used.
        """
        super().__init__(plan, warn=warn, trace=trace)
        self.ports = ports.claim(plan.ports, sandbox_with)
        self._inside: socket.socket | None = None
        self._uplink: Uplink | None = None

    def connect(self, pid: int, inside: socket.socket) -> Sequence[int]:
        """Connect the network namespace of the process *pid*, and close the addresses of the host in it."""
        self._inside = inside
        assert self.plan.uplink is not None
        self._uplink = connect_outside(
            self.plan.uplink,
            Target(pid=pid, inside=inside, interface=INTERFACE),
            ports=self.ports,
            host_access=self.plan.host_access,
            warn=self.warn,
            trace=self.trace,
        )
        self._uplink.complete()
        return self._uplink.pids

    def interest(self) -> dict[int, int]:
        """Return the descriptors of the uplink."""
        return {} if self._uplink is None else self._uplink.interest()

    def handle(self, fd: int) -> None:
        """Pass the event on to the uplink, and fail at its end."""
        assert self._uplink is not None
        if (reason := self._uplink.handle(fd)) is not None:
            self.fail(reason)

    def reap(self) -> None:
        """Wait for the end of the uplink, if it has ports of the host."""
        if self._uplink is not None and self.ports:
            self._uplink.reap()
        elif self._uplink is not None:
            self._uplink.leave()

    def close(self) -> None:
        """End the uplink, and close the descriptors."""
        if self._uplink is not None:
            self._uplink.close()
        if self._inside is not None:
            self._inside.close()
            self._inside = None
