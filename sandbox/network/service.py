"""Assembles what `sandbox-net` does from a request, and runs it until the supervisor has ended. Confinement is not done here."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

from sandbox.network import control
from sandbox.network.connections import Connections
from sandbox.network.egress import Egress, RefusedPackets
from sandbox.network.egress_rules import EgressRules
from sandbox.network.event_loop import IN, EventLoop
from sandbox.network.forwards import DatagramClients, DatagramForward, SocketSource, forward_tcp
from sandbox.network.names import EgressNames, MemberNames
from sandbox.network.refusals import RefusalLine, RefusalLog
from sandbox.network.request import DnsRequest, EgressRequest, NetworkRequest
from sandbox.network.resolver import Resolver
from sandbox.network.socket_maker import SocketPool

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.network.dns_answers import Zone
    from sandbox.network.dns_server import Upstream

_MOST_COMMANDS = 64


class NetworkService:
    """Everything of one process: the event loop, the sockets of the request, and the tables. Owns all of them."""

    def __init__(
        self,
        request: NetworkRequest,
        sockets: socket.socket | None,
        resolver: socket.socket | None,
    ) -> None:
        """Serve *request*.

        Args:
            request: its descriptors belong to the service from now on.
            sockets: connected to `serve_sockets`; None if no forward is inside.
            resolver: connected to `serve_names`; None without egress.

        Raises:
            ValueError: a rule or address of the request is invalid.
        """
        self.loop = EventLoop()
        self._control = socket.socket(fileno=request.control)
        self._control.settimeout(0)
        #: Why the process must end: "" if the supervisor has ended.
        self.failure = ""
        self._log = RefusalLog(self._send_refusal, time.monotonic)
        self._connections = Connections(self.loop, request.most_connections)
        self._members: dict[str, MemberNames] = {}
        self._upstream: Upstream | None = None
        self._egress: tuple[EgressRules, EgressNames] | None = None
        self._opened: list[socket.socket] = []
        self._pool = None
        if sockets is not None:
            self._pool = SocketPool(self.loop, sockets, self._ended("the process that makes sockets"))
        if request.egress is not None:
            assert resolver is not None
            names = Resolver(self.loop, resolver, self._ended("the process that resolves names"))
            self._start_egress(request.egress, names)
        self._ports = self._start_forwards(request)
        if request.dns:
            self._start_dns(request)
        self.loop.add(self._control.fileno(), IN, self._on_command)

    def run(self, children: list[int]) -> None:
        """Send `Ready` with the pids *children*, and serve until the supervisor closes its end or the process must end."""
        try:
            control.send(self._control, control.Ready(self._ports, children), wait=False)
        except OSError:
            return
        self.loop.run()

    def _ended(self, what: str) -> Callable[[], None]:
        def on_end() -> None:
            self.failure = f"{what} has ended"
            self.loop.stop()

        return on_end

    def _open(self, fd: int) -> socket.socket:
        one = socket.socket(fileno=fd)
        one.settimeout(0)
        self._opened.append(one)
        return one

    def _start_egress(self, request: EgressRequest, resolver: Resolver) -> None:
        rules, names = EgressRules.parse(request.allow, request.deny, request.hosts), EgressNames()
        self._egress = rules, names
        egress = Egress(self._connections, rules, names, resolver, self._log)
        for listener in request.listeners:
            egress.listen(self._open(listener.fd), redirected=listener.redirected)
        if request.observer >= 0:
            RefusedPackets(self.loop, self._open(request.observer), egress, rules, names, self._log)

    def _start_forwards(self, request: NetworkRequest) -> list[int]:
        clients, ports = DatagramClients(self.loop), []
        for forward in request.forwards:
            listener, source = self._open(forward.listener), SocketSource(forward, self._pool)
            ports.append(listener.getsockname()[1])
            if forward.protocol == "tcp":
                forward_tcp(self._connections, listener, forward, source)
            else:
                DatagramForward(clients, listener, forward, source)
        return ports

    def _start_dns(self, request: NetworkRequest) -> None:
        # Imports dnslib, which takes 5 to 10 milliseconds and 1.3 MB.
        from sandbox.network.dns_server import DnsServer, Upstream

        if any(one.forwards for one in request.dns):
            self._upstream = Upstream(self.loop, [])
            self._upstream.replace(list(request.resolvers))
        for one in request.dns:
            server = DnsServer(self.loop, self._zone(one), self._log, self._upstream)
            for fd in one.udp:
                server.serve_udp(self._open(fd))
            for fd in one.tcp:
                server.serve_tcp(self._open(fd))

    def _zone(self, request: DnsRequest) -> Zone:
        from sandbox.network.dns_answers import Zone

        zone = Zone(forwards=request.forwards and not request.egress)
        for name, members in request.networks.items():
            table = self._members.setdefault(name, MemberNames(name))
            table.replace(members)
            zone.members += (table,)
        if request.egress and self._egress is not None:
            zone.rules, zone.names = self._egress
        return zone

    def _send_refusal(self, line: RefusalLine) -> None:
        self._send(control.Refused(line.destination, line.reason, line.remedy, self._log.total))

    def _send(self, event: control.Event) -> None:
        try:
            control.send(self._control, event, wait=False)
        except OSError:
            self.loop.stop()  # the supervisor has ended

    def _on_command(self, _events: int) -> None:
        for _ in range(_MOST_COMMANDS):
            try:
                command = control.receive(self._control)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise
                command = None
            if command is None:
                self.loop.stop()
                return
            self._execute(command)

    def _execute(self, command: control.Command | control.Event) -> None:
        if isinstance(command, control.SetMembers):
            table = self._members.get(command.network)
            if table is not None:
                table.replace(command.values())
        elif isinstance(command, control.SetResolvers):
            if self._upstream is not None:
                self._upstream.replace(command.addresses)
        elif isinstance(command, control.RequestCounts):
            counts = self._connections
            self._send(
                control.Counts(self._log.total, self._log.not_logged, counts.above_limit, counts.count)
            )
