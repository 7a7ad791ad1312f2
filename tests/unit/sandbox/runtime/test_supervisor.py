"""The supervisor alone: whom it tells of a signal, which may come before the word of init that came first."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from sandbox.runtime.messages import Channel, SignalsReady, Started
from sandbox.runtime.supervisor import Supervisor
from sandbox.spec import units
from tests.unit.sandbox.facts import host, plan

SPEC = '[root]\nlayers = ["dir:/"]\n'


def started(handler: Callable[..., object]) -> int:
    """Start a process in the place of init that calls *handler* for the signals USR1 and INT; returns once it does."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, handler)
        os.write(writer, b"1")
        while True:
            signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


@pytest.fixture
def init() -> Iterator[int]:
    """Start one that ends with 42."""
    pid = started(lambda *_: os._exit(42))
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@pytest.fixture
def channel() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def supervisor_of(init: int) -> Any:
    nobody = cast("Any", None)
    made: Any = Supervisor(plan(SPEC), host(), nobody, nobody, trace=lambda _: None, warn=sys.stderr.write)
    made._init_pid = init
    return made


def test_a_time_that_is_longer_than_poll_can_wait_is_waited_for_in_parts(
    init: int, channel: tuple[Channel, Channel]
) -> None:
    ours, theirs = channel
    theirs.send(SignalsReady())
    ready = supervisor_of(init)._poll([ours.fileno()], time.monotonic() + units.DURATION_MAX)
    assert ready[ours.fileno()] & select.POLLIN


def ended_with(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_behind_the_word_that_init_takes_them_is_passed_on(
    init: int, channel: tuple[Channel, Channel], number: int
) -> None:
    ours, theirs = channel
    theirs.send(SignalsReady())
    supervisor_of(init)._on_signal(number, ours)
    assert ended_with(init) == 42


def test_before_that_a_signal_that_ends_programs_ends_init_and_others_are_nobodys(
    init: int, channel: tuple[Channel, Channel]
) -> None:
    supervisor = supervisor_of(init)
    supervisor._on_signal(signal.SIGUSR1, channel[0])
    assert os.waitpid(init, os.WNOHANG) == (0, 0)
    supervisor._on_signal(signal.SIGINT, channel[0])
    assert ended_with(init) == -signal.SIGKILL
    assert supervisor._interrupted == signal.SIGINT


def test_a_program_that_does_not_come_to_run_after_a_signal_is_not_waited_for(
    channel: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = channel
    theirs.send(SignalsReady())
    sleeper = started(lambda *_: None)
    supervisor = supervisor_of(sleeper)
    supervisor._on_signal(signal.SIGINT, ours)
    assert os.waitpid(sleeper, os.WNOHANG) == (0, 0)
    due = supervisor._exec_deadline
    monkeypatch.setattr("sandbox.runtime.supervisor.time.monotonic", lambda: due)
    supervisor._check_time(None)
    assert ended_with(sleeper) == -signal.SIGKILL
    assert supervisor._interrupted == signal.SIGINT


def test_one_that_comes_to_run_is(init: int, channel: tuple[Channel, Channel]) -> None:
    ours, theirs = channel
    theirs.send(SignalsReady())
    supervisor = supervisor_of(init)
    supervisor._on_signal(signal.SIGINT, ours)
    assert supervisor._exec_deadline is not None
    theirs.send(Started())
    supervisor._hear_init(ours)
    assert (supervisor._exec_deadline, supervisor._interrupted) == (None, 0)
    assert ended_with(init) == 42
