"""Job control: the launcher in the background of an interactive bash, and suspended by keys.

The expected behaviour is that of bash's own jobs.
"""

from __future__ import annotations

import os
import pty
import shlex
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.support import HOST_ROOT, Launcher
from tests.e2e.test_terminal import Person, person_at, start_at

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

BASH = "/bin/bash"
WITH_TERMINAL = HOST_ROOT + "\n[process]\nterminal = true\n"
SUSPENDED = "Stopped"  # as bash reports it


@contextmanager
def shell() -> Iterator[Person]:
    """Start an interactive bash on a terminal of its own; end it and its remaining jobs with SIGHUP."""
    outer, inner = pty.openpty()
    attributes = termios.tcgetattr(inner)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(inner, termios.TCSANOW, attributes)
    environ = {"PATH": os.environ["PATH"], "PS1": "$ ", "TERM": "dumb", "HOME": "/nonexistent"}
    person = Person(outer, inner, start_at(inner, [BASH, "--norc", "--noediting", "-i"], environ))
    try:
        person.read_until("$ ")
        yield person
        person.type("exit\n")
        person.status()
    finally:
        try:
            os.kill(person.pid, signal.SIGKILL)
            os.waitpid(person.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(outer)
        os.close(inner)


def command(launcher: Launcher, script: str, spec: str = HOST_ROOT) -> str:
    """Return the words that start *script* in a sandbox, with the environment of *launcher*."""
    environ = [f"{name}={value}" for name, value in launcher.environ.items()]
    return shlex.join(["env", *environ, *launcher.arguments(spec, ["sh", "-c", script])])


def test_start_in_the_background_has_no_terminal_and_reports_that(launcher: Launcher) -> None:
    script = "test -t 0 || echo no terminal; cat; echo input ended"
    with shell() as person:
        person.type(command(launcher, script) + " &\n")
        person.read_until('process.terminal = "auto" gives no terminal and an empty standard input')
        person.read_until("started in the background")
        person.read_until("no terminal")
        person.read_until("input ended")
        person.type("wait; echo status $?\n")
        person.read_until("status 0")


def test_requested_terminal_of_a_start_in_the_background_is_read_after_fg(launcher: Launcher) -> None:
    script = 'echo go; read line; echo "got <$line>"'
    with shell() as person:
        person.type(command(launcher, script, WITH_TERMINAL) + " &\n")
        person.read_until("go")
        person.type("echo shell reads\n")
        person.read_until("shell reads")
        person.type("fg\n")
        person.read_until("sh -c")  # the shell prints the command
        wait_until_raw(person)
        person.type("hello\n")
        person.read_until("got <hello>")
        check_status(person, 0)


def test_the_mode_that_the_shell_gives_the_terminal_before_fg_is_the_one_that_is_restored(
    launcher: Launcher,
) -> None:
    with shell() as person:
        person.type("stty -echoe\n")
        person.read_until("$ ")
        person.type(command(launcher, "echo go; read line", WITH_TERMINAL) + " &\n")
        person.read_until("go")
        person.type("stty echoe; echo changed\n")
        person.read_until("changed\r\n$ ")
        before = termios.tcgetattr(person.inner)
        person.type("fg\n")
        wait_until_raw(person)
        person.type("hello\n")
        check_status(person, 0)
        assert termios.tcgetattr(person.inner) == before


def test_keys_suspend_the_launcher_and_fg_resumes_it(launcher: Launcher) -> None:
    script = 'echo go; read line; echo "got <$line>"'
    with shell() as person:
        before = termios.tcgetattr(person.inner)
        person.type(command(launcher, script) + "\n")
        person.read_until("ctrl-p ctrl-z suspends")
        person.read_until("go")
        wait_until_raw(person)
        person.type("\x10")
        person.type("\x1a")
        person.read_until(SUSPENDED)
        person.type("echo shell reads\n")
        person.read_until("shell reads")
        assert termios.tcgetattr(person.inner)[3] == before[3]
        person.type("fg\n")
        wait_until_raw(person)
        person.type("hello\n")
        person.read_until("hello>")
        check_status(person, 0)
        assert termios.tcgetattr(person.inner)[3] == before[3]


def test_launcher_resumed_by_bg_runs_beside_the_shell_and_ends_by_a_signal(launcher: Launcher) -> None:
    script = "echo go; while :; do sleep 0.05; done"
    with shell() as person:
        person.type(command(launcher, script) + "\n")
        person.read_until("go")
        wait_until_raw(person)
        person.type("\x10\x1a")
        person.read_until(SUSPENDED)
        person.type("bg\n")
        person.type("echo shell reads\n")
        person.read_until("shell reads")
        person.type("kill %1; wait %1; echo status $?\n")
        person.read_until("status 143")


def test_the_time_limit_takes_effect_when_the_command_is_resumed(launcher: Launcher) -> None:
    limited = HOST_ROOT + '\n[limits]\nwall_time = "1s"\n'
    with shell() as person:
        person.type(command(launcher, "echo go; exec sleep 60", limited) + "\n")
        person.read_until("go")
        wait_until_raw(person)
        person.type("\x10\x1a")
        person.read_until(SUSPENDED)
        time.sleep(1.2)
        person.type("jobs\n")
        person.read_until(SUSPENDED)
        person.type("fg\n")
        person.read_until("limits.wall_time")
        check_status(person, 124)


def test_a_stop_signal_from_outside_leaves_a_terminal_that_fg_makes_raw_again(launcher: Launcher) -> None:
    script = 'echo go; read line; echo "got <$line>"'
    with shell() as person:
        person.type(command(launcher, script) + "\n")
        person.read_until("go")
        wait_until_raw(person)
        os.kill(os.tcgetpgrp(person.outer), signal.SIGSTOP)
        person.read_until(SUSPENDED)
        person.type("fg\n")
        wait_until_raw(person)
        person.type("hello\n")
        person.read_until("hello>")
        check_status(person, 0)


def test_without_a_shell_that_could_resume_it_the_keys_go_to_the_program(launcher: Launcher) -> None:
    with person_at(launcher, ["sh", "-c", "stty raw; echo go; head -c 2 | od -An -tx1"]) as person:
        assert "suspends" not in person.read_until("go")
        person.type("\x10")
        person.type("\x1a")
        person.read_until("10 1a")
        assert person.status() == 0


def check_status(person: Person, status: int) -> None:
    """Assert the status of the job in the foreground. Wait for the prompt, because the job would read earlier input."""
    person.read_until("$ ")
    person.type("echo status $?\n")
    person.read_until(f"status {status}")


def wait_until_raw(person: Person) -> None:
    """Wait until the launcher has made the terminal raw. It reads the keys from then on."""
    end = time.monotonic() + 20
    while person.mode() & termios.ICANON:
        assert time.monotonic() < end, f"the terminal did not become raw; seen: {person.seen!r}"
        time.sleep(0.02)
