"""Connect a network namespace with other machines, but not with the host: the private network of a sandbox, or a gate.

`connect_outside` selects the kind of the uplink. Here is what all kinds have in common, and the one by a program.
"""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from sandbox.kernel import links, netlink, routes
from sandbox.network import pasta, slirp4netns
from sandbox.network.closed_host import ClosedHost
from sandbox.network.connecting_program import OUTPUT_FD, ConnectingProgram
from sandbox.network.private_network import STEP, failure
from sandbox.plan.network_values import UplinkPlan
from sandbox.spec.values.addresses import HostService, Port
from unionfs._stdlib.dataclasses import dataclass

_FAMILY_NAMES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


NO_DEFAULT_ROUTE = f"{STEP}: this machine has no default route, so the sandbox reaches no other machine"
"""A warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The network namespace to connect."""

    #: A process in it.
    pid: int
    #: A netlink socket of it, which remains the caller's and must stay open as long as the uplink.
    inside: socket.socket
    #: The name of the interface to make.
    interface: str
    ipv6: bool = True


class Uplink(ABC):
    """What connects a namespace. The network creates it by `connect_outside`, completes it, watches its descriptors, and closes it."""

    def complete(self) -> None:  # noqa: B027 - some kinds connect it at once
        """Wait until the namespace is connected. Meanwhile, other things can be prepared.

        Raises:
            SetupError: it cannot be connected.
        """

    @property
    @abstractmethod
    def pids(self) -> tuple[int, ...]:
        """The processes that connect the namespace."""

    @abstractmethod
    def interest(self) -> dict[int, int]:
        """Return the descriptors to watch, each with its events (poll(2))."""

    @abstractmethod
    def handle(self, fd: int) -> str | None:
        """Do what an event of the descriptor *fd* requires; return why the namespace is no longer connected, None if it is."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect the namespace, and close the descriptors. Closing twice does nothing."""

    def reap(self) -> None:  # noqa: B027 - most kinds have nothing to wait for
        """Wait for the end of the processes after :meth:`close`."""

    def leave(self) -> None:  # noqa: B027
        """Do not wait for the end of the processes after :meth:`close`: they have no port of the host, and run no longer."""


class ProgramUplink(Uplink):
    """A program that connects a namespace, and the addresses of the host that are closed there."""

    def __init__(
        self,
        plan: UplinkPlan,
        target: Target,
        *,
        ports: Sequence[Port] = (),
        host_access: Sequence[HostService] = (),
        warn: Callable[[str], None],
        trace: Callable[[str], None],
    ) -> None:
        """Begin to connect *target*. Only pasta forwards *ports* and *host_access*.

        Raises:
            SetupError: the program cannot be started.
        """
        self._plan = plan
        self._target = target
        self._warn = warn
        self._trace = trace
        if plan.kind == "pasta":
            arguments = pasta.command_line(
                target.pid,
                target.interface,
                as_root=plan.as_root,
                ports=ports,
                host_access=host_access,
                ipv6=target.ipv6,
            )
            trace(" ".join(arguments))
            self._program = ConnectingProgram(plan.program, arguments, ready_fd=OUTPUT_FD)
        else:
            self._program = slirp4netns.start(plan.program, target.pid, target.interface, trace)
        self._closed_host: ClosedHost | None = None

    def complete(self) -> None:
        """Wait until the program has connected the namespace, and close the addresses of the host there."""
        self._program.wait_until_ready()
        inside = self._target.inside
        try:
            self._report_missing()
            index = links.interface_index(inside, self._target.interface)
            self._closed_host = ClosedHost(inside, index, self._trace)
        except OSError as error:
            raise failure("closing the addresses of the host", error) from None

    def _report_missing(self) -> None:
        """Report the default routes that the host lacks. pasta copies them; slirp4netns makes one of its own in any case."""
        if self._plan.kind == "pasta":
            found = {route.family for route in routes.default_routes(self._target.inside)}
        else:
            with netlink.open_socket() as host:
                found = {route.family for route in routes.default_routes(host)} & {socket.AF_INET}
        missing = [name for family, name in _FAMILY_NAMES.items() if family not in found]
        if len(missing) == len(_FAMILY_NAMES):
            self._warn(NO_DEFAULT_ROUTE)
        elif missing and self._target.ipv6:
            self._trace(f"no {missing[0]} in the sandbox: this machine has no default route for it")

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that connect the namespace."""
        return (self._program.pid,)

    def interest(self) -> dict[int, int]:
        """Return the descriptors to watch, each with its events (poll(2)): those of the program, and one for changes of addresses."""
        if self._closed_host is None:
            return {}
        fds = (self._program.pidfd, self._program.output_fd, self._closed_host.fileno())
        return dict.fromkeys(fds, select.POLLIN)

    def handle(self, fd: int) -> str | None:
        """Do what an event of the descriptor *fd* requires; return why the namespace is no longer connected, None if it is."""
        assert self._closed_host is not None
        if fd == self._program.output_fd and (printed := self._program.read_output()):
            self._trace(f"{self._program.name}: {' '.join(printed.split())}")
            return None
        if fd == self._closed_host.fileno():
            try:
                self._closed_host.on_change()
            except OSError as error:
                return f"an address of this machine cannot be closed: {error.strerror}"
            return None
        # The end of its output or of the process: its device has disappeared.
        return f"{self._program.name}, which connects the network, ended unexpectedly"

    def reap(self) -> None:
        """Wait for the end of the program after :meth:`close`. Until then, its interface may exist."""
        self._program.reap()

    def leave(self) -> None:
        """Do not wait for the end of the program after :meth:`close`."""
        self._program.leave()

    def close(self) -> None:
        """End the program, and close the descriptors. Closing twice does nothing."""
        self._program.kill()
        if self._closed_host is not None:
            self._closed_host.close()
            self._closed_host = None
