"""The membership of one sandbox in a network that several sandboxes share.

The network has a gate (`shared_gate`), a record of its members (`sandbox.state.shared_networks`), and at most one uplink. Each
supervisor keeps the gate open, so that it disappears with the last of them. The links of the gate say who is a member: a link
disappears with the network namespace of its sandbox, however that ends, and every supervisor is told.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from sandbox.errors import SetupError
from sandbox.kernel import links, netlink, process, routes
from sandbox.network import shared_gate
from sandbox.network.gate import Gate, make_gate, open_gate, process_in
from sandbox.network.names import Member
from sandbox.network.nft import Nft
from sandbox.network.outside import connect_outside
from sandbox.network.shared_gate import SHARED_GATE, UPLINK, Subnet
from sandbox.network.uplink import Target, Uplink
from sandbox.plan.network_values import MembershipPlan, NetworkPlan
from sandbox.state.shared_networks import NetworkDirectory, NetworkMember, NetworkRecord, list_networks

_IN = select.POLLIN
#: How long a running supervisor waits for another one, which may be stopped (SIGSTOP) or wait for pasta.
_LOCKED_SECONDS = 10.0
#: Bytes of the names of all members, each with what is beside it. One message has all of them (`control.SetMembers`), and each
#: member has room for them in its /etc/hosts.
_MOST_NAMES, _BYTES_BESIDE = 128 << 10, 24
#: A record that another program has changed may lead to any file: opening a FIFO must not block.
_OPEN_NAMESPACE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class SharedNetwork:
    """One membership. The private network of the sandbox joins it, watches its descriptors, and leaves it."""

    def __init__(
        self,
        membership: MembershipPlan,
        plan: NetworkPlan,
        run: str,
        *,
        warn: Callable[[str], None],
        trace: Callable[[str], None],
    ) -> None:
        """Prepare to join the network of *membership*, which is one of *plan*.

        Args:
            membership: the network.
            plan: of the sandbox.
            run: the directory of the run in the run directory.
            warn: receives what the user has to know.
            trace: receives lines for --debug.
        """
        self.name = membership.network
        self._plan = membership
        self._network = plan
        self._run = os.path.basename(run)
        self._run_directory = os.path.dirname(os.path.dirname(run))
        self._directory = NetworkDirectory(self._run_directory, self.name)
        self._warn = warn
        self._trace = trace
        #: Its name is used once, because a rule of the gate may outlive it.
        self._link = f"m{os.urandom(5).hex()}"
        #: The address of the sandbox in the network.
        self.address = ""
        self._gate: Gate | None = None
        self._subnet = Subnet("")
        #: The lock of the network, and a process in its gate, from `enter` to `join`.
        self._entering = ExitStack()
        self._masquerading: Nft | None = None
        self._uplink: Uplink | None = None
        self._uplink_lock = -1
        #: The members at the last look.
        self.members: list[Member] = []

    @property
    def has_uplink(self) -> bool:
        """Whether other machines can be reached through the network."""
        return self._plan.uplink is not None

    @property
    def subnet(self) -> str:
        """Its addresses in CIDR notation, after :meth:`enter`."""
        return self._subnet.text

    @property
    def step(self) -> str:
        """The name of the membership in messages."""
        return f"network {self.name}"

    def enter(self) -> None:
        """Open or make the gate, record this member, and begin to connect the network. It is locked until :meth:`join`.

        Raises:
            SetupError: another member defines the network in another way, or no address is free.
            OSError: the kernel refuses a part of it, or the record cannot be written.
        """
        self._entering.enter_context(self._directory.locked())
        self._open_gate()
        self._begin_uplink(self._entering)

    def join(self, inside: socket.socket, sandbox_fd: int, interface: str, *, default: bool) -> None:
        """Connect a sandbox with the network, which it has entered.

        Args:
            inside: a netlink socket of the sandbox's network namespace.
            sandbox_fd: a descriptor of that namespace.
            interface: the name of the interface to make there.
            default: whether the sandbox reaches other machines by this network.

        Raises:
            SetupError: the network cannot be connected with other machines.
            OSError: the kernel refuses a part of it.
        """
        assert self._gate is not None
        shared_gate.add_member(
            self._gate,
            self._subnet,
            self._link,
            self.address,
            restricted=self._network.egress is not None,
            inside=inside,
            sandbox_fd=sandbox_fd,
            interface=interface,
            default=default,
        )
        self._complete_uplink()
        self._entering.close()
        self._look()
        self._trace(f"{self.step}: {self.address} of {self._subnet.text}, members: {len(self.members)}")

    def _open_gate(self) -> None:
        """Open or make the gate, and record this member. The others read the record when they are told of the link."""
        record = self._directory.read()
        running = () if record is None else record.running()
        if record is not None:
            self._check_definition(record, running)
        found = self._find_gate(running)
        if record is not None and found is not None:
            self._gate = found
            for one in record.members:
                if one not in running:  # its link may be about to disappear
                    shared_gate.remove_member(found, one.link)
            self._subnet = Subnet(record.subnet)
            self._record(found, running)
            return
        self._gate = gate = make_gate(SHARED_GATE)
        with self._directory.all_locked():  # so that no other network gets the same addresses
            self._subnet = self._choose_subnet()
            self._record(gate, ())
        shared_gate.prepare(gate, self._subnet)

    def _record(self, gate: Gate, others: tuple[NetworkMember, ...]) -> None:
        """Choose an address, and add this member to the record of *others*."""
        address = self._subnet.lowest_free({one.address for one in others})
        if address is None:
            raise SetupError(
                self.step,
                f"no address of {self._subnet.text} is free",
                hint=f"end a member, or set a larger networks.{self.name}.subnet",
            )
        self.address = address
        members = (*others, self._as_member(gate, address))
        if sum(len(name) + _BYTES_BESIDE for member in members for name in member.names) > _MOST_NAMES:
            raise SetupError(
                self.step,
                f"the names of its members take more than {_MOST_NAMES >> 10} KiB",
                hint="use fewer network.aliases",
            )
        self._directory.write(
            NetworkRecord(subnet=self._subnet.text, internal=self._plan.uplink is None, members=members)
        )

    def _check_definition(self, record: NetworkRecord, running: Sequence[NetworkMember]) -> None:
        """Refuse a definition that contradicts that of a running member, or the subnet that was chosen for the running members."""
        for other in running:
            ours: object
            theirs: object
            if other.internal != (self._plan.uplink is None):
                key, ours, theirs = "internal", not other.internal, other.internal
            elif other.subnet is not None and self._plan.subnet not in (None, other.subnet):
                key, ours, theirs = "subnet", self._plan.subnet, other.subnet
            else:
                continue
            raise SetupError(
                self.step,
                f"networks.{self.name}.{key} is {str(ours).lower()} in {self._network.file}, "
                f"but {str(theirs).lower()} in {other.file}, whose sandbox {other.names[0]} is running",
                hint="make both files equal, or give the networks different names",
            )
        if running and self._plan.subnet not in (None, record.subnet):
            raise SetupError(
                self.step,
                f"networks.{self.name}.subnet is {self._plan.subnet} in {self._network.file}, "
                f"but the running sandbox {running[0].names[0]} of {running[0].file} is in {record.subnet}, "
                "which was chosen for a file without a subnet",
                hint="make both files equal, or start this sandbox first",
            )

    def _find_gate(self, running: Sequence[NetworkMember]) -> Gate | None:
        """Open the gate through the descriptors of a running member."""
        for other in running:
            with ExitStack() as stack:
                fds = []
                try:
                    for number in (other.user_fd, other.network_fd):
                        fds.append(os.open(f"/proc/{other.pid}/fd/{number}", _OPEN_NAMESPACE))
                        stack.callback(os.close, fds[-1])
                except OSError:
                    continue  # it has ended meanwhile
                if os.fstat(fds[1]).st_ino == other.inode:
                    return open_gate(*fds)
        return None

    def _choose_subnet(self) -> Subnet:
        with netlink.open_socket() as host:
            taken = [str(route) for route in routes.main_routes(host) if route.family == socket.AF_INET]
        taken = [one for one in taken if not one.endswith("/0")]
        if self._plan.subnet is not None:
            used = shared_gate.overlapping(self._plan.subnet, taken)
            if self._plan.uplink is not None and used is not None:
                raise SetupError(
                    self.step,
                    f"networks.{self.name}.subnet is {self._plan.subnet} in {self._network.file}, "
                    f"but this machine has a route to {used}",
                    hint="choose another subnet, or none",
                )
            return Subnet(self._plan.subnet)
        taken += [record.subnet for _, record in list_networks(self._run_directory)]
        try:
            return shared_gate.choose_subnet(taken)
        except ValueError as error:
            raise SetupError(self.step, str(error), hint=f"set networks.{self.name}.subnet") from None

    def _as_member(self, gate: Gate, address: str) -> NetworkMember:
        return NetworkMember(
            run=self._run,
            names=self._network.names,
            address=address,
            link=self._link,
            file=self._network.file,
            subnet=self._plan.subnet,
            internal=self._plan.uplink is None,
            pid=os.getpid(),
            start=process.start_time(os.getpid()) or 0,
            user_fd=gate.user_fd,
            network_fd=gate.network_fd,
            inode=os.fstat(gate.network_fd).st_ino,
        )

    def _look(self) -> None:
        """Read who is a member."""
        record, gate = self._directory.read(), self._gate
        assert gate is not None
        self.members = [
            Member(one.names[0], one.address, one.names[1:])
            for one in (() if record is None else record.members)
            if shared_gate.link_index(gate, one.link) is not None
        ]

    def _begin_uplink(self, stack: ExitStack) -> None:
        """Begin to connect the network with other machines, unless another member does. *stack* is closed after the end.

        Raises:
            SetupError: it cannot be connected.
            OSError: the kernel refuses it.
        """
        gate = self._gate
        assert gate is not None
        if self._plan.uplink is None:
            return
        if self._uplink_lock < 0:
            found = self._directory.claim_uplink()
            if found is None:
                return
            self._uplink_lock = found
        shared_gate.set_closed(gate, self._subnet, closed=True)
        if (index := shared_gate.link_index(gate, UPLINK)) is not None:
            links.remove(gate.netlink, index)  # of a program that is just ending
        self._masquerading = shared_gate.start_masquerading(gate, self._subnet)
        pid = stack.enter_context(process_in(gate))
        self._uplink = connect_outside(
            self._plan.uplink,
            Target(pid=pid, inside=gate.netlink, interface=UPLINK, ipv6=False),
            run_directory=self._run_directory,
            warn=self._warn,
            trace=self._trace,
        )

    def _complete_uplink(self) -> None:
        """Wait until the network is connected, and open the way there.

        Raises:
            SetupError: it cannot be connected.
            OSError: the kernel or nft(8) refuses it.
        """
        self._end_masquerading()
        if self._uplink is not None:
            assert self._gate is not None
            self._uplink.complete()
            shared_gate.set_closed(self._gate, self._subnet, closed=False)

    def _end_masquerading(self) -> None:
        masquerading, self._masquerading = self._masquerading, None
        if masquerading is not None:
            masquerading.wait()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of this sandbox that connect the network."""
        return () if self._uplink is None else self._uplink.pids

    def interest(self) -> dict[int, int]:
        """Return the descriptors to watch, each with its events (poll(2))."""
        if self._gate is None:
            return {}
        found = {} if self._uplink is None else self._uplink.interest()
        return {self._gate.watch.fileno(): _IN, **found}

    def handle(self, fd: int) -> str | None:
        """Do what an event of the descriptor *fd* requires; return why the network is no longer connected, None if it is.

        The members may have changed afterwards.
        """
        assert self._gate is not None
        if fd == self._gate.watch.fileno():
            with suppress(OSError):  # ENOBUFS: some changes were dropped, and all are read now
                netlink.received(self._gate.watch)
            self._look()
            return self._replace_uplink() if self._is_left_unconnected() else None
        assert self._uplink is not None
        reason = self._uplink.handle(fd)
        if reason is None:
            return None
        self._uplink.close()
        self._uplink.reap()
        self._uplink = None
        self._warn(f"{self.step}: {reason}; it is started again")
        return self._replace_uplink()

    def _is_left_unconnected(self) -> bool:
        """Return whether the member that connected the network has ended."""
        return (
            self._gate is not None
            and self._plan.uplink is not None
            and self._uplink is None
            and shared_gate.link_index(self._gate, UPLINK) is None
        )

    def _replace_uplink(self) -> str | None:
        try:
            with self._directory.locked(_LOCKED_SECONDS), ExitStack() as stack:
                self._begin_uplink(stack)
                self._complete_uplink()
        except (SetupError, OSError) as error:
            return f"{self.step}: {error.strerror if isinstance(error, OSError) else error}"
        return None

    @property
    def uplink(self) -> Uplink | None:
        """What connects the network with other machines, if this member does."""
        return self._uplink

    def disconnect(self) -> None:
        """End the uplink, and unlock the network if joining it failed. Disconnecting twice does nothing.

        A sandbox that is in several networks disconnects all of them before it leaves one, which locks that network again.
        Otherwise, two supervisors could wait for each other.
        """
        if self._uplink_lock >= 0:
            os.close(self._uplink_lock)  # first: another member takes it when the interface disappears
            self._uplink_lock = -1
        if self._uplink is not None:
            self._uplink.close()
        with suppress(OSError):
            self._end_masquerading()
        self._entering.close()

    def leave(self) -> None:
        """Remove the sandbox from the network, and close the descriptors, after :meth:`disconnect`. Leaving twice does nothing.

        The link is only brought down: it disappears with the network namespace of the sandbox, and removing it would take 28 ms.
        """
        gate, self._gate = self._gate, None
        if gate is None:
            return
        try:
            with self._directory.locked(_LOCKED_SECONDS):
                record = self._directory.read()
                if record is not None:
                    others = tuple(one for one in record.running() if one.link != self._link)
                    self._directory.write(
                        NetworkRecord(subnet=record.subnet, internal=record.internal, members=others)
                    )
        except OSError as error:
            # Others see that this supervisor has ended, and the next one that joins removes it from the record.
            self._warn(f"{self.step}: the record cannot be changed: {error.strerror}")
        try:
            shared_gate.end_member(gate, self._link)
        except OSError as error:
            self._warn(f"{self.step}: the sandbox cannot be disconnected: {error.strerror}")
        finally:
            gate.close()
