"""A private network with a gate of its own, which the process `sandbox-net` serves.

The gate forwards published ports, answers names, and ends what the program may not reach. Beside it, the sandbox may have an uplink
that forwards no ports, and networks of several sandboxes.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from sandbox.errors import SetupError
from sandbox.kernel import links, process
from sandbox.network import control, gate, ports, shared_gate
from sandbox.network.gate_request import Confinement, make_request, rules_of
from sandbox.network.hosts_file import HostsFile
from sandbox.network.network_process import start_network_process
from sandbox.network.outside import connect_outside
from sandbox.network.private_network import STEP, PrivateNetwork, failure
from sandbox.network.shared_network import SharedNetwork
from sandbox.network.uplink import Target, Uplink
from sandbox.plan.network_values import HOST_INTERFACE, INTERFACE, NetworkPlan
from sandbox.spec.values.addresses import Port

_READY_SECONDS = 20.0
_COUNTS_SECONDS = 1.0
#: How long the supervisor, which must not block, waits for a process that does not read (SO_SNDTIMEO, socket(7)).
_SEND_SECONDS = 5


class GatedNetwork(PrivateNetwork):
    """The network of one sandbox. It owns the process `sandbox-net`, the published ports, the uplink, and the memberships."""

    def __init__(
        self,
        plan: NetworkPlan,
        *,
        run: str,
        hostname: str | None,
        confinement: Confinement,
        sandbox_with: Callable[[Port], str | None],
        warn: Callable[[str], None],
        trace: Callable[[str], None],
    ) -> None:
        """Listen on the ports of *plan* before anything is started.

        Args:
            plan: of the network.
            run: the directory of the run in the run directory.
            hostname: the host name of the sandbox; None if it has that of the host.
            confinement: of the process.
            sandbox_with: returns the name of the sandbox that has a port, None if none has it.
            warn: receives refusals.
            trace: receives lines for --debug.

        Raises:
            SetupError: a port is in use, or may not be used.
        """
        super().__init__(plan, warn=warn, trace=trace)
        self._run_directory = os.path.dirname(os.path.dirname(run))
        self._hostname = hostname
        self._confinement = confinement
        self._shared = [SharedNetwork(one, plan, run, warn=warn, trace=trace) for one in plan.memberships]
        self._published = ports.listen(plan.ports, sandbox_with)
        self.ports = tuple(port for port, _ in self._published)
        self._inside: socket.socket | None = None
        self._uplink: Uplink | None = None
        self._pid = 0
        self._pidfd = -1
        self._children: Sequence[int] = ()
        self._control: socket.socket | None = None
        self._hosts_file: HostsFile | None = None

    def connect(self, pid: int, inside: socket.socket) -> Sequence[int]:
        """Connect the network namespace of the process *pid* with a gate and networks, and start the process that serves there.

        What other processes do takes the longest, so all of them are started before any is waited for.
        """
        self._inside = inside
        with ExitStack() as stack:
            try:
                self._begin_outside(pid, inside)
                made = gate.make_gate()
                stack.callback(made.close)
                sandbox = _open_namespace(pid, "user", stack), _open_namespace(pid, "net", stack)
                self._connect_gate(inside, made, sandbox[1])
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._control = ours
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
                stack.callback(theirs.close)
                request = make_request(
                    self.plan,
                    made,
                    sandbox,
                    self._published,
                    self._confinement,
                    theirs.fileno(),
                    stack,
                )
                self.trace(f"start sandbox-net: {len(request.descriptors())} descriptors")
                self._pid = start_network_process(request)
                self._pidfd = os.pidfd_open(self._pid)
                self._complete_outside(inside, sandbox[1])
            except OSError as error:
                raise failure(error.filename or "gate", OSError(error.errno, error.strerror)) from None
        self._close_published()
        self._children = self._wait_until_ready().children
        for one in self._shared:
            self._send_members(one)
        others = [pid for one in (self._uplink, *self._shared) if one is not None for pid in one.pids]
        return (self._pid, *self._children, *others)

    def _connect_gate(self, inside: socket.socket, made: gate.Gate, sandbox_fd: int) -> None:
        rules = rules_of(self.plan)
        alone = self.plan.uplink is None and not self._shared
        gate.connect(
            made,
            inside,
            sandbox_fd,
            INTERFACE if alone else HOST_INTERFACE,
            ipv6=rules is not None and rules.needs_ipv6(),
            default=rules is not None,
        )

    def _begin_outside(self, pid: int, inside: socket.socket) -> None:
        """Begin to connect the uplink and the networks. If there is one, the first interface leads there, and not to the gate."""
        # Each locks its network until it is complete: always in the same order, so that no two sandboxes wait for each other.
        for shared in sorted(self._shared, key=lambda one: one.name):
            shared.enter()
        shared_gate.check_subnets({one.name: one.subnet for one in self._shared})
        if self.plan.uplink is not None:
            target = Target(pid=pid, inside=inside, interface=INTERFACE, ipv6=False)
            self._uplink = connect_outside(
                self.plan.uplink,
                target,
                run_directory=self._run_directory,
                warn=self.warn,
                trace=self.trace,
            )

    def _complete_outside(self, inside: socket.socket, sandbox_fd: int) -> None:
        if self._uplink is not None:
            self._uplink.complete()
            links.set_up(inside, links.interface_index(inside, "lo"))
        outside = self.plan.egress is None and self.plan.uplink is None
        for number, one in enumerate(self._shared):
            default = outside and one.has_uplink
            one.join(inside, sandbox_fd, f"{INTERFACE[:-1]}{number}", default=default)
            outside = outside and not default

    def _wait_until_ready(self) -> control.Ready:
        assert self._control is not None
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        event = self._receive() if poll.poll(_READY_SECONDS * 1000) else None
        if isinstance(event, control.Ready):
            return event
        if isinstance(event, control.Failed):
            text = event.text.lower()
            raise SetupError(
                STEP, f"sandbox-net cannot {event.operation}: {text}", hint="run again with --debug"
            )
        raise SetupError(STEP, "sandbox-net ended unexpectedly", hint="run again with --debug")

    def take_hosts_file(self, fd: int) -> None:
        """Keep the names of members in the sandbox's /etc/hosts, whose writable descriptor *fd* belongs to this object."""
        self._hosts_file = HostsFile(fd)
        self._write_hosts()

    def _write_hosts(self) -> None:
        if self._hosts_file is not None:
            own = [one.address for one in self._shared]
            try:
                self._hosts_file.write(
                    {one.name: one.members for one in self._shared}, hostname=self._hostname, own=own
                )
            except OSError as error:
                self.warn(f"the names of members cannot be written to /etc/hosts: {error.strerror}")

    def interest(self) -> dict[int, int]:
        """Return the descriptors of the process, of the uplink and of the networks."""
        if self._control is None or self._pidfd < 0:
            return {}
        found = dict.fromkeys((self._control.fileno(), self._pidfd), select.POLLIN)
        for one in (self._uplink, *self._shared):
            if one is not None:
                found.update(one.interest())
        return found

    def handle(self, fd: int) -> None:
        """Warn of a refusal, follow changes of members, and fail at the end of the process or the uplink."""
        assert self._control is not None
        if fd in (self._control.fileno(), self._pidfd):
            self._on_event(self._receive() if fd == self._control.fileno() else None)
            return
        for one in self._shared:
            if fd in one.interest():
                self._follow(one, fd)
                return
        if self._uplink is not None and (reason := self._uplink.handle(fd)) is not None:
            self.fail(reason)

    def _follow(self, shared: SharedNetwork, fd: int) -> None:
        before = shared.members
        if (reason := shared.handle(fd)) is not None:
            self.fail(reason)
            return
        if shared.members != before:
            self.trace(f"{shared.step}: {', '.join(one.name for one in shared.members)}")
            self._send_members(shared)
            self._write_hosts()

    def _send_members(self, shared: SharedNetwork) -> None:
        assert self._control is not None
        try:
            sent = control.send(self._control, control.SetMembers.of(shared.name, shared.members))
        except OSError:
            return  # it has ended, which is noticed next
        if not sent:
            self.fail("sandbox-net, which answers names, does not read what it is sent")

    def _receive(self) -> object:
        """Return the next message of the process; None if it has ended or sends what it never should."""
        assert self._control is not None
        try:
            return control.receive(self._control)
        except ValueError:
            return None

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
        if self._control is None or self.plan.egress is None:
            return None
        try:
            control.send(self._control, control.RequestCounts())
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            while poll.poll(_COUNTS_SECONDS * 1000):
                event = self._receive()
                if isinstance(event, control.Counts):
                    return event.refused
                if event is None:
                    break
                self._on_event(event)
        except OSError:
            pass  # it has ended
        return None

    def reap(self) -> None:
        """Wait for the end of the processes that have ports of the host."""
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0
            for pid in self._children:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)  # the signal at the end of their parent has killed them
        for one in (self._uplink, *(one.uplink for one in self._shared)):
            if one is not None:
                one.leave()

    def close(self) -> None:
        """End the processes, leave the networks, and close the descriptors."""
        self._close_published()
        if self._control is not None:
            self._control.close()  # its children end with it
            self._control = None
        if self._pid:
            process.kill_quietly(self._pid)
        if self._uplink is not None:
            self._uplink.close()
        for one in self._shared:
            one.disconnect()
        for one in self._shared:
            one.leave()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._hosts_file is not None:
            self._hosts_file.close()
            self._hosts_file = None
        if self._inside is not None:
            self._inside.close()
            self._inside = None

    def _close_published(self) -> None:
        for _, one in self._published:
            one.close()
        self._published = []


def _open_namespace(pid: int, kind: str, stack: ExitStack) -> int:
    fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd
