"""The poll loop alone: its reaction to each event, with a simulated kernel and clock, and without a sandbox."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox.errors import CommandError, SandboxError
from sandbox.plan import Plan
from sandbox.runtime.messages import (
    CgroupNamespace,
    Channel,
    ExecFailed,
    FuseMounted,
    Message,
    ProgramEnded,
    SetupFailed,
    SignalsReady,
    Start,
    Started,
    TerminalOpened,
)
from sandbox.runtime.monitor import Monitor, System
from sandbox.runtime.phase import GRACE, Life, Phase
from sandbox.runtime.startup import SandboxHandle
from sandbox.runtime.timeline import Timeline
from sandbox.spec import units
from tests.unit.sandbox.facts import plan

SPEC = '[root]\nlayers = ["dir:/"]\n'
INIT = 4242


class FakeServer:
    """A simulated server at the other end of a pipe, which sends what the test specifies."""

    def __init__(self) -> None:
        self.pid = 77
        self.killed = False
        self.status = 0
        self.served: list[int] = []
        self._reader, self._writer = os.pipe()
        self._texts: deque[str] = deque()

    def say(self, text: str) -> None:
        self._texts.append(text)
        os.write(self._writer, b"1")

    def end(self, status: int) -> None:
        self.status = status
        os.write(self._writer, b"1")

    def fileno(self) -> int:
        return self._reader

    def receive(self) -> str:
        os.read(self._reader, 1)
        return self._texts.popleft() if self._texts else ""

    def stop(self) -> int:
        return self.status

    def kill(self) -> None:
        self.killed = True

    def serve(self, fuse_fd: int, *_: object) -> None:
        self.served.append(os.fstat(fuse_fd).st_ino)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class FakeResources:
    def __init__(self) -> None:
        self.served = True
        self.cgroup = None
        self.run = self
        self.recorded: list[object] = []
        self.fetching = None

    def record(self, facts: object) -> None:
        self.recorded.append(facts)

    def stack(self) -> None:
        return None


class FakeSystem(System):
    """A simulated kernel. Its clock advances when no descriptor is ready, and events happen at their times."""

    def __init__(self) -> None:
        self.time = 100.0
        self.killed: list[tuple[float, int, int]] = []
        self._events: list[tuple[float, Callable[[], object]]] = []
        self._pidfd, self._init = os.pipe()

    def at(self, time: float, event: Callable[[], object]) -> None:
        self._events.append((time, event))
        self._events.sort(key=lambda item: item[0])

    def end_init(self) -> None:
        os.write(self._init, b"1")

    def now(self) -> float:
        return self.time

    def open_process(self, pid: int) -> int:
        assert pid == INIT
        return os.dup(self._pidfd)

    def poll(self, events: dict[int, int], milliseconds: int | None) -> dict[int, int]:
        assert milliseconds is None or milliseconds < 2**31  # poll(2) takes an int
        until = float("inf") if milliseconds is None else self.time + milliseconds / 1000
        while True:
            while self._events and self._events[0][0] <= self.time:
                self._events.pop(0)[1]()
            ready = super().poll(events, 0)
            if ready or self.time >= until:
                return ready
            self.time = min(until, self._events[0][0] if self._events else float("inf"))
            assert self.time != float("inf"), "the loop waits for what never happens"

    def kill(self, pid: int, number: int) -> None:
        self.killed.append((self.time, pid, number))

    def close(self) -> None:
        os.close(self._pidfd)
        os.close(self._init)


class Sandbox:
    """A monitor, with the other ends of the descriptors that it polls."""

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.server = FakeServer()
        self.system = FakeSystem()
        ours, self.init = Channel.pair()
        self.wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self.wake_reader, False)
        self.life = Life(stop_signal=signal.SIGTERM, stop_timeout=10)
        server: Any = self.server
        self.handle = SandboxHandle(channel=ours, server=server, init_pid=INIT)
        self.resources: Any = FakeResources()
        self.traced: list[str] = []
        self.monitor = Monitor(
            made,
            self.life,
            self.handle,
            self.resources,
            wake_reader=self.wake_reader,
            timeline=Timeline(0),
            trace=self.traced.append,
            system=self.system,
        )

    def sent(self, time: float, message: Message, *fds: int) -> None:
        """Let process 1 send *message* at *time*."""
        self.system.at(time, lambda: self.init.send(message, *fds))

    def signalled(self, time: float, number: int) -> None:
        self.system.at(time, lambda: os.write(self._wake_writer, bytes([number])))

    def said(self, time: float, text: str) -> None:
        """Let the server send *text* at *time*."""
        self.system.at(time, lambda: self.server.say(text))

    def ended(self, time: float) -> None:
        """Let process 1 end at *time*."""
        self.system.at(time, self.system.end_init)

    def server_ends(self, time: float, status: int) -> None:
        self.system.at(time, lambda: self.server.end(status))

    def ends_when_killed(self) -> None:
        """Let process 1 end when it is killed."""
        kill = self.system.kill

        def killing(pid: int, number: int) -> None:
            kill(pid, number)
            if number == signal.SIGKILL:
                self.system.end_init()

        self.system.kill = killing  # type: ignore[method-assign]

    def close(self) -> None:
        self.monitor.close()
        self.handle.close()
        self.init.close()
        self.server.close()
        self.system.close()
        os.close(self.wake_reader)
        os.close(self._wake_writer)


@pytest.fixture
def made() -> Iterator[Callable[..., Sandbox]]:
    """Return a function that creates a simulated sandbox from an environment file."""
    every: list[Sandbox] = []

    def make(spec: str = SPEC) -> Sandbox:
        every.append(Sandbox(plan(spec)))
        return every[-1]

    yield make
    for sandbox in every:
        sandbox.close()


def test_process_1_is_sent_start_once_it_is_ready_and_the_program_runs(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.sent(101, SignalsReady())
    sandbox.sent(102, Started())
    sandbox.sent(103, ProgramEnded(7))
    sandbox.ended(104)
    sandbox.monitor.wait()
    assert isinstance(sandbox.init.receive(), Start)
    assert sandbox.life.phase is Phase.RUNNING
    assert sandbox.monitor.program_ended == ProgramEnded(7)
    assert (sandbox.system.killed, sandbox.life.failure) == ([], None)
    assert sandbox.traced == ["start was sent to process 1", "started"]


def test_what_was_sent_before_process_1_ended_is_received_after_its_end(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    for message in (SignalsReady(), Started(), ProgramEnded(3)):
        sandbox.sent(101, message)
    sandbox.ended(101)
    sandbox.monitor.wait()
    assert sandbox.monitor.program_ended == ProgramEnded(3)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_behind_the_word_that_process_1_takes_them_is_passed_on(
    made: Callable[..., Sandbox], number: int
) -> None:
    sandbox = made()
    sandbox.signalled(101, number)
    sandbox.sent(101, SignalsReady())
    sandbox.sent(102, Started())
    sandbox.ended(103)
    sandbox.monitor.wait()
    assert sandbox.system.killed == [(101, INIT, number)]
    assert sandbox.life.interrupted == 0


def test_before_that_a_signal_that_ends_programs_kills_process_1_and_others_are_dropped(
    made: Callable[..., Sandbox],
) -> None:
    sandbox = made()
    sandbox.signalled(101, signal.SIGUSR1)
    sandbox.signalled(102, signal.SIGINT)
    sandbox.ends_when_killed()
    sandbox.monitor.wait()
    assert sandbox.system.killed == [(102, INIT, signal.SIGKILL)]
    assert sandbox.life.interrupted == signal.SIGINT


def test_a_program_that_does_not_come_to_run_after_a_signal_is_not_waited_for(
    made: Callable[..., Sandbox],
) -> None:
    sandbox = made()
    sandbox.sent(101, SignalsReady())
    sandbox.signalled(102, signal.SIGINT)
    sandbox.ends_when_killed()
    sandbox.monitor.wait()
    (_, _, first), (when, _, last) = sandbox.system.killed
    assert (first, last) == (signal.SIGINT, signal.SIGKILL)
    assert 102 + GRACE <= when < 102 + GRACE + 0.01
    assert sandbox.life.interrupted == signal.SIGINT


def test_wall_time_begins_with_the_wait_and_ends_process_1(made: Callable[..., Sandbox]) -> None:
    sandbox = made(SPEC + "[limits]\nwall_time = 30\n")
    sandbox.ends_when_killed()
    sandbox.monitor.wait()
    ((when, pid, number),) = sandbox.system.killed
    assert (pid, number) == (INIT, signal.SIGKILL)
    assert 130 <= when < 130.01
    assert sandbox.life.timed_out


def test_a_time_that_is_longer_than_poll_can_wait_is_waited_for_in_parts(
    made: Callable[..., Sandbox],
) -> None:
    days = 40
    assert days * 86400 * 1000 > 2**31
    sandbox = made(SPEC + f"[limits]\nwall_time = {units.DURATION_MAX}\n")
    sandbox.sent(100 + days * 86400, SignalsReady())
    sandbox.ended(101 + days * 86400)
    sandbox.monitor.wait()
    assert sandbox.life.phase is Phase.EXECUTING


def test_a_process_1_that_does_not_end_when_killed_ends_with_the_server(made: Callable[..., Sandbox]) -> None:
    sandbox = made(SPEC + "[limits]\nwall_time = 30\n")
    sandbox.ended(130 + GRACE + 1)
    sandbox.monitor.wait()
    assert sandbox.server.killed


def test_a_server_that_fails_ends_process_1_with_its_reason(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.said(101, "error: no memory")
    sandbox.ends_when_killed()
    sandbox.monitor.wait()
    assert str(sandbox.life.failure) == "the file system's server: no memory"


def test_a_server_that_ends_without_a_word_has_ended_unexpectedly(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.server_ends(101, 1)
    sandbox.ends_when_killed()
    sandbox.monitor.wait()
    assert str(sandbox.life.failure) == "the file system's server: it ended unexpectedly"


def test_a_server_that_ends_as_it_should_gives_process_1_some_seconds(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.server_ends(101, 0)
    sandbox.ends_when_killed()
    sandbox.monitor.wait()
    ((when, _, _),) = sandbox.system.killed
    assert 101 + GRACE <= when < 101 + GRACE + 0.01
    assert "it ended before the sandbox" in str(sandbox.life.failure)


def test_what_the_server_reports_is_kept_for_the_end(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    for text in ("full: size", "closed: /root", "full: inodes", "closed: /home"):
        sandbox.said(101, text)
    sandbox.ended(102)
    sandbox.monitor.wait()
    assert sandbox.monitor.full == {"size", "inodes"}
    assert sandbox.monitor.closed == ["/root", "/home"]


def test_a_mount_that_is_dead_is_explained_by_the_server_that_says_so_late(
    made: Callable[..., Sandbox],
) -> None:
    sandbox = made()
    sandbox.sent(101, SetupFailed("proc", "mount", errno.ENOTCONN, "not connected", "/proc"))
    sandbox.ended(102)
    sandbox.said(104, "error: no memory")
    sandbox.monitor.wait()
    assert str(sandbox.life.failure) == "the file system's server: no memory"


@pytest.mark.parametrize(("ended_by", "explained"), [(signal.SIGBUS, True), (signal.SIGKILL, False)])
def test_a_program_that_sigbus_ends_just_before_its_server_is_explained_by_the_server(
    made: Callable[..., Sandbox], ended_by: int, explained: bool
) -> None:
    sandbox = made()
    sandbox.sent(101, ProgramEnded(-ended_by))
    sandbox.ended(101)
    sandbox.server_ends(101.1, 1)
    sandbox.monitor.wait()
    assert (sandbox.life.failure is not None) == explained


def test_the_mount_is_handed_to_the_server_and_not_kept(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    reader, writer = os.pipe()
    number = os.fstat(reader).st_ino
    sandbox.sent(101, FuseMounted(), reader)
    sandbox.ended(102)
    sandbox.monitor.wait()
    assert sandbox.server.served == [number]
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)


def test_namespaces_that_come_later_are_recorded(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.sent(101, CgroupNamespace(), 2)
    sandbox.ended(102)
    sandbox.monitor.wait()
    assert list(sandbox.handle.namespaces) == ["cgroup"]
    assert sandbox.resources.recorded == [{"namespaces": sandbox.handle.namespaces}]


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (ExecFailed("nosuch", errno.ENOENT), CommandError, "nosuch"),
        (
            SetupFailed("set-up", "set-up", errno.ENOSPC, "No space left on device", ""),
            SandboxError,
            "set-up",
        ),
    ],
)
def test_a_failure_of_process_1_is_that_of_the_start(
    made: Callable[..., Sandbox], message: Message, kind: type, text: str
) -> None:
    sandbox = made()
    sandbox.sent(101, SignalsReady())
    sandbox.sent(102, message)
    sandbox.ended(103)
    sandbox.monitor.wait()
    assert isinstance(sandbox.life.failure, kind)
    assert text in str(sandbox.life.failure)


def test_a_failure_while_the_program_runs_is_not_one_of_the_start(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.sent(101, SignalsReady())
    sandbox.sent(102, Started())
    sandbox.sent(103, SetupFailed("set-up", "set-up", errno.ENOMEM, "Cannot allocate memory", ""))
    sandbox.ended(104)
    sandbox.monitor.wait()
    assert "process 1 of the sandbox: it failed" in str(sandbox.life.failure)


def test_the_channel_is_not_polled_once_it_is_closed(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.system.at(101, sandbox.init.close)
    sandbox.ended(105)
    sandbox.monitor.wait()
    assert sandbox.system.time == 105


def test_window_size_and_mode_of_the_terminal_are_renewed(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    outer, inner = os.openpty()
    sandbox.sent(101, TerminalOpened(), outer)
    seen: list[str] = []

    def watch() -> None:
        relay: Any = sandbox.monitor.relay
        relay.resize = lambda: seen.append("size")
        relay.enter = lambda: seen.append("mode")

    sandbox.system.at(102, watch)
    sandbox.signalled(103, signal.SIGWINCH)
    sandbox.signalled(104, signal.SIGCONT)
    sandbox.ended(105)
    sandbox.monitor.wait()
    assert seen == ["size", "mode"]
    assert sandbox.system.killed == []
    os.close(outer)
    os.close(inner)


def test_the_message_of_a_process_1_that_ended_before_it_read_start_is_received(
    made: Callable[..., Sandbox],
) -> None:
    sandbox = made()
    sandbox.sent(101, SignalsReady())
    sandbox.sent(102, SetupFailed("set-up", "set-up", errno.ENOMEM, "Cannot allocate memory", ""))
    sandbox.system.at(102, sandbox.init.close)  # Start is unread, so the supervisor gets ECONNRESET
    sandbox.ended(103)
    sandbox.monitor.wait()
    assert "set-up" in str(sandbox.life.failure)


def test_a_process_1_that_was_killed_is_sent_no_start(made: Callable[..., Sandbox]) -> None:
    sandbox = made()
    sandbox.signalled(101, signal.SIGTERM)
    sandbox.sent(102, SignalsReady())
    sandbox.system.at(103, sandbox.init.close)
    sandbox.ended(104)
    sandbox.monitor.wait()
    assert sandbox.life.phase is Phase.READY
    assert sandbox.life.interrupted == signal.SIGTERM


def test_the_real_kernel_reports_the_end_of_a_process_and_passes_over_one_that_is_gone() -> None:
    system = System()
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(1)
    fd = system.open_process(pid)
    assert system.poll({fd: select.POLLIN}, 0) == {}
    system.kill(pid, signal.SIGUSR1)
    assert system.poll({fd: select.POLLIN}, 60_000) == {fd: select.POLLIN}
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGUSR1
    for number in (signal.SIGUSR1, signal.SIGKILL):
        system.kill(pid, number)
    os.close(fd)
    assert system.now() <= system.now()
