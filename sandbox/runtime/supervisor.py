"""The supervisor: brings a planned sandbox up, waits for its end, and undoes everything in reverse on every way out.

resources   what exists before the first process
startup     the processes and namespaces, up to process 1
monitor     the poll loop until process 1 ends, with the state machine of `phase`
teardown    ending and reaping processes
outcome     the exit status, warnings and errors; pure
usage       what was used, for warnings and the report
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

from sandbox.errors import EXIT_FAILURE, SandboxError, SetupError
from sandbox.host.facts import HostFacts
from sandbox.kernel import process
from sandbox.plan import Plan
from sandbox.runtime import filters, outcome, teardown
from sandbox.runtime.messages import Channel
from sandbox.runtime.monitor import Monitor
from sandbox.runtime.phase import Life, Phase
from sandbox.runtime.process import execve, init
from sandbox.runtime.resources import SandboxResources
from sandbox.runtime.signals import Interrupted, Signals, first_ending
from sandbox.runtime.standard_descriptors import StandardDescriptors
from sandbox.runtime.startup import SandboxHandle, Startup
from sandbox.runtime.timeline import Timeline
from sandbox.runtime.unionfs_server import Server
from sandbox.spec import signal_number
from sandbox.state.directory import StateDirectory

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.reading import Progress
    from sandbox.runtime.control import ControlSocket
    from sandbox.runtime.freezing import LayerRequests
    from sandbox.runtime.log import OutputLog
    from sandbox.runtime.report import Report
    from sandbox.runtime.seccomp_trace import DenialTracer


class Supervisor:
    """One sandbox, from its plan to its end. `sandbox up` creates it and calls :meth:`run` once."""

    def __init__(
        self,
        plan: Plan,
        facts: HostFacts,
        state: StateDirectory,
        server: Server,
        *,
        trace: Callable[[str], None],
        warn: Callable[[str], None],
        report_denied: Callable[[str], None] | None = None,
        measure: bool = False,
        timeline: Timeline | None = None,
        secret: bytes | None = None,
        progress: Callable[[], Progress] | None = None,
        keep_changes: bool = False,
        log: OutputLog | None = None,
        keep_record: bool = False,
        on_start: Callable[[str], None] | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare to run *plan*; the server, started or not, belongs to the supervisor from now on.

        Args:
            plan: what to run.
            facts: about this machine.
            state: the state directory.
            server: the file system's server, which may have been started already.
            trace: receives lines for --debug.
            warn: receives warnings.
            report_denied: receives the system calls that the filter denies; None if they are not traced.
            measure: make a :attr:`report` once the program has ended.
            timeline: gets the marks of the start.
            secret: authenticates compiled filters that are cached; without it none is cached.
            progress: makes the display of the progress of an archive that is read.
            keep_changes: the ephemeral layer outlives the run.
            log: of a sandbox in the background; it receives the output of the program, and belongs to the supervisor from now on.
            keep_record: the record and the log outlive the run, too.
            on_start: called with the id of the run when the program has been executed.
            on_end: called with the id of the run when the program has ended, while the writable layer still exists.
        """
        self._plan = plan
        self._facts = facts
        self._state = state
        self._server = server
        self._trace = trace
        self._warn = warn
        self._report_denied = report_denied
        self._measure = measure
        self._timeline = Timeline(time.monotonic_ns()) if timeline is None else timeline
        self._secret = secret
        self._progress = progress
        self._keep_changes = keep_changes
        self._log = log
        self._keep_record = keep_record
        self._on_start = on_start
        self._on_end = on_end
        self._filter: bytes | None = None
        self._resources: SandboxResources
        self._life = Life(
            stop_signal=signal_number(plan.process.stop_signal), stop_timeout=plan.process.stop_timeout
        )
        self.report: Report | None = None

    def run(self) -> int:
        """Run the sandbox; returns its exit status.

        Raises:
            SandboxError: it could not be brought up, or ended because a part of it failed.
        """
        try:
            with ExitStack() as undo:
                if self._log is not None:
                    undo.callback(self._log.finish)
                undo.callback(self._server.stop)
                return self._run_and_record(undo)
        except Interrupted as interrupted:
            return 128 + interrupted.number
        except OSError as error:  # of a step without a name: no descriptor, process or memory was left
            raise SetupError.from_os_error("start", "set-up", error) from error

    def _run_and_record(self, undo: ExitStack) -> int:
        """Run the sandbox, and record how it ended, if the record outlives the run."""
        status, reason = EXIT_FAILURE, ""
        try:
            status = self._run(undo)
        except SandboxError as error:
            reason = error.message
            raise
        except Interrupted as interrupted:
            status, reason = 128 + interrupted.number, f"signal {interrupted.number}"
            raise
        finally:
            if self._keep_record and self._life.phase is Phase.ENDED and self._resources.program_ran:
                self._resources.run.retire(status=status, reason=reason)
        return status

    def _run(self, undo: ExitStack) -> int:
        undo.callback(StandardDescriptors.now().restore)
        signals = Signals(undo)
        serving_filter = self._prepare(signals, undo)
        ours, theirs = Channel.pair()
        handle = SandboxHandle(channel=ours, server=self._server, network=self._resources.network)
        undo.callback(handle.close)
        undo.callback(theirs.close)
        process.become_subreaper()
        monitor = self._monitor(handle, signals.reader, serving_filter, undo)
        undo.callback(monitor.close)
        undo.callback(teardown.end_init, handle, self._shared_label, self._warn)
        self._timeline.mark("prepared")
        startup = Startup(
            self._plan,
            self._facts,
            self._resources,
            handle,
            trace=self._trace,
            confinement=self._confinement(theirs),
            measure=self._measure,
            outputs=() if self._log is None else self._log.outputs,
        )
        startup.fork_stage1(theirs)
        theirs.close()
        if self._log is not None:
            self._log.close_outputs()
        with signals.ending():
            startup.run(self._timeline)
        started = time.monotonic()
        monitor.wait()
        status, usage = teardown.reap_init(handle, self._shared_label, self._warn)
        self._resources.program_ran = self._life.phase is Phase.RUNNING
        self._life.enter(Phase.ENDED)
        wall_seconds = time.monotonic() - started
        if monitor.relay is not None and not self._life.interrupted:
            # On a terminal that is stopped, this waits until it goes on, or for a signal.
            self._life.interrupted = monitor.relay.finish(
                signals.reader, lambda: first_ending(signals.reader)
            )
        if self._may_warn_or_report(monitor):
            from sandbox.runtime import usage as used

            cgroup = self._resources.cgroup
            ended = used.InitExit(
                status, usage, wall_seconds, None if cgroup is None else cgroup.counters("payload")
            )
            used.warn_of_limits(self._plan, ended, monitor, self._facts.uid, self._warn)
            if self._measure:
                self.report = used.make_report(self._plan, self._resources, self._life, monitor, ended)
        self._report_denial_summary(monitor.denials)
        if self._on_end is not None and self._resources.program_ran:
            self._on_end(os.path.basename(self._resources.run.path))
        by_command = status < 0 and self._resources.run.is_killed
        return outcome.exit_status(self._plan, self._life, status, self._warn, by_command=by_command)

    def _prepare(self, signals: Signals, undo: ExitStack) -> bytes | None:
        """Make what exists before the first process; returns the filter of the server."""
        known = self._plan, self._facts, self._state, signals
        self._resources = SandboxResources(
            *known,
            warn=self._warn,
            trace=self._trace,
            secret=self._secret,
            measure=self._measure,
            keep_changes=self._keep_changes,
            in_background=self._log is not None,
            progress=self._progress,
        )
        self._resources.open_joined(undo)
        _open_pipes_for_reopening()
        serving_filter = self._compile_filters()
        self._resources.prepare(undo)
        if self._log is not None:
            self._log.begin(self._resources.run.record_path)
        self._resources.settle(self._server, self._trace)
        self._plan = self._resources.plan
        return serving_filter

    def _compile_filters(self) -> bytes | None:
        plan, state_fd = self._plan.process.seccomp, self._state.fd
        if plan is not None:
            library, machine = self._facts.libseccomp or "", self._facts.machine
            self._filter = filters.program_for(
                plan, state_fd=state_fd, secret=self._secret, library=library, machine=machine
            )
        bound = self._plan.bound
        if bound is not None and bound.otherwise == "refuse":
            return None  # there will be no server
        return filters.serving_program(self._facts, state_fd=state_fd, secret=self._secret)

    @property
    def wants_restart(self) -> bool:
        """Whether the sandbox is to be started again, because its private network has failed (network.on_failure)."""
        network = self._plan.network
        return self._life.network_failed and network is not None and network.on_failure == "restart"

    @property
    def _shared_label(self) -> str | None:
        """The name of the root in the mount table where no pid namespace ends the processes of the sandbox."""
        return self._resources.label if self._resources.shares_processes else None

    def _monitor(
        self, handle: SandboxHandle, wake_reader: int, serving_filter: bytes | None, undo: ExitStack
    ) -> Monitor:
        control, requests = self._control_socket(undo)
        return Monitor(
            self._plan,
            self._life,
            handle,
            self._resources,
            wake_reader=wake_reader,
            timeline=self._timeline,
            trace=self._trace,
            serving_filter=serving_filter,
            trace_denials=self._trace_denials,
            control=control,
            requests=requests,
            log=self._log,
            on_start=self._report_start,
        )

    def _report_start(self) -> None:
        if self._on_start is not None:
            self._on_start(os.path.basename(self._resources.run.path))
        if self._log is not None:
            self._log.take_over()

    def _control_socket(self, undo: ExitStack) -> tuple[ControlSocket | None, LayerRequests | None]:
        """Listen for commands about a writable layer that lasts. Without one there are none, and the start imports nothing."""
        home = self._resources.lasting_home
        if home is None:
            return None, None
        from sandbox.runtime.control import ControlSocket
        from sandbox.runtime.freezing import LayerRequests

        requests = LayerRequests(home, self._server)
        try:
            control = ControlSocket(self._resources.run.path, requests.begin)
        except OSError as error:
            # The sandbox works without it, for example on a file system without sockets.
            self._trace(f"no control socket: {error.strerror}")
            return None, None
        undo.callback(control.close)
        return control, requests

    def _confinement(self, channel: Channel) -> execve.Confinement:
        plan, trampoline = self._plan.process.seccomp, self._resources.trampoline
        if plan is None or self._filter is None:
            return execve.Confinement(trampoline=trampoline)
        traced = self._report_denied is not None
        return execve.Confinement(
            trampoline=trampoline,
            seccomp=filters.for_kernel(self._filter, log=plan.log, traced=traced),
            hand_over=init.listener_sender(channel) if traced else None,
            keep=(channel.fileno(),) if traced else (),
        )

    def _trace_denials(self, listener: int) -> DenialTracer:
        from sandbox.runtime.seccomp_trace import DenialTracer

        plan = self._plan.process.seccomp
        assert plan is not None
        assert self._filter is not None
        assert self._report_denied is not None
        return DenialTracer(plan, self._filter, listener, self._report_denied)

    def _report_denial_summary(self, denials: DenialTracer | None) -> None:
        if self._report_denied is None:
            return
        for line in denials.summary() if denials is not None else ["no system call was denied"]:
            self._report_denied(line)

    def _may_warn_or_report(self, monitor: Monitor) -> bool:
        """Return whether warnings or a report are possible: only then are their modules imported."""
        ended = monitor.program_ended
        out_of_time = ended is not None and bool(ended.out_of_time)
        limited = self._resources.cgroup is not None or out_of_time
        return limited or self._measure or bool(monitor.full or monitor.closed)


def _open_pipes_for_reopening() -> None:
    """Let the program open /dev/stdout and its like, whichever user it runs as.

    An anonymous pipe belongs to the user who made it, an id that the sandbox may not have. A process reaches it only through a
    descriptor of its own or of a process that it may trace, so the mode of the pipe protects nothing.
    """
    for fd in (0, 1, 2):
        if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:["):
            try:
                os.fchmod(fd, 0o666)
            except PermissionError:
                pass  # another user made it: only opening it again is refused
