"""The phases of a sandbox: every transition, signal and deadline, with simulated times."""

from __future__ import annotations

import signal

import pytest

from sandbox.errors import SetupError
from sandbox.runtime.phase import GRACE, Action, Deadline, Forward, KillInit, KillServer, Life, Phase
from sandbox.runtime.signals import ENDING

ALLOWED = {
    (Phase.STARTING, Phase.READY),
    (Phase.READY, Phase.EXECUTING),
    (Phase.EXECUTING, Phase.RUNNING),
    *((phase, Phase.ENDED) for phase in Phase if phase is not Phase.ENDED),
}
TO = {
    Phase.STARTING: (),
    Phase.READY: (Phase.READY,),
    Phase.EXECUTING: (Phase.READY, Phase.EXECUTING),
    Phase.RUNNING: (Phase.READY, Phase.EXECUTING, Phase.RUNNING),
    Phase.ENDED: (Phase.ENDED,),
}
RECEIVING = (Phase.READY, Phase.EXECUTING, Phase.RUNNING)
OUTLIVED = SetupError("the server", "it ended before the sandbox")
STOP_TIMEOUT = 10.0


def life(phase: Phase) -> Life:
    made = Life(stop_signal=signal.SIGQUIT, stop_timeout=STOP_TIMEOUT)
    for step in TO[phase]:
        made.enter(step)
    assert made.phase is phase
    return made


@pytest.mark.parametrize("after", Phase)
@pytest.mark.parametrize("before", Phase)
def test_a_phase_is_followed_by_those_that_may_follow_it_and_no_other(before: Phase, after: Phase) -> None:
    sandbox = life(before)
    assert before.can_become(after) == ((before, after) in ALLOWED)
    if before.can_become(after):
        sandbox.enter(after)
        assert sandbox.phase is after
    else:
        with pytest.raises(ValueError, match=f"is {before.value} cannot become {after.value}"):
            sandbox.enter(after)
        assert sandbox.phase is before


def test_what_each_phase_allows() -> None:
    assert [phase for phase in Phase if phase.can_start] == [Phase.READY]
    assert tuple(phase for phase in Phase if phase.can_receive_signals) == RECEIVING
    assert [phase for phase in Phase if phase.can_fail_to_start] == [
        Phase.STARTING,
        Phase.READY,
        Phase.EXECUTING,
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_programs_kills_a_sandbox_that_is_starting(number: int) -> None:
    sandbox = life(Phase.STARTING)
    assert sandbox.on_signal(number, 100) == [KillInit()]
    assert sandbox.interrupted == number
    assert sandbox.deadlines == {Deadline.SERVER_KILL: 100 + GRACE}
    assert sandbox.on_signal(signal.SIGINT, 101) == [KillInit()]
    assert sandbox.interrupted == number  # only the first failure counts
    assert sandbox.deadlines == {Deadline.SERVER_KILL: 100 + GRACE}


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.ENDED])
def test_other_signals_are_dropped_where_process_1_does_not_receive_them(phase: Phase) -> None:
    sandbox = life(phase)
    assert sandbox.on_signal(signal.SIGUSR1, 100) == []
    assert (sandbox.interrupted, sandbox.deadlines) == (0, {})


@pytest.mark.parametrize("phase", RECEIVING)
@pytest.mark.parametrize("number", [signal.SIGUSR1, *ENDING])
def test_a_signal_is_forwarded_and_sigterm_becomes_the_stop_signal(phase: Phase, number: int) -> None:
    sandbox = life(phase)
    expected: list[Action] = [Forward(signal.SIGQUIT if number == signal.SIGTERM else number)]
    assert sandbox.on_signal(number, 100) == expected
    deadlines = {}
    if phase is not Phase.RUNNING and number in ENDING:
        deadlines[Deadline.EXEC] = 100 + GRACE
    if number == signal.SIGTERM:
        deadlines[Deadline.STOP] = 100 + STOP_TIMEOUT
    assert sandbox.deadlines == deadlines
    assert sandbox.on_signal(number, 105) == expected
    assert sandbox.deadlines == deadlines  # only the first signal counts


def test_a_program_that_is_executed_after_a_signal_has_no_deadline_for_that() -> None:
    sandbox = life(Phase.EXECUTING)
    sandbox.on_signal(signal.SIGINT, 100)
    sandbox.enter(Phase.RUNNING)
    assert sandbox.deadlines == {}
    assert sandbox.on_time(1000, OUTLIVED) == []
    assert sandbox.interrupted == 0


def test_a_program_that_is_not_executed_after_a_signal_is_not_waited_for() -> None:
    sandbox = life(Phase.READY)
    sandbox.on_signal(signal.SIGINT, 100)
    assert sandbox.on_time(100 + GRACE - 0.001, OUTLIVED) == []
    assert sandbox.on_time(100 + GRACE, OUTLIVED) == [KillInit()]
    assert sandbox.interrupted == signal.SIGINT
    assert sandbox.deadlines == {Deadline.SERVER_KILL: 100 + 2 * GRACE}


def test_wall_time_kills_and_is_told_apart() -> None:
    sandbox = life(Phase.RUNNING)
    sandbox.limit(Deadline.WALL_TIME, 100)
    assert sandbox.on_time(99.9, OUTLIVED) == []
    assert sandbox.on_time(100, OUTLIVED) == [KillInit()]
    assert (sandbox.timed_out, sandbox.overstayed, sandbox.interrupted) == (True, False, 0)
    assert sandbox.on_time(100, OUTLIVED) == []  # only once


def test_a_program_that_outstays_its_stop_timeout_is_killed() -> None:
    sandbox = life(Phase.RUNNING)
    sandbox.on_signal(signal.SIGTERM, 100)
    assert sandbox.on_time(100 + STOP_TIMEOUT, OUTLIVED) == [KillInit()]
    assert (sandbox.timed_out, sandbox.overstayed) == (False, True)


def test_a_process_1_that_does_not_end_when_it_is_killed_costs_the_server_its_life() -> None:
    sandbox = life(Phase.STARTING)
    sandbox.on_signal(signal.SIGINT, 100)
    assert sandbox.on_time(100 + GRACE, OUTLIVED) == [KillServer()]
    assert sandbox.deadlines == {}


def test_a_process_1_that_outlives_the_server_is_killed_for_the_servers_failure() -> None:
    sandbox = life(Phase.RUNNING)
    sandbox.on_server_ended(100)
    assert sandbox.deadlines == {Deadline.INIT_EXIT: 100 + GRACE}
    assert sandbox.on_time(100 + GRACE, OUTLIVED) == [KillInit()]
    assert sandbox.failure is OUTLIVED


def test_several_deadlines_that_have_passed_all_count() -> None:
    sandbox = life(Phase.RUNNING)
    sandbox.limit(Deadline.WALL_TIME, 100)
    sandbox.on_signal(signal.SIGTERM, 95)
    assert sandbox.next_deadline() == 100
    assert sandbox.on_time(200, OUTLIVED) == [KillInit(), KillInit()]
    assert (sandbox.timed_out, sandbox.overstayed) == (True, True)
    assert sandbox.next_deadline() == 200 + GRACE
    sandbox.enter(Phase.ENDED)
    assert sandbox.next_deadline() is None


def test_the_first_failure_counts() -> None:
    first, second = SetupError("a", "first"), SetupError("b", "second")
    sandbox = life(Phase.STARTING)
    sandbox.fail(first)
    sandbox.fail(second, mount_died=True)
    assert sandbox.failure is first
    assert not sandbox.waits_for_cause
    assert sandbox.on_server_failed(second, 100) == [KillInit()]
    assert sandbox.failure is first


def test_the_server_knows_better_why_the_mount_is_dead() -> None:
    seen, cause, later = SetupError("a", "not connected"), SetupError("b", "no memory"), SetupError("c", "?")
    sandbox = life(Phase.STARTING)
    sandbox.fail(seen, mount_died=True)
    assert sandbox.waits_for_cause
    assert sandbox.on_server_failed(cause, 100) == [KillInit()]
    assert sandbox.failure is cause
    assert not sandbox.waits_for_cause
    sandbox.on_server_failed(later, 100)
    assert sandbox.failure is cause
