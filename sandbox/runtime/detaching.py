"""Start a supervisor in the background: it has a session of its own, and the command that starts it waits until the program runs.

Until then, the command prints what the supervisor prints, and an earlier end is its own: with the same errors and exit status as in
the foreground.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import suppress

from sandbox.errors import EXIT_FAILURE
from sandbox.kernel import process
from sandbox.runtime.log import OutputLog
from unionfs._stdlib.dataclasses import dataclass

_READ = 1 << 16


@dataclass(frozen=True, slots=True)
class Background:
    """What the supervisor in the background has: the pipe to which it prints, to be logged, and the socket to the command."""

    own_fd: int
    channel: socket.socket

    def output_log(self) -> OutputLog:
        """Return the log, which gets the pipe.

        Raises:
            OSError: no descriptor is free.
        """
        return OutputLog(self.own_fd)

    def report(self, identity: str) -> None:
        """Report that the program of the run *identity* was executed; the command ends then."""
        os.chdir("/")  # so that the file system of the present directory can be unmounted
        with suppress(OSError):  # it was killed
            self.channel.send(identity.encode(), socket.MSG_NOSIGNAL)
        self.channel.close()


@dataclass(frozen=True, slots=True)
class Started:
    """What the command gets: the id of the run, "" if it has failed, and the exit status."""

    identity: str
    status: int


def detach() -> Background | Started:
    """Fork the supervisor, and return twice: in it, and in the command once the program runs or the start has failed.

    Raises:
        OSError: no process can be made.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        ours.close()
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        for fd in (1, 2):
            os.dup2(writer, fd)
        # What the shell has open beside these, such as a lock, must not stay open as long as the sandbox.
        process.close_descriptors_but({0, 1, 2, reader, theirs.fileno()})
        return Background(reader, theirs)
    theirs.close()
    os.close(writer)
    return _wait(pid, ours, reader)


def _wait(pid: int, channel: socket.socket, reader: int) -> Started:
    """Print what the supervisor *pid* prints to *reader*, until it reports on *channel* or ends."""
    os.set_blocking(reader, False)

    def forward(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    poll = select.poll()
    for fd in (channel.fileno(), reader):
        poll.register(fd, select.POLLIN)
    while True:
        events = dict(poll.poll())
        if channel.fileno() in events:
            identity = channel.recv(1000)
            if identity:
                _copy(reader)
                return Started(identity.decode(), 0)
            _, status = os.waitpid(pid, 0)
            _copy(reader)
            code = os.waitstatus_to_exitcode(status)
            return Started("", code if code >= 0 else EXIT_FAILURE)
        if not _copy(reader):
            poll.unregister(reader)


def _copy(reader: int) -> bool:
    """Print what can be read from *reader*; return False at its end."""
    while True:
        try:
            data = os.read(reader, _READ)
        except BlockingIOError:
            return True
        if not data:
            return False
        with suppress(OSError):
            os.write(2, data)
