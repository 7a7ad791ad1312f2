"""The relay between two terminals, on pseudo-terminals of the test's."""

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
    assert os.read(desk.program, 100) == b"typed\n"  # its own line discipline, not the user's
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
