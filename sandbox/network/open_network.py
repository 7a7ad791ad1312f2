"""A private network that reaches every address but those of the host, connected by pasta(1)."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence

from sandbox.kernel import links, routes
from sandbox.network import pasta, ports
from sandbox.network.closed_host import ClosedHost
from sandbox.network.pasta import Pasta
from sandbox.network.private_network import STEP, PrivateNetwork, failure
from sandbox.plan.network_values import INTERFACE, NetworkPlan
from sandbox.spec.values.addresses import Port

_FAMILY_NAMES = ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6"))


class OpenNetwork(PrivateNetwork):
    """The network of one sandbox. It owns the process of pasta, and the routes that close the host."""

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
            plan: of the network, with the path of pasta.
            sandbox_with: returns the name of the sandbox that has a port, None if none has it.
            warn: receives what is missing.
            trace: receives lines for --debug.

        Raises:
            SetupError: a port is in use, or may not be used.
        """
        super().__init__(plan, warn=warn, trace=trace)
        self.ports = ports.claim(plan.ports, sandbox_with)
        self._inside: socket.socket | None = None
        self._pasta: Pasta | None = None
        self._closed_host: ClosedHost | None = None

    def connect(self, pid: int, inside: socket.socket) -> Sequence[int]:
        """Connect the network namespace of the process *pid*, and close the addresses of the host in it."""
        arguments = pasta.command_line(self.plan, self.ports, pid)
        self._inside = inside
        self.trace(" ".join(arguments))
        assert self.plan.pasta is not None
        self._pasta = Pasta(self.plan.pasta, arguments)
        try:
            self._report_missing(inside)
            self._closed_host = ClosedHost(inside, links.interface_index(inside, INTERFACE), self.trace)
        except OSError as error:
            raise failure("closing the addresses of the host", error) from None
        return (self._pasta.pid,)

    def _report_missing(self, inside: socket.socket) -> None:
        found = routes.default_routes(inside)
        missing = [name for family, name in _FAMILY_NAMES if not any(one.family == family for one in found)]
        if len(missing) == len(_FAMILY_NAMES):
            self.warn(f"{STEP}: this machine has no default route, so the sandbox reaches no other machine")
        elif missing:
            self.trace(f"no {missing[0]} in the sandbox: this machine has no default route for it")

    def interest(self) -> dict[int, int]:
        """Return the descriptors of pasta, and the one that reports changes of addresses."""
        if self._pasta is None or self._closed_host is None:
            return {}
        fds = (self._pasta.pidfd, self._pasta.output_fd, self._closed_host.fileno())
        return dict.fromkeys(fds, select.POLLIN)

    def handle(self, fd: int) -> None:
        """Trace what pasta prints, follow changes of addresses, and fail at the end of pasta."""
        assert self._pasta is not None
        assert self._closed_host is not None
        if fd == self._pasta.output_fd and (printed := self._pasta.read_output()):
            self.trace(f"pasta: {' '.join(printed.split())}")
            return
        if fd == self._closed_host.fileno():
            try:
                self._closed_host.on_change()
            except OSError as error:
                self.fail(f"an address of this machine cannot be closed: {error.strerror}")
            return
        # The end of its output or of the process: its device has disappeared.
        self.fail("pasta, which connects the network, ended unexpectedly")

    def close(self) -> None:
        """End pasta, and close the descriptors."""
        if self._pasta is not None:
            self._pasta.stop()
            self._pasta = None
        if self._closed_host is not None:
            self._closed_host.close()
            self._closed_host = None
        if self._inside is not None:
            self._inside.close()
            self._inside = None
