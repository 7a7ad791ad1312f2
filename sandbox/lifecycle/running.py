"""End and signal running sandboxes. They have no daemon: the supervisor of each is told by signals."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress

from sandbox.errors import StateError
from sandbox.kernel import process
from sandbox.state.run_record import RunRecord
from sandbox.state.runs import Run, list_runs
from sandbox.state.sandbox_directory import announce_kill
from sandbox.state.selection import by_prefix, is_file, selects

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.location import Locations

#: Signals that the supervisor passes on to the program (sandbox/runtime/signals.py).
PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_KILLED_SECONDS = 20.0
"""Seconds for a sandbox to disappear after its process 1 was killed. Only a failing machine takes that long."""


class RunningProcess:
    """The supervisor of a running sandbox, or its process 1: a pidfd, which no other process gets. The caller closes it."""

    def __init__(self, pid: int, start: int | None) -> None:
        """Open the process *pid*, which was started at *start* (`kernel.process.start_time`; None if that is not known).

        Raises:
            ProcessLookupError: it has ended.
        """
        self.fd = os.pidfd_open(pid)
        if start is not None and process.start_time(pid) != start:
            os.close(self.fd)
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def send(self, number: int) -> None:
        """Send signal *number*; a process that has ended is no error."""
        try:
            process.send_signal(self.fd, number)
        except ProcessLookupError:
            pass

    def ends_within(self, seconds: float | None) -> bool:
        """Wait for the end; return False if it takes more than *seconds* (None: any time)."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0, int(seconds * 1000))))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def choose(state_directory: str, arguments: Sequence[str], *, every: bool) -> list[Run]:
    """Return the running sandboxes of this node that *arguments* select, each once; with *every*, all.

    A name or file selects every run that has it: several runs of the foreground may have one name.

    Raises:
        StateError: an argument selects none, or is the beginning of several ids.
    """
    runs = [run for run in list_runs(state_directory) if run.state == "running" and run.record is not None]
    if every:
        return runs
    found: dict[str, Run] = {}
    for argument in arguments:
        chosen = _selected(runs, argument)
        if not chosen:
            raise StateError(f"no sandbox {argument} is running", hint="`sandbox ps` lists those that are")
        found.update((run.id, run) for run in chosen)
    return list(found.values())


def newest(state_directory: str, argument: str) -> Run:
    """Return the newest run that *argument* selects: a running one, or one in the background that has ended.

    Raises:
        StateError: there is none, or *argument* is the beginning of several ids.
    """
    runs = [
        run
        for run in list_runs(state_directory)
        if run.record is not None and (run.state == "running" or run.record.background)
    ]
    chosen = _selected(runs, argument)
    if not chosen:
        raise StateError(f"there is no sandbox {argument}", hint="`sandbox ps --all` lists all")
    return max(chosen, key=lambda run: (run.record and run.record.began) or 0.0)


def _selected(runs: Sequence[Run], argument: str) -> list[Run]:
    chosen = [
        run for run in runs if run.record and selects(argument, (run.record.name, run.id), run.record.file)
    ]
    if not chosen and not is_file(argument):
        chosen = by_prefix(argument, runs, lambda run: run.id)
    return chosen


def remove(where: Locations, run: Run) -> None:
    """Stop *run*, if it runs, and remove its record, its log and the layer that it has kept.

    Raises:
        StateError: it does not end, or a part cannot be removed.
    """
    from sandbox.lifecycle.kept_removal import remove_run

    if run.state == "running":
        stop([run], None, lambda _run, _by: None)
    again = next((one for one in list_runs(where.state) if one.id == run.id), None)
    if again is not None:  # otherwise it was in the foreground, or was started with --rm
        remove_run(where, again)


def stop(runs: Sequence[Run], seconds: float | None, on_end: Callable[[Run, str], None]) -> None:
    """End *runs*, all at the same time: by the stop signal of each, and by SIGKILL if it takes too long.

    Args:
        runs: the running sandboxes.
        seconds: until SIGKILL; None for process.stop_timeout of each file.
        on_end: receives each that has ended, with the signal that ended it.

    Raises:
        StateError: one does not end.
    """
    waiting: list[tuple[Run, RunningProcess]] = []
    try:
        for run in runs:
            supervisor = supervisor_of(run)
            if supervisor is None:
                on_end(run, "itself")
                continue
            waiting.append((run, supervisor))
            supervisor.send(signal.SIGTERM)
            supervisor.send(signal.SIGCONT)  # a shell may have stopped it
        began = time.monotonic()
        for run, supervisor in waiting:
            limit = None if seconds is None else began + seconds - time.monotonic()
            by = "its stop signal"
            if not supervisor.ends_within(limit):
                _kill_init(run)
                by = "SIGKILL"
                if not supervisor.ends_within(_KILLED_SECONDS):
                    raise StateError(
                        f"sandbox {run.shown()} does not end",
                        hint=f"kill -KILL {_pid(run)} ends its supervisor",
                    )
            on_end(run, by)
    finally:
        for _, supervisor in waiting:
            supervisor.close()


def send(run: Run, number: int) -> None:
    """Send signal *number* to the program of *run*: SIGKILL, or one of `PASSED_ON`.

    Raises:
        StateError: no other signal reaches the program.
    """
    if number == signal.SIGKILL:
        _kill_init(run)
        return
    if number not in PASSED_ON:
        names = ", ".join(one.name.removeprefix("SIG") for one in (*PASSED_ON, signal.SIGKILL))
        raise StateError(
            f"{signal.Signals(number).name} cannot be sent to a sandbox", hint=f"send one of {names}"
        )
    supervisor = supervisor_of(run)
    if supervisor is not None:
        with closing(supervisor):
            supervisor.send(number)


def wait(state_directory: str, run: Run) -> int | None:
    """Wait for the end of *run*, and return its exit status; None if that is not known, as in the foreground."""
    supervisor = supervisor_of(run)
    if supervisor is not None:
        with closing(supervisor):
            supervisor.ends_within(None)
    again = next((one for one in list_runs(state_directory) if one.id == run.id), None)
    return None if again is None or again.record is None else again.record.status


def supervisor_of(run: Run) -> RunningProcess | None:
    """Open the supervisor of *run*; None if it has ended.

    Raises:
        StateError: it runs in another pid namespace.
    """
    record = run.record
    if record is None or record.pid is None:
        return None
    try:
        return RunningProcess(record.pid, record.start)
    except ProcessLookupError:
        if _is_locked_elsewhere(record):
            raise StateError(
                f"sandbox {run.shown()} belongs to another pid namespace", hint="run the command there"
            ) from None
        return None


def _is_locked_elsewhere(record: RunRecord) -> bool:
    from sandbox.state.node import this_place

    return record.place is not None and record.place.pid_namespace != this_place().pid_namespace


def _kill_init(run: Run) -> None:
    """Kill process 1 of *run*, with which every process of the sandbox ends; before it exists, the supervisor."""
    supervisor = supervisor_of(run)
    if supervisor is None:
        return
    with closing(supervisor):
        init = None if run.record is None else run.record.init
        if init is None:
            supervisor.send(signal.SIGKILL)
            return
        with suppress(ProcessLookupError), closing(RunningProcess(init, None)) as target:
            # Otherwise process 1 has ended, and its pid may be that of another process.
            if process.parent_of(init) == _pid(run) and not supervisor.ends_within(0):
                with suppress(OSError):  # a full disk, or a run that has just ended
                    announce_kill(str(run.record and run.record.run_directory))
                target.send(signal.SIGKILL)


def _pid(run: Run) -> int | None:
    return None if run.record is None else run.record.pid
