"""The signals of the supervisor, as bytes of a pipe, or as the end of a start that takes long."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

CAUGHT = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGCHLD,
)
#: Those that end a sandbox which is still coming up: nobody could be told of them yet.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal came before there was a process 1 to wait for; not an Exception, so that no handler of those takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Turns signals into bytes of a pipe, so that one poll waits for everything.

    While nobody polls yet, those that end a program end the start: in the steps that may take long, which clean up after
    themselves, and before these if they came earlier. Nowhere else, where they could come between making and noting.
    """

    def __init__(self, undo: ExitStack) -> None:
        """Catch them until *undo*."""
        self.reader, writer = os.pipe()
        undo.callback(os.close, self.reader)
        undo.callback(os.close, writer)
        for fd in (self.reader, writer):
            os.set_blocking(fd, False)
        self._raising = False
        self._came = 0
        previous_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        undo.callback(signal.set_wakeup_fd, previous_fd)
        for number in CAUGHT:
            previous = signal.getsignal(number)
            if previous is signal.SIG_IGN and number in ENDING:
                continue  # nohup(1) and a shell's background jobs want it so
            undo.callback(signal.signal, number, previous)
            signal.signal(number, self._handle)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Let a signal that ends a program raise Interrupted within, once."""
        self._raising = True
        try:
            if self._came:
                raise Interrupted(self._came)
            yield
        finally:
            self._raising = False

    def _handle(self, number: int, _frame: object) -> None:
        if number in ENDING:
            self._came = self._came or number
            if self._raising:
                self._raising = False
                raise Interrupted(number)


def first_ending(wake_reader: int) -> int:
    """Return the first noted signal that ends a program, 0 when there is none."""
    return next((number for number in os.read(wake_reader, 256) if number in ENDING), 0)
