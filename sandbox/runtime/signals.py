"""Catch the signals of the supervisor: as bytes of a pipe for the poll loop, or as an exception that ends a long start."""

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
#: Signals that end a sandbox during its start, when there is no program yet to forward them to.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal ended the start before process 1 existed. It is a BaseException so that no `except Exception` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Writes signals to a pipe, so that one poll(2) waits for everything. Owns the pipe and the signal handlers.

    Before the poll loop runs, a signal in ENDING ends the start. It raises Interrupted only inside :meth:`ending`, which
    encloses long steps that clean up after themselves. A signal that came earlier raises it at the next such step. Elsewhere
    the exception could come between creating a resource and registering its cleanup.
    """

    def __init__(self, undo: ExitStack) -> None:
        """Create the pipe and catch the signals; *undo* restores both."""
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
                continue  # nohup(1) and the background jobs of a shell rely on it
            undo.callback(signal.signal, number, previous)
            signal.signal(number, self._handle)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Raise Interrupted, once, if a signal in ENDING arrives in this context or arrived before it."""
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
    """Return the first signal in the pipe that is in ENDING, 0 if there is none."""
    return next((number for number in os.read(wake_reader, 256) if number in ENDING), 0)
