"""Probes in forked children: their results are collected, and each ends within its time limit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from sandbox.doctor.child import attempt, reason_of, run_limited
from sandbox.doctor.facts import Failure


def refuse() -> None:
    raise OSError(errno.EACCES, "Permission denied", "/x")


def test_a_child_says_what_it_tried_and_how_it_went():
    def action(report):
        assert attempt(report, "good", lambda: None)
        assert not attempt(report, "bad", refuse)
        assert not attempt(report, "unnamed", refuse, named=False)

    found = run_limited(action).probe()
    assert found.attempts == {
        "good": None,
        "bad": Failure(errno=errno.EACCES, text="/x: Permission denied"),
        "unnamed": Failure(errno=errno.EACCES, text="Permission denied"),
    }
    assert found.problem is None
    assert found.did("good")
    assert not found.did("bad")
    assert not found.did("never")
    assert found.failure("never", "good", "bad", "unnamed") == ("bad", found.attempts["bad"])
    assert found.failure("good") is None


def test_a_child_that_hangs_is_killed_and_what_it_said_before_is_kept():
    def action(report):
        report("pid", os.getpid())
        time.sleep(60)

    start = time.monotonic()
    outcome = run_limited(action, seconds=0.2)
    assert time.monotonic() - start < 5
    assert outcome.problem == "no answer within 0.2 seconds"
    with pytest.raises(ProcessLookupError):
        os.kill(outcome.results["pid"], 0)


def test_a_child_that_is_killed_says_by_which_signal():
    assert (
        run_limited(lambda report: os.kill(os.getpid(), signal.SIGKILL)).problem
        == "it was killed by signal 9"
    )


def test_a_child_that_exits_by_itself_is_noticed():
    assert run_limited(lambda report: os._exit(3)).problem == "it ended without a result"


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (refuse, "/x: Permission denied"),
        (lambda: int("x"), "ValueError(\"invalid literal for int() with base 10: 'x'\")"),
    ],
)
def test_an_error_in_a_child_is_its_problem_and_does_not_run_on_here(action, problem):
    assert run_limited(lambda report: action()).problem == problem


def test_text_longer_than_a_pipe_arrives_whole():
    assert run_limited(lambda report: report("x", "y" * 300_000)).results["x"] == "y" * 300_000


SIGNAL_DURING_CLEANING_UP = """
import os, signal
from sandbox.doctor.child import run_limited, signals_blocked

def end_itself(report):
    os.kill(os.getpid(), signal.SIGTERM)

seen = []
signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
with signals_blocked():
    os.kill(os.getpid(), signal.SIGTERM)
    assert run_limited(end_itself).problem is None
    assert seen == [], seen
assert seen == [signal.SIGTERM], seen
assert run_limited(end_itself).problem == "it was killed by signal 15"
assert seen == [signal.SIGTERM], "the handler of the parent ran in the child"
"""


def test_a_signal_that_ends_us_waits_until_cleaning_up_is_done():
    # A new process has a single thread. In pytest's process, another thread that does not block the signal would receive it.
    ended = subprocess.run(
        [sys.executable, "-c", SIGNAL_DURING_CLEANING_UP], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


SIGNAL_ON_THE_WAY_OUT = """
import os, signal, sys
from sandbox.doctor.child import cleaned_up_by

def end(number, frame):
    raise SystemExit(3)

signal.signal(signal.SIGTERM, end)
real = signal.pthread_sigmask

def with_signal_before(how, signals):
    if how == signal.SIG_BLOCK and signals:
        signal.pthread_sigmask = real
        os.kill(os.getpid(), signal.SIGTERM)
    return real(how, signals)

with cleaned_up_by(lambda: print("clean", signal.SIGTERM in real(signal.SIG_BLOCK, ()))):
    signal.pthread_sigmask = with_signal_before
"""


def test_a_signal_while_the_context_is_left_does_not_prevent_cleaning_up():
    ended = subprocess.run(
        [sys.executable, "-c", SIGNAL_ON_THE_WAY_OUT], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "clean True\n", "")


def test_without_a_process_to_be_had_that_is_the_problem(monkeypatch):
    def fork():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    outcome = run_limited(lambda report: None)
    assert outcome.problem == "no process could be started: Resource temporarily unavailable"


def test_the_last_path_of_an_error_is_named():
    assert reason_of(OSError(errno.EPERM, "no", "/a", None, "/b")) == "/b: no"
    assert reason_of(OSError("only words")) == "only words"
