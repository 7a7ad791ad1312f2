"""The private network of one sandbox, from the check of its ports to its end."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from sandbox.errors import SetupError
from sandbox.kernel import netlink
from sandbox.network import pasta, ports
from sandbox.network.closed_host import ClosedHost
from sandbox.network.pasta import Pasta
from sandbox.plan.network_values import INTERFACE, NetworkPlan
from sandbox.spec.values.addresses import Port


class PrivateNetwork:
    """Connects the network namespace of a sandbox. Its supervisor creates it, watches its descriptors, and closes it."""

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
            plan: of the network.
            sandbox_with: returns the name of the sandbox that has a port, None if none has it.
            warn: receives what is missing.
            trace: receives lines for --debug.

        Raises:
            SetupError: a port is in use, or may not be used.
        """
        self._plan = plan
        self._warn = warn
        self._trace = trace
        #: The ports, with the chosen one in place of each 0.
        self.ports: tuple[Port, ...] = ports.claim(plan.ports, sandbox_with)
        #: Whether the program that connects the network has ended before the sandbox.
        self.failed = False
        self._pasta: Pasta | None = None
        self._inside: socket.socket | None = None
        self._closed_host: ClosedHost | None = None

    def connect(self, pid: int, netlink_fd: int) -> int:
        """Connect the network namespace of the process *pid*, and close the addresses of the host in it.

        *netlink_fd* is a netlink socket of that namespace, which belongs to this object from now on. Returns the pid of the
        program that connects it.

        Raises:
            SetupError: the network cannot be connected.
        """
        self._inside = socket.socket(fileno=netlink_fd)
        arguments = pasta.command_line(self._plan, self.ports, pid)
        self._trace(" ".join(arguments))
        self._pasta = Pasta(self._plan.pasta, arguments)
        try:
            self._close_host(self._inside)
        except OSError as error:
            raise SetupError.from_os_error("closing the addresses of the host", "netlink", error) from None
        return self._pasta.pid

    def _close_host(self, inside: socket.socket) -> None:
        routes = netlink.default_routes(inside)
        missing = [name for family, name in _FAMILY_NAMES if not any(one.family == family for one in routes)]
        if len(missing) == len(_FAMILY_NAMES):
            self._warn(
                "network.mode: this machine has no default route, so the sandbox reaches no other machine"
            )
        elif missing:
            self._trace(f"no {missing[0]} in the sandbox: this machine has no default route for it")
        self._closed_host = ClosedHost(inside, _interface(inside), self._trace)

    def interest(self) -> dict[int, int]:
        """Return the descriptors to watch, each with its events (poll(2))."""
        if self._pasta is None or self._closed_host is None or self.failed:
            return {}
        return dict.fromkeys(
            (self._pasta.pidfd, self._pasta.output_fd, self._closed_host.fileno()), select.POLLIN
        )

    def handle(self, fd: int) -> None:
        """Do what an event of the descriptor *fd* requires."""
        assert self._pasta is not None
        assert self._closed_host is not None
        if fd == self._pasta.output_fd and (printed := self._pasta.read_output()):
            self._trace(f"pasta: {' '.join(printed.split())}")
            return
        if fd == self._closed_host.fileno():
            try:
                self._closed_host.on_change()
            except OSError as error:
                self._fail(f"an address of this machine cannot be closed: {error.strerror}")
            return
        # The end of its output or of the process: its device has disappeared, and nothing is reachable any more.
        self._fail("pasta, which connects the network, ended unexpectedly")

    def _fail(self, reason: str) -> None:
        self.close()
        self.failed = True
        self._warn(f"network.mode: {reason}")

    def close(self) -> None:
        """End the program that connects the network, and close the descriptors."""
        if self._pasta is not None:
            self._pasta.stop()
            self._pasta = None
        if self._closed_host is not None:
            self._closed_host.close()
            self._closed_host = None
        if self._inside is not None:
            self._inside.close()
            self._inside = None


_FAMILY_NAMES = ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6"))


def _interface(inside: socket.socket) -> int:
    """Return the index of the sandbox's interface."""
    return netlink.interface_index(inside, INTERFACE)
