"""The relay between two terminals, with pseudo-terminals of the test."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.runtime.tty import TerminalRelay


@dataclass
class Desk:
    user_outer: int
    user: int
    program: int
    relay: TerminalRelay

    def pump(self, seconds: float = 0.3) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            poll = select.poll()
            for fd, events in self.relay.interest().items():
                poll.register(fd, events)
            for fd, events in poll.poll(50):
                self.relay.handle(fd, events)


@pytest.fixture
def desk() -> Iterator[Desk]:
    user_outer, user = pty.openpty()
    outer, program = pty.openpty()
    fcntl.ioctl(user, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 22, 0, 0))
    relay = TerminalRelay(outer, user, user)
    yield Desk(user_outer, user, program, relay)
    relay.close()
    for fd in (user_outer, user, program):
        os.close(fd)


def size_of(fd: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns


def test_program_gets_the_size_of_the_users_window_and_its_changes(desk: Desk) -> None:
    assert size_of(desk.program) == (11, 22)
    fcntl.ioctl(desk.user, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 44, 0, 0))
    desk.relay.resize()
    assert size_of(desk.program) == (33, 44)


def test_bytes_go_both_ways_unchanged(desk: Desk) -> None:
    os.write(desk.user_outer, b"typed\r")
    desk.pump()
    assert (
        os.read(desk.program, 100) == b"typed\n"
    )  # the line discipline of the sandbox's terminal, not of the user's
    os.write(desk.program, b"shown\n")
    desk.pump()
    assert b"shown\r\n" in os.read(desk.user_outer, 1000)


def test_users_terminal_is_raw_until_the_relay_closes(desk: Desk) -> None:
    assert not termios.tcgetattr(desk.user)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    desk.relay.close()
    assert termios.tcgetattr(desk.user)[3] & termios.ECHO


def test_interrupt_character_is_passed_on_and_not_acted_on(desk: Desk) -> None:
    attributes = termios.tcgetattr(desk.program)
    attributes[3] &= ~(termios.ISIG | termios.ICANON)
    termios.tcsetattr(desk.program, termios.TCSANOW, attributes)
    os.write(desk.user_outer, b"\x03")
    desk.pump()
    assert os.read(desk.program, 10) == b"\x03"


def test_end_of_input_in_the_middle_of_a_line_is_one_to_the_program(tmp_path: Path) -> None:
    text = tmp_path / "input"
    text.write_bytes(b"first\nrest")
    outer, program = pty.openpty()
    with text.open("rb") as stdin, open(os.devnull, "wb") as stdout:
        relay = TerminalRelay(outer, stdin.fileno(), stdout.fileno())
        for _ in range(3):
            relay.handle(stdin.fileno(), select.POLLIN)
        read = [os.read(program, 100) for _ in range(3)]
        relay.close()
    os.close(program)
    assert read == [b"first\n", b"rest", b""]


def test_end_of_input_is_the_character_that_the_program_chose(tmp_path: Path) -> None:
    outer, program = pty.openpty()
    attributes = termios.tcgetattr(program)
    attributes[6][termios.VEOF] = b"\x19"
    termios.tcsetattr(program, termios.TCSANOW, attributes)
    with open(os.devnull, "rb") as stdin, open(os.devnull, "wb") as stdout:
        relay = TerminalRelay(outer, stdin.fileno(), stdout.fileno())
        relay.handle(stdin.fileno(), select.POLLIN)
        assert os.read(program, 100) == b""
        relay.close()
    os.close(program)


def test_users_terminal_that_hangs_up_is_the_end_of_input_and_takes_output_for_nothing() -> None:
    user_outer, user = pty.openpty()
    outer, program = pty.openpty()
    relay = TerminalRelay(outer, user, user)
    os.close(user_outer)
    relay.handle(user, select.POLLHUP)
    assert os.read(program, 100) == b""
    os.write(program, b"to nobody\n")
    relay.handle(outer, select.POLLIN)
    assert user not in relay.interest()
    assert relay.finish() == 0
    for fd in (user, program):
        os.close(fd)


def test_users_terminal_that_takes_no_output_holds_nothing_up(desk: Desk) -> None:
    os.set_blocking(desk.program, False)
    written = refused = 0
    while refused < 5:
        try:
            written += os.write(desk.program, b"x" * 4096)
            refused = 0
        except BlockingIOError:
            refused += 1
            desk.pump(0.01)
    assert written > 1 << 18  # much more than the user's terminal can buffer
    reader, writer = os.pipe()
    os.write(writer, b"\x0f")
    assert desk.relay.finish(reader, lambda: 15) == 15
    os.close(reader)
    os.close(writer)


def test_terminal_that_nobody_has_open_costs_no_time(desk: Desk) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, desk.program, inheritable=False)  # the program closes its terminal
    os.close(null)
    desk.pump(0.3)
    assert desk.relay.patience() is not None
    before = time.process_time()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        poll = select.poll()
        for fd, events in desk.relay.interest().items():
            poll.register(fd, events)
        for fd, events in poll.poll(int((desk.relay.patience() or 0) * 1000)):
            desk.relay.handle(fd, events)
    assert time.process_time() - before < 0.2
