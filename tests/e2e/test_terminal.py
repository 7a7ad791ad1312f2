"""The user's terminal is passed through. The test acts as the user, at the other end of a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


class Person:
    """The user at the master of a pseudo-terminal, who types and reads."""

    def __init__(self, outer: int, inner: int, pid: int) -> None:
        self.outer, self.inner, self.pid = outer, inner, pid
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.outer, text.encode())

    def read_until(self, text: str, seconds: float = PATIENCE) -> str:
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"waited for {text!r}, saw {self.seen!r}"
            if select.select([self.outer], [], [], left)[0]:
                self.seen += os.read(self.outer, 65536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self) -> int:
        local: int = termios.tcgetattr(self.inner)[3]
        return local

    def status(self) -> int:
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.outer], [], [], 0.05)[0]:
                self.seen += os.read(self.outer, 65536).decode(errors="replace")


def start_at(terminal: int, arguments: list[str], environ: dict[str, str]) -> int:
    """Start a program whose controlling terminal, input and output is *terminal*; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(terminal, fd)
            os.execve(arguments[0], arguments, environ)
        finally:
            os._exit(99)
    return pid


@contextmanager
def person_at(
    launcher: Launcher, command: list[str], spec: str = HOST_ROOT, options: tuple[str, ...] = ()
) -> Iterator[Person]:
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    arguments = launcher.arguments(spec, command, options)
    person = Person(outer, inner, start_at(inner, arguments, launcher.environ))
    try:
        yield person
    finally:
        try:
            os.kill(person.pid, signal.SIGKILL)
            os.waitpid(person.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(outer)
        os.close(inner)


def test_program_has_a_terminal_of_the_sandboxs_own(launcher: Launcher) -> None:
    with person_at(
        launcher, ["sh", "-c", "tty; test -t 0 && echo yes; ls -1 /dev/pts; echo over > /dev/tty"]
    ) as person:
        person.read_until("/dev/pts/0\r\nyes\r\n0\r\nptmx\r\nover\r\n")
        assert person.status() == 0


def test_lines_of_the_trace_begin_at_the_margin_of_a_raw_terminal(launcher: Launcher) -> None:
    script = "unshare --user true 2>/dev/null; echo over"
    with person_at(launcher, ["sh", "-c", script], options=("--trace-denials",)) as person:
        before = person.read_until("over")
        assert "denied: unshare(" in before
        assert before.count("\n") == before.count("\r\n") == 1
        person.read_until("to allow them")
        assert person.status() == 0


def test_no_program_types_into_its_terminal(launcher: Launcher) -> None:
    script = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')"
    with person_at(launcher, ["/usr/bin/python3", "-c", script]) as person:
        person.read_until("PermissionError")
        assert person.status() == 1


def test_console_is_the_terminal_of_the_sandbox(launcher: Launcher) -> None:
    with person_at(
        launcher,
        ["sh", "-c", "echo on console > /dev/console; stat -c %t:%T /dev/pts/0 /dev/console | uniq | wc -l"],
    ) as person:
        person.read_until("on console\r\n1\r\n")
        assert person.status() == 0


def test_window_size_is_passed_on_and_follows(launcher: Launcher) -> None:
    script = 'trap "stty size; exit 3" WINCH; stty size; while :; do sleep 0.05; done'
    with person_at(launcher, ["sh", "-c", script]) as person:
        person.read_until("30 90")
        person.resize(44, 144)
        os.kill(person.pid, signal.SIGWINCH)
        person.read_until("44 144")
        assert person.status() == 3


def test_input_reaches_the_program_and_is_echoed_once(launcher: Launcher) -> None:
    with person_at(launcher, ["sh", "-c", 'echo go; read line; echo "got <$line>"']) as person:
        person.read_until("go\r\n")
        person.type("hello\n")
        assert person.read_until("got <hello>") == "hello\r\n"
        assert person.status() == 0


def test_ctrl_c_reaches_the_program_and_not_the_launcher(launcher: Launcher) -> None:
    with person_at(
        launcher, ["sh", "-c", 'trap "echo caught" INT; echo go; while :; do sleep 0.05; done']
    ) as person:
        person.read_until("go")
        person.type("\x03")
        person.read_until("caught")
        person.type("\x03")
        person.read_until("caught")
        os.kill(person.pid, signal.SIGTERM)
        person.status()


def test_terminal_is_raw_during_the_run_and_restored_afterwards(launcher: Launcher) -> None:
    with person_at(launcher, ["sh", "-c", "echo go; read line; exit 4"]) as person:
        before = person.mode()
        person.read_until("go")
        assert not person.mode() & (termios.ICANON | termios.ECHO | termios.ISIG)
        person.type("\n")
        assert person.status() == 4
        assert person.mode() == before


def test_terminal_is_restored_after_a_failure(launcher: Launcher) -> None:
    with person_at(launcher, ["no-such-command"]) as person:
        before = person.mode()
        person.read_until("command not found in the sandbox")
        assert person.status() == 127
        assert person.mode() == before


def test_end_of_input_ends_a_program_that_reads(launcher: Launcher) -> None:
    with person_at(launcher, ["cat"]) as person:
        person.type("line\n")
        person.read_until("line\r\nline\r\n")
        person.type("\x04")
        assert person.status() == 0


def test_large_output_arrives_completely(launcher: Launcher) -> None:
    with person_at(launcher, ["sh", "-c", "seq 1 20000; echo the end"]) as person:
        text = person.read_until("the end\r\n")
        assert text.split() == [str(number) for number in range(1, 20001)]
        assert person.status() == 0


def test_terminal_false_gives_the_program_none(launcher: Launcher) -> None:
    spec = HOST_ROOT + "[process]\nterminal = false\n"
    with person_at(launcher, ["sh", "-c", "tty; echo x > /dev/tty || echo none"], spec) as person:
        person.read_until("none")
        assert person.status() == 0


def test_terminal_true_gives_the_program_one_where_there_is_none(launcher: Launcher) -> None:
    done = launcher.shell("tty", HOST_ROOT + "[process]\nterminal = true\n")
    assert (done.status, done.out) == (0, "/dev/pts/0\n")
