"""Relay bytes between the user's terminal and the program's pseudo-terminal, with raw mode and the window size.

The user's side may be a terminal, even one that hangs up or accepts no output, a pipe or a file. None of these may block or
end the supervisor, which must handle signals and limits meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import struct
import termios
import time
import tty
from collections.abc import Callable

from sandbox.kernel import job_control

_CHUNK = 65536
#: Bytes in a buffer beyond which reading from the other side pauses.
_HIGH_WATER = 1 << 18
#: Seconds between reads of the program's terminal while no process has it open.
_HANG_UP_PAUSE = 0.2
#: Seconds between checks whether the shell has moved the launcher to the foreground. No signal reports that to a running job.
_BACKGROUND_PAUSE = 0.3
#: The keys that suspend the launcher: ctrl-p, then ctrl-z. Docker and podman use ctrl-p in the same way.
_ESCAPE, _SUSPEND = b"\x10", b"\x1a"
#: The bytes that a pipe accepts without blocking if poll(2) reports POLLOUT (pipe(7)).
_PIPE_BUF = 4096
#: The errnos of a terminal that has hung up, or whose foreground an orphaned process group can no longer become.
_NO_TERMINAL = (errno.EIO, errno.ENXIO, errno.ENOTTY)


class TerminalRelay:
    """Relays between the user's terminal and the master side of the program's. Owns the latter; the supervisor creates it."""

    def __init__(self, outer_fd: int, stdin: int = 0, stdout: int = 1) -> None:
        """Take ownership of *outer_fd*, set its window size to the user's, and put the user's terminal into raw mode."""
        self._outer, self._stdin, self._stdout = outer_fd, stdin, stdout
        self._to_program, self._to_user = b"", b""
        self._input_open = True
        self._at_line_start = True
        self._hung_up_until = 0.0
        self._saved: list[object] | None = None
        self._background = False
        self._escaped = False  # the last key was ctrl-p
        os.set_blocking(outer_fd, False)
        self._writer = _open_not_blocking(stdout)
        self.enter()

    def enter(self) -> None:
        """Put the user's terminal into raw mode, unless the launcher is in the background: then leave it alone, unread."""
        self._background = job_control.in_background(self._stdin)
        if self._background:
            return
        self.resize()
        try:
            if os.isatty(self._stdin):
                saved = termios.tcgetattr(self._stdin)
                tty.setraw(self._stdin, termios.TCSADRAIN)
                self._saved = self._saved or saved
        except termios.error:
            pass  # it has hung up, or the launcher is in a background process group whose parent has ended

    def _leave(self) -> None:
        """Restore the mode of the user's terminal."""
        if self._saved is None:
            return
        try:
            # TCSANOW does not wait for pending output, which may be stopped.
            termios.tcsetattr(self._stdin, termios.TCSANOW, self._saved)  # type: ignore[arg-type]
        except termios.error:
            pass  # it has hung up
        self._saved = None

    def _suspend(self) -> None:
        """Suspend the launcher until the shell resumes it. The program runs until it reads, or has written too much."""
        self._leave()
        job_control.suspend()
        self.enter()

    def resize(self) -> None:
        """Set the window size of the program's terminal to the user's; the kernel sends SIGWINCH to the program."""
        for fd in (self._stdin, self._stdout):
            try:
                size = fcntl.ioctl(fd, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            except OSError:
                continue
            fcntl.ioctl(self._outer, termios.TIOCSWINSZ, size)
            return

    def interest(self) -> dict[int, int]:
        """Return the descriptors to poll, with the events of interest."""
        if self._background:
            self.enter()
        wanted: dict[int, int] = {}
        if time.monotonic() >= self._hung_up_until:
            wanted[self._outer] = select.POLLIN if len(self._to_user) < _HIGH_WATER else 0
            if self._to_program:
                wanted[self._outer] |= select.POLLOUT
        if self._input_open and not self._background and len(self._to_program) < _HIGH_WATER:
            wanted[self._stdin] = select.POLLIN
        if self._to_user:
            wanted[self._stdout] = wanted.get(self._stdout, 0) | select.POLLOUT
        return wanted

    def patience(self) -> float | None:
        """Return the maximum timeout of the poll in seconds, None for no limit."""
        if self._background:
            return _BACKGROUND_PAUSE
        return _HANG_UP_PAUSE if self._hung_up_until else None

    def handle(self, fd: int, events: int) -> None:
        """Move bytes after poll(2) reported *events* for *fd*."""
        if fd == self._outer:
            if events & select.POLLOUT:
                self._write_program()
            if events & (select.POLLIN | select.POLLHUP):
                self._read_program()
        if (
            fd == self._stdin
            and self._input_open
            and events & (select.POLLIN | select.POLLHUP | select.POLLERR)
        ):
            self._read_user()
        if fd == self._stdout and events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            self._write_user()

    def _read_user(self) -> None:
        try:
            data = os.read(self._stdin, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _NO_TERMINAL:
                raise
            data = b""
        if data and self._suspends(data):
            self._suspend()
            return
        if data:
            self._at_line_start = data[-1:] in b"\r\n"
        else:
            self._input_open = False
            data = self._end_of_file()
        self._to_program += data
        self._write_program()

    def _suspends(self, data: bytes) -> bool:
        """Return whether *data* ends with the keys that suspend, and a shell can resume the launcher.

        The first key, ctrl-p, was forwarded to the program already: holding it back until the next key would cause a lag. Longer
        *data* is pasted text.
        """
        keys = (_ESCAPE if self._escaped else b"") + data
        self._escaped = data[-1:] == _ESCAPE
        return (
            keys[-2:] == _ESCAPE + _SUSPEND
            and len(data) <= 2
            and os.isatty(self._stdin)
            and job_control.can_be_suspended()
        )

    def _end_of_file(self) -> bytes:
        """Return what signals end of file on the terminal: VEOF, twice within a line, because the first ends it (termios(3))."""
        try:
            character: bytes = termios.tcgetattr(self._outer)[6][termios.VEOF]
        except termios.error:
            return b""
        return character if self._at_line_start else character * 2

    def _write_program(self) -> None:
        try:
            self._to_program = self._to_program[os.write(self._outer, self._to_program) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: no process has the terminal open
                raise
            self._to_program = b""

    def _read_program(self) -> bool:
        try:
            data = os.read(self._outer, _CHUNK)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EAGAIN):
                raise
            if error.errno == errno.EIO:  # no process has it open; poll(2) would return at once
                self._hung_up_until = time.monotonic() + _HANG_UP_PAUSE
            return False
        self._hung_up_until = 0.0
        self._to_user += data
        self._write_user()
        return bool(data)

    def _write_user(self) -> None:
        """Write as much as is possible without blocking."""
        if not self._to_user:
            return
        if self._writer < 0 and not _can_write(self._stdout):
            return
        fd, size = (self._stdout, _PIPE_BUF) if self._writer < 0 else (self._writer, len(self._to_user))
        try:
            self._to_user = self._to_user[os.write(fd, self._to_user[:size]) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._to_user = b""
        except OSError as error:
            if error.errno not in _NO_TERMINAL:
                raise
            self._to_user = b""

    def finish(self, wake_fd: int = -1, interrupted: Callable[[], int] = lambda: 0) -> int:
        """Write the rest of the program's output, and restore the mode of the user's terminal.

        The reader of the output may take time. When *wake_fd* becomes readable, *interrupted* is called. If its result is not 0,
        stop and return it; return 0 when everything is written.
        """
        try:
            while self._read_program():
                pass
            waiting = select.poll()
            waiting.register(self._stdout, select.POLLOUT)
            if wake_fd >= 0:
                waiting.register(wake_fd, select.POLLIN)
            while self._to_user:
                if any(fd == wake_fd for fd, _ in waiting.poll()) and (number := interrupted()):
                    return number
                self._write_user()
        finally:
            self.close()
        return 0

    def close(self) -> None:
        """Restore the mode of the user's terminal, and close the descriptors."""
        self._leave()
        for fd in (self._outer, self._writer):
            if fd >= 0:
                os.close(fd)
        self._outer = self._writer = -1


def _open_not_blocking(fd: int) -> int:
    """Open the terminal or pipe *fd* again for non-blocking writes; return -1 if that is impossible.

    O_NONBLOCK belongs to the open file description, which is shared with the launcher's caller. On a blocking descriptor, a
    long write to a terminal blocks until all of it is read, although poll(2) reported POLLOUT.
    """
    try:
        if os.isatty(fd) or stat.S_ISFIFO(os.fstat(fd).st_mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        pass  # the terminal of another user, after su(1)
    return -1


def _can_write(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
