"""Passing the user's terminal through to the program's: raw mode, window size, bytes in both directions."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
import time
import tty

_CHUNK = 65536
#: More than this waiting to be written stops reading from the other side.
_HIGH_WATER = 1 << 18
#: Seconds between looks at a terminal that nobody has open.
_HANG_UP_PAUSE = 0.2
_END_OF_FILE = b"\x04"  # VEOF of a terminal in its usual mode (termios(3))


class TerminalRelay:
    """The user's terminal on one side, the outer end of the program's on the other."""

    def __init__(self, outer_fd: int, stdin: int = 0, stdout: int = 1) -> None:
        """Take over *outer_fd*, give it the size of the user's terminal, and put that into raw mode."""
        self._outer, self._stdin, self._stdout = outer_fd, stdin, stdout
        self._to_program, self._to_user = b"", b""
        self._input_open = True
        self._hung_up_until = 0.0
        self._saved: list[object] | None = None
        os.set_blocking(outer_fd, False)
        self.resize()
        if os.isatty(stdin):
            self._saved = termios.tcgetattr(stdin)
            tty.setraw(stdin, termios.TCSADRAIN)

    def resize(self) -> None:
        """Give the program's terminal the size of the user's; the kernel tells the program (SIGWINCH)."""
        for fd in (self._stdin, self._stdout):
            try:
                size = fcntl.ioctl(fd, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            except OSError:
                continue
            fcntl.ioctl(self._outer, termios.TIOCSWINSZ, size)
            return

    def interest(self) -> dict[int, int]:
        """Return the descriptors to poll and for what."""
        wanted: dict[int, int] = {}
        if time.monotonic() >= self._hung_up_until:
            wanted[self._outer] = select.POLLIN if len(self._to_user) < _HIGH_WATER else 0
            if self._to_program:
                wanted[self._outer] |= select.POLLOUT
        if self._input_open and len(self._to_program) < _HIGH_WATER:
            wanted[self._stdin] = select.POLLIN
        if self._to_user:
            wanted[self._stdout] = wanted.get(self._stdout, 0) | select.POLLOUT
        return wanted

    def patience(self) -> float | None:
        """Return for how many seconds at most to poll, None for as long as it takes."""
        return _HANG_UP_PAUSE if self._hung_up_until else None

    def handle(self, fd: int, events: int) -> None:
        """Move bytes after poll has named *fd*."""
        if fd == self._outer:
            if events & select.POLLOUT:
                self._write_program()
            if events & (select.POLLIN | select.POLLHUP):
                self._read_program()
        if fd == self._stdin and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._read_user()
        if fd == self._stdout and events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            self._write_user()

    def _read_user(self) -> None:
        data = os.read(self._stdin, _CHUNK)
        if not data:
            self._input_open = False
            data = _END_OF_FILE
        self._to_program += data
        self._write_program()

    def _write_program(self) -> None:
        try:
            self._to_program = self._to_program[os.write(self._outer, self._to_program) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # nobody has the terminal open
                raise
            self._to_program = b""

    def _read_program(self) -> bool:
        try:
            data = os.read(self._outer, _CHUNK)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EAGAIN):
                raise
            if error.errno == errno.EIO:  # no one has it open now; poll would say so again at once
                self._hung_up_until = time.monotonic() + _HANG_UP_PAUSE
            return False
        self._hung_up_until = 0.0
        self._to_user += data
        self._write_user()
        return bool(data)

    def _write_user(self) -> None:
        if self._to_user:
            try:
                self._to_user = self._to_user[os.write(self._stdout, self._to_user) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                self._to_user = b""

    def finish(self) -> None:
        """Pass on what the program wrote last, and give the user's terminal its mode back."""
        try:
            while self._read_program():
                pass
            while self._to_user:
                select.select([], [self._stdout], [])
                self._write_user()
        finally:
            self.close()

    def close(self) -> None:
        """Give the user's terminal its mode back."""
        if self._saved is not None:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
            self._saved = None
        if self._outer >= 0:
            os.close(self._outer)
            self._outer = -1
