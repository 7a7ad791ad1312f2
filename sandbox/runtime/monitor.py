"""The poll loop of a running sandbox: events from process 1, the server, signals and the terminal; actions by `phase`."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from sandbox.errors import SetupError
from sandbox.kernel.cgroups import Counters
from sandbox.plan import Plan
from sandbox.runtime import outcome
from sandbox.runtime.messages import (
    CgroupNamespace,
    ExecFailed,
    FuseMounted,
    HostsShown,
    Message,
    ProgramEnded,
    RootBound,
    SeccompListener,
    SetupFailed,
    SignalsReady,
    Start,
    Started,
    TerminalOpened,
)
from sandbox.runtime.phase import GRACE, Action, Deadline, Forward, KillInit, Life, Phase
from sandbox.runtime.resources import SandboxResources
from sandbox.runtime.startup import SandboxHandle
from sandbox.runtime.timeline import Timeline
from sandbox.runtime.tty import TerminalRelay
from unionfs.launch.protocol import DONE, Ready

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.control import ControlSocket
    from sandbox.runtime.freezing import LayerRequests
    from sandbox.runtime.log import OutputLog
    from sandbox.runtime.seccomp_trace import DenialTracer

#: Errors of a FUSE mount whose server has closed it (fs/fuse/dev.c).
_MOUNT_DIED = frozenset((errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED))
#: Milliseconds that poll(2) takes at most, 24 days: an int. Then the loop polls again.
_LONGEST_POLL = 2**31 - 1
#: Seconds to wait for the end of the server after a program that SIGBUS has ended.
_SERVER_CLOSES = 0.2


class System:
    """The system calls of the loop that depend on time or on other processes; tests put others in their place."""

    def now(self) -> float:
        """Return the seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def open_process(self, pid: int) -> int:
        """Return a descriptor that can be read once the child *pid* has ended (pidfd_open(2))."""
        return os.pidfd_open(pid)

    def poll(self, events: dict[int, int], milliseconds: int | None) -> dict[int, int]:
        """Wait for *events* of descriptors; returns those that came (poll(2))."""
        poll = select.poll()
        for fd, wanted in events.items():
            poll.register(fd, wanted)
        return dict(poll.poll(milliseconds))

    def kill(self, pid: int, number: int) -> None:
        """Send signal *number* to *pid*, if there is such a process."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Monitor:
    """Waits for the end of process 1. The supervisor creates it, and closes it with what it has received.

    It owns the relay of the terminal, the listener of denied system calls, and what was reported for the end.
    """

    def __init__(
        self,
        plan: Plan,
        life: Life,
        handle: SandboxHandle,
        resources: SandboxResources,
        *,
        wake_reader: int,
        timeline: Timeline,
        trace: Callable[[str], None],
        serving_filter: bytes | None = None,
        trace_denials: Callable[[int], DenialTracer] | None = None,
        control: ControlSocket | None = None,
        requests: LayerRequests | None = None,
        log: OutputLog | None = None,
        on_start: Callable[[], None] | None = None,
        system: System | None = None,
    ) -> None:
        """Prepare to watch *handle*.

        Args:
            plan: of the sandbox.
            life: its phase and deadlines, which the loop changes.
            handle: its processes.
            resources: gives what the server serves; records namespaces.
            wake_reader: a pipe with a byte for each signal that came (`signals.Signals`).
            timeline: gets the marks of the start.
            trace: receives lines for --debug.
            serving_filter: the seccomp filter of the server.
            trace_denials: makes what answers for the listener of a traced filter.
            control: the socket over which commands ask the supervisor.
            requests: executes what they ask.
            log: receives the output of the program; None if that has the launcher's own files.
            on_start: called when the program has been executed.
            system: the calls of the loop.
        """
        self._plan = plan
        self._life = life
        self._handle = handle
        self._resources = resources
        self._wake_reader = wake_reader
        self._timeline = timeline
        self._trace = trace
        self._serving_filter = serving_filter
        self._trace_denials = trace_denials
        self._control = control
        self._requests = requests
        self._log = log
        self._on_start = on_start
        self._system = System() if system is None else system
        self._channel_open = True
        self._server_open = resources.served
        #: Whether the server has been sent what it is to show. Before, it would take another request for that.
        self._serving = False
        self.relay: TerminalRelay | None = None
        self.denials: DenialTracer | None = None
        #: What process 1 reported of the end of the program.
        self.program_ended: ProgramEnded | None = None
        #: Which limits of the writable layer the server reported as reached: "size", "inodes".
        self.full: set[str] = set()
        #: Directories of layers that the server reported as closed to it.
        self.closed: list[str] = []

    def close(self) -> None:
        """Close the terminal and the listener."""
        if self.relay is not None:
            self.relay.close()
        if self.denials is not None:
            self.denials.close()

    def wait(self) -> None:
        """Return when process 1 has ended; it is not reaped."""
        if self._plan.wall_time is not None:
            self._life.limit(Deadline.WALL_TIME, self._system.now() + self._plan.wall_time)
        pidfd = self._system.open_process(self._handle.init_pid)
        try:
            while not self._turn(pidfd):
                pass
        finally:
            os.close(pidfd)
        self._receive_rest()

    def _turn(self, pidfd: int) -> bool:
        """Wait for events and handle them; returns whether process 1 has ended."""
        channel, server = self._handle.channel.fileno(), self._handle.server
        server_fd = server.fileno() if self._server_open else -1
        wanted = [pidfd, self._wake_reader]
        wanted += [channel] if self._channel_open else []
        wanted += [server_fd] if server_fd >= 0 else []
        fetching = self._resources.fetching
        fetcher_fd = -1 if fetching is None else fetching.fileno()
        wanted += [fetcher_fd] if fetcher_fd >= 0 else []
        ready = self._poll(wanted)
        if pidfd in ready:
            return True
        self._on_time()
        self._answer_denials(ready)
        if server_fd in ready:
            self._receive_from_server()
        if fetching is not None and fetcher_fd in ready:
            fetching.receive()
        if channel in ready:
            self._receive_from_init()
        if self._wake_reader in ready:
            for number in os.read(self._wake_reader, 256):
                self._on_signal(number)
        return False

    def _poll(self, fds: list[int]) -> dict[int, int]:
        if self.denials is not None and self.denials.fileno() >= 0:
            fds = [*fds, self.denials.fileno()]
        interest = self.relay.interest() if self.relay is not None else {}
        asked = self._control.interest() if self._control is not None and self._serving else {}
        logged = {} if self._log is None else self._log.interest()
        network = self._handle.network
        connected = {} if network is None else network.interest()
        waits = []
        if (deadline := self._life.next_deadline()) is not None:
            waits.append(deadline - self._system.now())
        if self.relay is not None and (patience := self.relay.patience()) is not None:
            waits.append(patience)
        timeout = None if not waits else max(0, min(int(min(waits) * 1000) + 1, _LONGEST_POLL))
        ready = self._system.poll(
            {**dict.fromkeys(fds, select.POLLIN), **interest, **asked, **logged, **connected}, timeout
        )
        for fd in logged:
            if fd in ready and self._log is not None:
                self._log.handle(fd)
        for fd in interest:
            if fd in ready and self.relay is not None:
                self.relay.handle(fd, ready[fd])
        for fd in asked:
            if fd in ready and self._control is not None:
                self._control.handle(fd)
        # Only the first: its handling may close descriptors and open others with the same numbers. poll(2) reports the rest again.
        event = next((fd for fd in connected if fd in ready), None)
        if network is not None and event is not None:
            network.handle(event)
            if network.failed:
                self._act(self._life.on_network_failed(self._system.now()))
        return ready

    def _act(self, actions: list[Action]) -> None:
        if not self._handle.init_pid:
            return  # it has been reaped, and pid 0 means this process group
        for action in actions:
            if isinstance(action, Forward):
                self._system.kill(self._handle.init_pid, action.number)
            elif isinstance(action, KillInit):
                self._system.kill(self._handle.init_pid, signal.SIGKILL)
            else:
                self._handle.server.kill()

    def _on_time(self) -> None:
        if self._life.deadlines:
            outlived = _server_failure("it ended before the sandbox", "run again with --debug")
            self._act(self._life.on_time(self._system.now(), outlived))

    # -- signals -----------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number in (signal.SIGWINCH, signal.SIGCONT):
            if self.relay is not None:
                # A shell that resumes a job may have changed the mode of the terminal meanwhile.
                self.relay.resize() if number == signal.SIGWINCH else self.relay.enter()
            return
        # The signal may answer something that the program did: what process 1 sent before is received first.
        while not self._life.phase.can_receive_signals and self._channel_open and self._init_has_sent():
            self._receive_from_init()
        self._act(self._life.on_signal(number, self._system.now()))
        if number == signal.SIGTERM:
            self._record_phase("stopping")

    def _record_phase(self, phase: str) -> None:
        """Record *phase* for `sandbox ps`. On a full disk, the record keeps the phase before."""
        with suppress(OSError):
            self._resources.run.record({"phase": phase, "since": time.time()})

    # -- process 1 ---------------------------------------------------------------------------------

    def _init_has_sent(self) -> bool:
        return self._readable(self._handle.channel.fileno())

    def _receive_from_init(self) -> None:
        message = self._handle.channel.receive()
        if message is None:
            self._channel_open = False  # process 1 is ending; poll(2) would return at once each time
            return
        self._handle_message(message)

    def _handle_message(self, message: Message) -> None:
        channel, life = self._handle.channel, self._life
        if isinstance(message, FuseMounted):
            self._timeline.mark("mounted", message.at)
            self._serve(channel.take_fd())
        elif isinstance(message, RootBound):
            self._timeline.mark("mounted", message.at)
        elif isinstance(message, CgroupNamespace):
            self._handle.namespaces["cgroup"] = channel.take_fd()
            self._resources.run.record({"namespaces": self._handle.namespaces})
        elif isinstance(message, HostsShown):
            assert self._handle.network is not None
            self._handle.network.take_hosts_file(channel.take_fd())
        elif isinstance(message, TerminalOpened):
            self.relay = TerminalRelay(channel.take_fd())
        elif isinstance(message, SeccompListener):
            assert self._trace_denials is not None
            self.denials = self._trace_denials(channel.take_fd())
        elif isinstance(message, SetupFailed):
            if life.phase.can_fail_to_start:
                failure = outcome.setup_error(self._plan, message)
            else:
                failure = outcome.failure_of_process_1(message)
            life.fail(failure, mount_died=message.errno in _MOUNT_DIED)
        elif isinstance(message, ExecFailed):
            life.fail(outcome.command_error(message))
        elif isinstance(message, SignalsReady):
            self._timeline.mark("settled", message.at)
            life.enter(Phase.READY)
            if not life.is_killed:
                self._start()
        elif isinstance(message, Started):
            self._timeline.mark("started", message.at)
            life.enter(Phase.RUNNING)
            if Deadline.STOP not in life.deadlines:  # otherwise it is stopping already
                self._record_phase("running")
            if self._on_start is not None:
                self._on_start()
            self._trace("started")
        elif isinstance(message, ProgramEnded):
            self._timeline.mark("ended")
            self.program_ended = message

    def _start(self) -> None:
        """Let process 1 execute the program."""
        self._life.enter(Phase.EXECUTING)
        try:
            self._handle.channel.send(Start())
        except (BrokenPipeError, ConnectionResetError):
            return  # process 1 has ended, which its pidfd reports
        self._trace("start was sent to process 1")

    def _serve(self, fuse_fd: int) -> None:
        """Give the server *fuse_fd*, the mount, and what it is to show there."""
        server, stack = self._handle.server, self._resources.stack()
        try:
            server.serve(fuse_fd, self._handle.user_namespace_fd, stack, self._serving_filter)
            self._serving = True
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has ended, which its descriptor reports
        except OSError as error:
            self._fail_server(f"it cannot receive the layers: {(error.strerror or '').lower()}", None)
        finally:
            os.close(fuse_fd)
            if self._resources.fetching is not None:
                self._resources.fetching.close_server()

    def _answer_denials(self, ready: dict[int, int]) -> None:
        if self.denials is None:
            return
        events = ready.get(self.denials.fileno(), 0)
        if events & select.POLLIN:
            self.denials.answer_call()
        elif events:
            self.denials.close()  # no process is under the filter any more

    # -- the server --------------------------------------------------------------------------------

    def _receive_from_server(self) -> None:
        text = self._handle.server.receive()
        kind, _, rest = text.partition(": ")
        if text.startswith("ready "):
            if (ready := Ready.parse(text)) is not None:
                self._timeline.mark_server(ready.times)
                self._trace(f"served by {ready.server}")
        elif text.startswith(DONE):
            if self._control is not None and self._requests is not None:
                import json

                self._control.finish(self._requests.done(json.loads(text.removeprefix(DONE))))
        elif kind == "full":
            self.full.add(rest)
        elif kind == "closed":
            self.closed.append(rest)
        elif text:
            self._fail_server(text.removeprefix("error: "), None)
        else:
            self._on_server_ended()

    def _on_server_ended(self) -> None:
        self._server_open = False
        server, cgroup = self._handle.server, self._resources.cgroup
        if server.stop() == 0 or server.killed:
            self._life.on_server_ended(self._system.now())
            return
        from sandbox.runtime.report import server_was_short

        counters = cgroup.counters("server") if cgroup is not None else Counters()
        short = server_was_short(self._plan.server_cgroup, counters)
        self._fail_server(short or "it ended unexpectedly", None if short else "run again with --debug")

    def _fail_server(self, detail: str, hint: str | None) -> None:
        self._act(self._life.on_server_failed(_server_failure(detail, hint), self._system.now()))

    # -- the end -----------------------------------------------------------------------------------

    def _receive_rest(self) -> None:
        """Receive what process 1 and the server sent before process 1 ended."""
        while self._channel_open and self._init_has_sent():
            self._receive_from_init()
        patience = GRACE if self._life.waits_for_cause else 0.0
        if self.program_ended is not None and self.program_ended.code == -signal.SIGBUS:
            # The program of a killed server gets SIGBUS for a page that it can no longer read. That can happen before the
            # kernel has closed the server's socket.
            patience = max(patience, _SERVER_CLOSES)
        while self._server_open and self._readable(self._handle.server.fileno(), patience):
            before = len(self.full) + len(self.closed)
            self._receive_from_server()
            if len(self.full) + len(self.closed) == before:
                return

    def _readable(self, fd: int, seconds: float = 0.0) -> bool:
        """Return whether *fd* can be read within *seconds*."""
        events = self._system.poll({fd: select.POLLIN}, int(seconds * 1000))
        return bool(events.get(fd, 0) & select.POLLIN)


def _server_failure(detail: str, hint: str | None) -> SetupError:
    return SetupError("the file system's server", detail, hint=hint)
