"""The supervisor: brings a planned sandbox up, waits for it, and undoes everything in reverse on every way
out.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from sandbox.errors import (
    EXIT_FAILURE,
    EXIT_TIMED_OUT,
    SandboxError,
    SetupError,
)
from sandbox.host.facts import HostFacts
from sandbox.kernel import idmaps, process
from sandbox.kernel.cgroups import Counters
from sandbox.plan import CGROUP_LEVELS, Plan
from sandbox.runtime import filters, outcome
from sandbox.runtime.messages import (
    Adopted,
    CgroupNamespace,
    Channel,
    ExecFailed,
    FuseMounted,
    InitStarted,
    Mapped,
    ProgramEnded,
    RootBound,
    SeccompListener,
    SetupFailed,
    SignalsReady,
    Started,
    TerminalOpened,
    Unshared,
)
from sandbox.runtime.process import execve, init
from sandbox.runtime.resources import SandboxResources
from sandbox.runtime.signals import CAUGHT, ENDING, Interrupted, Signals, first_ending
from sandbox.runtime.standard_descriptors import StandardDescriptors
from sandbox.runtime.timeline import Timeline
from sandbox.runtime.tty import TerminalRelay
from sandbox.runtime.unionfs_server import Ready, Server
from sandbox.spec import signal_number
from sandbox.spec.units import format_duration
from sandbox.state.directory import StateDirectory
from unionfs._stdlib.typing import NoReturn, TypeVar

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.reading import Progress
    from sandbox.runtime.report import Report
    from sandbox.runtime.seccomp_trace import Denials

M = TypeVar("M")

#: Seconds for init to end after its mounts are gone.
_GRACE = 5.0
#: What is said of a FUSE mount whose server has let go of it (fs/fuse/dev.c).
_MOUNT_DIED = frozenset((errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED))
#: Seconds for init to end after it was killed; then the server is ended, too, as somebody waits for an answer of it.
_KILLED_GRACE = 5.0
#: Milliseconds that poll(2) takes at most, 24 days: an int; then it is asked again.
_LONGEST_POLL = 2**31 - 1


class Supervisor:
    """One sandbox, from its plan to its end."""

    def __init__(
        self,
        plan: Plan,
        facts: HostFacts,
        state: StateDirectory,
        server: Server,
        *,
        trace: Callable[[str], None],
        warn: Callable[[str], None],
        say_denied: Callable[[str], None] | None = None,
        measure: bool = False,
        timeline: Timeline | None = None,
        secret: bytes | None = None,
        progress: Callable[[], Progress] | None = None,
    ) -> None:
        """Prepare to run *plan*; the server, started or not, belongs to the supervisor from now on.

        *secret* authenticates compiled filters that are kept; without it none is. *say_denied* is told which system calls the filter denies, if that is wanted. With *measure* there is a
        :attr:`report` once the program has ended. *progress* makes what is told of an archive that is read.
        """
        self._plan = plan
        self._facts = facts
        self._state = state
        self._server = server
        self._trace = trace
        self._warn = warn
        self._user_namespace_fd = -1
        #: Held where processes are shared: its number is no other's for as long.
        self._mount_namespace_fd = -1
        #: Those that the sandbox has for itself, by kind.
        self._namespaces: dict[str, int] = {}
        self._progress = progress
        self._signals: Signals
        self._resources: SandboxResources
        self._relay: TerminalRelay | None = None
        self._init_pid = 0
        self._stage1_gone = False
        self._settled = False
        self._started = False
        self._hurried_by = 0
        self._exec_deadline: float | None = None
        self._interrupted = 0
        self._server_gone = False
        #: Init failed by what a mount says whose server is gone, and nothing has said why it is.
        self._mount_died = False
        self._channel_gone = False
        self._init_exit_deadline: float | None = None
        self._failure: SandboxError | None = None
        self._timed_out = False
        self._kill_at: float | None = None
        self._overstayed = False  # did not end within process.stop_timeout
        self._filter: bytes | None = None
        self._serving_filter: bytes | None = None
        self._secret = secret
        self._say_denied = say_denied
        self._denials: Denials | None = None
        self._server_kill_deadline: float | None = None
        self._measure = measure
        self._timeline = Timeline(time.monotonic_ns()) if timeline is None else timeline
        self._program_ended: ProgramEnded | None = None
        self._full: set[str] = set()
        #: Directories of layers that the server reported as closed to it.
        self._closed: list[str] = []
        self.report: Report | None = None

    def run(self) -> int:
        """Run the sandbox; returns its exit status.

        Raises:
            SandboxError: it could not be brought up, or ended because a part of it failed.
        """
        try:
            with ExitStack() as undo:
                undo.callback(self._server.stop)
                return self._bring_up(undo)
        except Interrupted as interrupted:
            return 128 + interrupted.number
        except OSError as error:  # of a step without a name: no descriptor, process or memory was left
            raise SetupError.from_os_error("start", "set-up", error) from error

    def _bring_up(self, undo: ExitStack) -> int:
        undo.callback(StandardDescriptors.now().restore)
        self._signals = Signals(undo)
        known = self._plan, self._facts, self._state, self._signals
        self._resources = SandboxResources(
            *known, warn=self._warn, measure=self._measure, progress=self._progress
        )
        self._resources.open_joined(undo)
        _open_pipes_for_reopening()
        self._compile_filters()
        self._resources.prepare(undo)
        self._resources.settle(self._server, self._trace)
        self._plan, self._server_gone = self._resources.plan, not self._resources.served
        channel, theirs = Channel.pair()
        undo.callback(channel.close)
        undo.callback(theirs.close)
        process.become_subreaper()
        undo.callback(self._close_descriptors)
        undo.callback(self._end_init)
        self._timeline.mark("prepared")
        stage1 = self._fork_stage1(theirs, channel)
        theirs.close()
        with self._signals.ending():
            self._start(stage1, channel)
        return self._wait(channel, self._signals.reader)

    def _compile_filters(self) -> None:
        plan = self._plan.process.seccomp
        if plan is not None:
            library, machine = self._facts.libseccomp or "", self._facts.machine
            self._filter = filters.program_for(
                plan, state_fd=self._state.fd, secret=self._secret, library=library, machine=machine
            )
        bound = self._plan.bound
        if bound is None or bound.otherwise != "refuse":  # there may be a server
            self._serving_filter = filters.serving_program(
                self._facts, state_fd=self._state.fd, secret=self._secret
            )

    # -- the processes -----------------------------------------------------------------------------

    def _fork_stage1(self, theirs: Channel, ours: Channel) -> int:
        confinement = self._confinement(theirs)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            raise SetupError.from_os_error("stage 1", "fork", error) from None
        if pid == 0:
            try:
                self._become_stage1(theirs, ours, confinement)
            finally:
                os._exit(EXIT_FAILURE)
        return pid

    def _become_stage1(self, theirs: Channel, ours: Channel, confinement: execve.Confinement) -> NoReturn:
        """Leave behind what is the supervisor's: its signals, its locks, its end of the channel, the server's
        socket.
        """
        signal.set_wakeup_fd(-1)
        for number in CAUGHT:
            signal.signal(number, signal.SIG_DFL)

        def let_go() -> None:
            ours.close()
            if self._plan.process.empty_input:
                process.empty_standard_input()
            process.close_descriptors_but(
                {0, 1, 2, theirs.fileno(), confinement.trampoline, *self._resources.joined.values()}
            )

        init.run_stage1(
            self._plan,
            theirs,
            self._resources.joined,
            self._resources.label,
            self._trace,
            let_go,
            confinement,
            self._resources.natives,
        )

    def _confinement(self, channel: Channel) -> execve.Confinement:
        plan = self._plan.process.seccomp
        if plan is None or self._filter is None:
            return execve.Confinement(trampoline=self._resources.trampoline)
        traced = self._say_denied is not None
        return execve.Confinement(
            trampoline=self._resources.trampoline,
            seccomp=filters.for_kernel(self._filter, log=plan.log, traced=traced),
            hand_over=init.tell(channel) if traced else None,
            keep=(channel.fileno(),) if traced else (),
        )

    def _start(self, stage1: int, channel: Channel) -> None:
        """Bring stage1 and init to where init works on its own."""
        try:
            self._expect(channel, Unshared)
            if "user" in self._plan.namespaces and self._plan.inner_maps is None:
                self._write_maps(stage1)
            self._user_namespace_fd = os.open(f"/proc/{stage1}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            if self._resources.cgroup is not None:
                self._resources.cgroup.add(stage1)
                if self._resources.served:
                    self._resources.cgroup.add(self._server.pid, "server")
            if self._plan.process.oom_score_adj is not None and self._facts.sys_resource:
                _set_oom_score(stage1, self._plan.process.oom_score_adj)
            channel.send(Mapped())
            started = self._expect(channel, InitStarted)
            self._init_pid = started.pid
            for kind in started.namespaces:
                self._namespaces[kind] = channel.take_fd()
            self._mount_namespace_fd = self._namespaces.pop("mount", -1)  # nobody joins it
            self._reap_stage1(stage1)
            channel.send(Adopted(self._measure))
            self._timeline.mark("namespaces")
            # While init goes on: it is for those who join them.
            self._resources.run.record({"namespaces": self._namespaces})
        except OSError as error:
            raise SetupError.from_os_error("stage 1", "start", error) from None
        finally:
            self._reap_stage1(stage1)

    def _reap_stage1(self, pid: int) -> None:
        """End stage1; its child, if it has one, has nothing to go on with: the channel says that we are gone."""
        if self._stage1_gone:
            return
        if not self._init_pid:
            _kill_quietly(pid)
        self._stage1_gone = True
        os.waitpid(pid, 0)

    def _expect(self, channel: Channel, kind: type[M]) -> M:
        message = channel.receive()
        if isinstance(message, SetupFailed):
            raise outcome.setup_error(self._plan, message)
        if not isinstance(message, kind):
            raise SetupError("stage 1", "ended unexpectedly", hint="run again with --debug")
        return message

    def _write_maps(self, stage1: int) -> None:
        ids = self._plan.ids
        newuidmap, newgidmap = ids.helpers or (None, None)
        try:
            idmaps.write_maps(stage1, ids.uid_map, ids.gid_map, newuidmap=newuidmap, newgidmap=newgidmap)
        except OSError as error:
            raise SetupError.from_os_error(
                "id maps", "newuidmap" if ids.helpers else "write uid_map", error
            ) from None

    # -- while it runs -----------------------------------------------------------------------------

    def _wait(self, channel: Channel, wake_reader: int) -> int:
        deadline = None if self._plan.wall_time is None else time.monotonic() + self._plan.wall_time
        started = time.monotonic()
        pidfd = os.pidfd_open(self._init_pid)
        try:
            while True:
                server = [] if self._server_gone else [self._server.fileno()]
                init_end = [] if self._channel_gone else [channel.fileno()]
                ready = self._poll([*init_end, wake_reader, pidfd, *server], deadline)
                if pidfd in ready:
                    break
                self._check_time(deadline)
                self._hear_denials(ready)
                if server and server[0] in ready:
                    self._hear_server()
                if channel.fileno() in ready:
                    self._hear_init(channel)
                if wake_reader in ready:
                    for number in os.read(wake_reader, 256):
                        self._on_signal(number, channel)
        finally:
            os.close(pidfd)
        self._drain(channel)
        status, usage = self._reap_init()
        wall_seconds = time.monotonic() - started
        if self._relay is not None:
            self._interrupted = self._interrupted or self._relay.finish(
                wake_reader, lambda: first_ending(wake_reader)
            )
        ended = self._program_ended
        out_of_time = ended is not None and ended.out_of_time
        if self._resources.cgroup is not None or self._full or self._closed or out_of_time or self._measure:
            self._look_back(status, usage, wall_seconds)
        self._sum_up_denials()
        return self._verdict(status)

    def _look_back(self, status: int, usage: resource.struct_rusage, wall_seconds: float) -> None:
        """Say what was short, and make the report."""
        from sandbox.runtime import report

        counters = self._resources.cgroup.counters("payload") if self._resources.cgroup is not None else None
        said = self._program_ended
        out_of_time = "" if said is None else said.out_of_time
        for text in report.reached(self._plan, counters, frozenset(self._full), out_of_time):
            self._warn(text)
        if self._closed:
            self._warn(report.closed_directories(self._closed, self._facts.uid))
        if not self._measure:
            return
        timed_out, failed = self._timed_out, self._failure is not None
        final = EXIT_TIMED_OUT if timed_out else 128 - status if status < 0 else status
        if self._failure is not None:
            final = self._failure.exit_code
        ended = report.ending(
            final,
            None if said is None else said.code,
            status,
            interrupted=self._interrupted,
            timed_out=timed_out,
            failed=failed,
            oom_kills=None if counters is None else counters.oom_kills,
            out_of_time=out_of_time,
        )
        level = CGROUP_LEVELS[self._plan.cgroup_level]
        self.report = report.Report(
            name=self._plan.name,
            ending=ended,
            wall_seconds=wall_seconds,
            program=counters if counters is not None else report.counters_of(usage),
            sandbox=None if self._resources.cgroup is None else self._resources.cgroup.counters(),
            measured_by=level
            if self._resources.cgroup is not None
            else "wait4(2): memory of the largest process",
            unmeasured=self._resources.unmeasured,
            launcher_memory=None if self._resources.cgroup is not None or said is None else said.memory,
            left_over=None if said is None else said.left_over,
            limits=report.held_limits(self._plan, self._resources.cgroup),
            served=self._resources.served,
        )

    def _poll(self, fds: list[int], deadline: float | None) -> dict[int, int]:
        poll = select.poll()
        if self._denials is not None and self._denials.fileno() >= 0:
            fds = [*fds, self._denials.fileno()]
        for fd in fds:
            poll.register(fd, select.POLLIN)
        interest = self._relay.interest() if self._relay is not None else {}
        for fd, events in interest.items():
            poll.register(fd, events)
        limits = (
            deadline,
            self._exec_deadline,
            self._kill_at,
            self._init_exit_deadline,
            self._server_kill_deadline,
        )
        waits = [limit - time.monotonic() for limit in limits if limit is not None]
        if self._relay is not None and (patience := self._relay.patience()) is not None:
            waits.append(patience)
        timeout = None if not waits else max(0, min(int(min(waits) * 1000) + 1, _LONGEST_POLL))
        ready = dict(poll.poll(timeout))
        for fd in interest:
            if fd in ready and self._relay is not None:
                self._relay.handle(fd, ready[fd])
        return ready

    def _check_time(self, deadline: float | None) -> None:
        now = time.monotonic()
        if deadline is not None and now >= deadline and not self._timed_out:
            self._timed_out = True
            self._kill_init()
        if self._exec_deadline is not None and now >= self._exec_deadline:
            self._exec_deadline = None
            self._interrupted = self._interrupted or self._hurried_by
            self._kill_init()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._overstayed = True
            self._kill_init()
        if self._server_kill_deadline is not None and now >= self._server_kill_deadline:
            self._server_kill_deadline = None
            self._server.kill()
        if self._init_exit_deadline is not None and now >= self._init_exit_deadline:
            self._init_exit_deadline = None
            self._server_failed("it ended before the sandbox", "run again with --debug")

    def _hear_server(self) -> None:
        said = self._server.receive()
        if said.startswith("ready "):
            ready = Ready.parse(said)
            if ready is not None:
                self._timeline.mark_server(ready.times)
                self._trace(f"served by {ready.server}" + (f": {ready.reason}" if ready.reason else ""))
            return
        if said.startswith("full: "):
            self._full.add(said.removeprefix("full: "))
            return
        if said.startswith("closed: "):
            self._closed.append(said.removeprefix("closed: "))
            return
        if said:
            self._server_failed(said.removeprefix("error: "), None)
            return
        self._server_gone = True
        if self._server.stop() == 0 or self._server.killed:
            # Its mount is gone, so init is ending: the kernel lets go of the mounts before it reports the exit.
            self._init_exit_deadline = time.monotonic() + _GRACE
        else:
            from sandbox.runtime.report import server_was_short

            counters = (
                self._resources.cgroup.counters("server")
                if self._resources.cgroup is not None
                else Counters()
            )
            short = server_was_short(self._plan.server_cgroup, counters)
            self._server_failed(short or "it ended unexpectedly", None if short else "run again with --debug")

    def _server_failed(self, detail: str, hint: str | None) -> None:
        # Where init found the mount dead, the server knows why.
        if self._failure is None or self._mount_died:
            self._mount_died = False
            self._failure = SetupError("the file system's server", detail, hint=hint)
        self._kill_init()

    def _hear_init(self, channel: Channel) -> None:
        message = channel.receive()
        if isinstance(message, FuseMounted):
            self._timeline.mark("mounted", message.at)
            fd = channel.take_fd()
            try:
                self._server.serve(fd, self._user_namespace_fd, self._resources.stack(), self._serving_filter)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the server is gone: its descriptor says so, too
            except OSError as error:
                self._server_failed(
                    f"it cannot be told what to serve: {(error.strerror or '').lower()}", None
                )
            finally:
                os.close(fd)
        elif isinstance(message, RootBound):
            self._timeline.mark("mounted", message.at)
        elif isinstance(message, CgroupNamespace):
            self._namespaces["cgroup"] = channel.take_fd()
            self._resources.run.record({"namespaces": self._namespaces})
        elif isinstance(message, TerminalOpened):
            self._relay = TerminalRelay(channel.take_fd())
        elif isinstance(message, SeccompListener):
            self._trace_denials(channel.take_fd())
        elif isinstance(message, SetupFailed):
            if self._failure is None:
                self._failure = (
                    outcome.failure_of_process_1(message)
                    if self._started
                    else outcome.setup_error(self._plan, message)
                )
                self._mount_died = message.errno in _MOUNT_DIED
        elif isinstance(message, ExecFailed):
            self._failure = self._failure or outcome.command_error(message)
        elif message is None:
            self._channel_gone = True  # it is ending; poll would say so again at once
        elif isinstance(message, SignalsReady):
            self._timeline.mark("settled", message.at)
            self._settled = True
        elif isinstance(message, Started):
            self._timeline.mark("started", message.at)
            self._started = True
            self._exec_deadline = None
            self._trace("started")
        elif isinstance(message, ProgramEnded):
            self._timeline.mark("ended")
            self._program_ended = message

    def _trace_denials(self, listener: int) -> None:
        from sandbox.runtime.seccomp_trace import Denials

        plan = self._plan.process.seccomp
        assert plan is not None
        assert self._filter is not None
        assert self._say_denied is not None
        self._denials = Denials(plan, self._filter, listener, self._say_denied)

    def _hear_denials(self, ready: dict[int, int]) -> None:
        if self._denials is None:
            return
        events = ready.get(self._denials.fileno(), 0)
        if events & select.POLLIN:
            self._denials.hear()
        elif events:
            self._denials.close()  # nobody is under the filter any more

    def _drain(self, channel: Channel) -> None:
        """Hear what init and the server said before init ended."""
        while not self._channel_gone and _readable(channel.fileno()):
            self._hear_init(channel)
        patience = _GRACE if self._mount_died else 0.0
        while not self._server_gone and _readable(self._server.fileno(), patience):
            before = len(self._full) + len(self._closed)
            self._hear_server()
            if len(self._full) + len(self._closed) == before:
                return

    def _on_signal(self, number: int, channel: Channel) -> None:
        if number == signal.SIGCHLD:
            return
        if number in (signal.SIGWINCH, signal.SIGCONT):
            if self._relay is not None:
                # A shell that resumes a job may have changed the mode of the terminal meanwhile.
                self._relay.resize() if number == signal.SIGWINCH else self._relay.enter()
            return
        while not self._settled and not self._channel_gone and _readable(channel.fileno()):
            self._hear_init(channel)  # the program may have been seen sooner than what was said before it
        if not self._settled:
            # Process 1 would not notice.
            if number in ENDING:
                self._interrupted = self._interrupted or number
                self._kill_init()
            return
        if not self._started and number in ENDING and self._exec_deadline is None:
            # It is passed on, if the program comes to run at all.
            self._hurried_by, self._exec_deadline = number, time.monotonic() + _KILLED_GRACE
        if number == signal.SIGTERM:
            number = signal_number(self._plan.process.stop_signal)
            if self._kill_at is None:
                self._kill_at = time.monotonic() + self._plan.process.stop_timeout
        try:
            os.kill(self._init_pid, number)
        except ProcessLookupError:
            pass

    # -- the end -----------------------------------------------------------------------------------

    def _kill_init(self) -> None:
        if self._init_pid:
            _kill_quietly(self._init_pid)
            if self._server_kill_deadline is None:
                self._server_kill_deadline = time.monotonic() + _KILLED_GRACE

    def _reap_init(self) -> tuple[int, resource.struct_rusage]:
        _, status, usage = os.wait4(self._init_pid, 0)
        self._init_pid = 0
        if self._resources.shares_processes:
            self._end_processes()
        return os.waitstatus_to_exitcode(status), usage

    def _end_processes(self) -> None:
        """End what no pid namespace ends: init has, unless it was killed; then its children are ours, or of the joined one's init."""
        try:
            process.end_descendants(spare=(self._server.pid,))
            namespace = self._mount_namespace_fd if self._mount_namespace_fd >= 0 else None
            process.end_rooted(self._resources.label, namespace=namespace, spare=(self._server.pid,))
        except OSError as error:
            self._warn(f"{error.strerror}: the next command looks for them again")

    def _end_init(self) -> None:
        """On a way out that did not wait for init: end it, and with it everything in its pid namespace.

        A process that waits for the server cannot be killed before it has an answer, which the end of the server is, too.
        """
        if self._init_pid:
            self._kill_init()
            if not _ends_within(self._init_pid, _KILLED_GRACE):
                self._server.kill()
            self._reap_init()
        if self._relay is not None:
            self._relay.close()

    def _sum_up_denials(self) -> None:
        if self._say_denied is None:
            return
        for line in self._denials.summary() if self._denials is not None else ["no system call was denied"]:
            self._say_denied(line)

    def _close_descriptors(self) -> None:
        if self._denials is not None:
            self._denials.close()
        for fd in (self._user_namespace_fd, self._mount_namespace_fd):
            if fd >= 0:
                os.close(fd)
        for fd in self._namespaces.values():
            os.close(fd)

    def _verdict(self, status: int) -> int:
        if self._interrupted:
            return 128 + self._interrupted
        if self._failure is not None:
            raise self._failure
        if self._timed_out:
            limit = format_duration(self._plan.wall_time or 0)
            self._warn(f"the sandbox was ended after limits.wall_time, {limit}")
            return EXIT_TIMED_OUT
        if status < 0:
            self._warn(outcome.why_killed(self._plan, -status, overstayed=self._overstayed))
            return 128 - status
        return status


def _set_oom_score(pid: int, value: int) -> None:
    """Set the score of *pid* and its children to come. What CAP_SYS_RESOURCE has set, nobody without it lowers."""
    with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(value))


def _readable(fd: int, seconds: float = 0.0) -> bool:
    """Tell whether *fd* can be read without waiting longer than *seconds*."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(seconds * 1000))


def _open_pipes_for_reopening() -> None:
    """Let the program open /dev/stdout and its like, whoever it runs as.

    An anonymous pipe belongs to whoever made it, an id that the sandbox may not have. Only who holds a descriptor
    of it, or may trace such a process, can get at it, so its mode protects nothing.
    """
    for fd in (0, 1, 2):
        if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:["):
            try:
                os.fchmod(fd, 0o666)
            except PermissionError:
                pass  # somebody else made it: then only opening it anew is refused


def _ends_within(pid: int, seconds: float) -> bool:
    """Wait for the child *pid* to end, without reaping it and without a descriptor, of which there may be none left."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _kill_quietly(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
