"""A private network that reaches only the destinations of `network.egress`, by the process `sandbox-net` and a gate."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from sandbox.errors import SetupError
from sandbox.kernel import process
from sandbox.network import control, gate, ports
from sandbox.network.egress_rules import EgressRules
from sandbox.network.network_process import start_network_process
from sandbox.network.private_network import STEP, PrivateNetwork, failure
from sandbox.network.request import DnsRequest, EgressListener, EgressRequest, Forward, NetworkRequest
from sandbox.network.socket_maker import SocketSpec, make_sockets
from sandbox.plan.network_values import SANDBOX, EgressPlan, NetworkPlan
from sandbox.spec.values.addresses import Port
from unionfs._stdlib.dataclasses import dataclass

_EVERY_ADDRESS = ("0.0.0.0", "::")
_DNS_PORT = 53
_READY_SECONDS = 20.0
_COUNTS_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What the process `sandbox-net` is confined by; see `request.NetworkRequest`."""

    filter: bytes | None
    resolver_filter: bytes | None
    landlock: int
    ids: tuple[int, int] | None


class EgressNetwork(PrivateNetwork):
    """The network of one sandbox. It owns the process `sandbox-net` and the published ports."""

    def __init__(
        self,
        plan: NetworkPlan,
        *,
        confinement: Confinement,
        sandbox_with: Callable[[Port], str | None],
        warn: Callable[[str], None],
        trace: Callable[[str], None],
    ) -> None:
        """Listen on the ports of *plan* before anything is started.

        Args:
            plan: of the network, with destinations.
            confinement: of the process.
            sandbox_with: returns the name of the sandbox that has a port, None if none has it.
            warn: receives refusals.
            trace: receives lines for --debug.

        Raises:
            SetupError: a port is in use, or may not be used.
        """
        super().__init__(plan, warn=warn, trace=trace)
        assert plan.egress is not None
        self._egress: EgressPlan = plan.egress
        self._confinement = confinement
        self._published = ports.listen(plan.ports, sandbox_with)
        self.ports = tuple(port for port, _ in self._published)
        self._pid = 0
        self._pidfd = -1
        self._children: Sequence[int] = ()
        self._control: socket.socket | None = None

    def connect(self, pid: int, inside: socket.socket) -> Sequence[int]:
        """Connect the network namespace of the process *pid* with a gate, and start the process that serves there."""
        rules = EgressRules.parse(self._egress.allow, self._egress.deny, dict(self._egress.hosts))
        with ExitStack() as stack:
            stack.enter_context(inside)
            try:
                made = gate.make_gate()
                stack.callback(made.close)
                theirs = [_open_namespace(pid, kind, stack) for kind in ("user", "net")]
                gate.connect(made, inside, theirs[1], ipv6=rules.needs_ipv6())
                request = self._make_request(rules, made, theirs, stack)
                self.trace(f"start sandbox-net: {len(request.descriptors())} descriptors")
                self._pid = start_network_process(request)
                self._pidfd = os.pidfd_open(self._pid)
            except OSError as error:
                raise failure(error.filename or "gate", OSError(error.errno, error.strerror)) from None
        self._close_published()
        self._children = self._wait_until_ready().children
        return (self._pid, *self._children)

    def _make_request(
        self, rules: EgressRules, made: gate.Gate, sandbox: Sequence[int], stack: ExitStack
    ) -> NetworkRequest:
        """Make the sockets of the gate and of the sandbox's loopback interface, and return the request that has them."""

        def sockets(user_fd: int, network_fd: int, specs: Sequence[SocketSpec]) -> list[int]:
            found = make_sockets(user_fd, network_fd, specs)
            for one in found:
                stack.callback(one.close)
            return [one.fileno() for one in found]

        redirected = rules.needs_redirect()
        addresses = _EVERY_ADDRESS if rules.needs_ipv6() else _EVERY_ADDRESS[:1]
        numbers = (0,) if redirected else [port for port in rules.ports() if port != _DNS_PORT]
        specs = [SocketSpec(kind, address, _DNS_PORT) for kind in ("udp", "tcp") for address in addresses]
        specs += [SocketSpec("tcp", address, number) for number in numbers for address in addresses]
        specs.append(SocketSpec("observer", gate.GATE_INTERFACE))
        *found, observer = sockets(made.user_fd, made.network_fd, specs)
        count = len(addresses)
        listeners = tuple(EgressListener(fd, redirected=redirected) for fd in found[2 * count :])
        if redirected:
            for fd in found[2 * count :]:
                gate.redirect(made, _port_of(fd))
        services = self.plan.host_access
        inner = sockets(
            sandbox[0], sandbox[1], [SocketSpec(one.protocol, one.address, one.port) for one in services]
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        stack.callback(theirs.close)
        return NetworkRequest(
            control=theirs.fileno(),
            forwards=(
                *(
                    Forward(
                        listener=one.fileno(),
                        protocol=port.protocol,
                        address=SANDBOX,
                        port=port.sandbox,
                        inside=True,
                        transparent=True,
                    )
                    for port, one in self._published
                ),
                *(
                    Forward(
                        listener=fd, protocol=one.protocol, address=one.address, port=one.port, inside=False
                    )
                    for one, fd in zip(services, inner, strict=True)
                ),
            ),
            egress=EgressRequest(
                allow=self._egress.allow,
                deny=self._egress.deny,
                hosts=dict(self._egress.hosts),
                listeners=listeners,
                observer=observer,
            ),
            dns=(DnsRequest(udp=tuple(found[:count]), tcp=tuple(found[count : 2 * count]), egress=True),),
            gate_user=made.user_fd,
            gate_network=made.network_fd,
            filter=self._confinement.filter,
            resolver_filter=self._confinement.resolver_filter,
            landlock=self._confinement.landlock,
            ids=self._confinement.ids,
        )

    def _wait_until_ready(self) -> control.Ready:
        assert self._control is not None
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        event = control.receive(self._control) if poll.poll(_READY_SECONDS * 1000) else None
        if isinstance(event, control.Ready):
            return event
        if isinstance(event, control.Failed):
            text = event.text.lower()
            raise SetupError(
                STEP, f"sandbox-net cannot {event.operation}: {text}", hint="run again with --debug"
            )
        raise SetupError(STEP, "sandbox-net ended unexpectedly", hint="run again with --debug")

    def interest(self) -> dict[int, int]:
        """Return the descriptors of the process."""
        if self._control is None or self._pidfd < 0:
            return {}
        return dict.fromkeys((self._control.fileno(), self._pidfd), select.POLLIN)

    def handle(self, fd: int) -> None:
        """Warn of a refusal, and fail at the end of the process."""
        assert self._control is not None
        self._on_event(control.receive(self._control) if fd == self._control.fileno() else None)

    def _on_event(self, event: object) -> None:
        if isinstance(event, control.Refused):
            remedy = f"; to allow it: {event.remedy}" if event.remedy else ""
            self.warn(f"network.egress: {event.destination} was refused: {event.reason}{remedy}")
        elif isinstance(event, control.Failed):
            self.fail(f"sandbox-net, which connects the network, failed: {event.text}")
        elif event is None:
            self.fail("sandbox-net, which connects the network, ended unexpectedly")

    def count_refused(self) -> int | None:
        """Request the number from the process, and wait for it."""
        if self._control is None:
            return None
        try:
            control.send(self._control, control.RequestCounts())
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            while poll.poll(_COUNTS_SECONDS * 1000):
                event = control.receive(self._control)
                if isinstance(event, control.Counts):
                    return event.refused
                if event is None:
                    break
                self._on_event(event)
        except OSError:
            pass  # it has ended
        return None

    def close(self) -> None:
        """End the process, and close the descriptors."""
        self._close_published()
        if self._control is not None:
            self._control.close()  # its children end with it
            self._control = None
        if self._pid:
            process.kill_quietly(self._pid)
            os.waitpid(self._pid, 0)
            self._pid = 0
            for pid in self._children:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)  # the signal at the end of their parent has killed them
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _close_published(self) -> None:
        for _, one in self._published:
            one.close()
        self._published = []


def _open_namespace(pid: int, kind: str, stack: ExitStack) -> int:
    fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _port_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as one:
        port: int = one.getsockname()[1]
        return port
