"""Restore the user's terminal, and the open files behind standard input, output and error, after the program changed them.

They are shared with the launcher's caller and outlive the sandbox. O_NONBLOCK and other status flags belong to the open file
description (open(2)); modes and exclusive use belong to the terminal.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import struct
import termios
from collections.abc import Iterable
from contextlib import suppress

from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

_STANDARD = (0, 1, 2)
_TIOCGEXCL = 0x80045440  # asm-generic/ioctls.h; Python's termios lacks it
_INT = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class _Terminal:
    """The state of a terminal; see ioctl_tty(2)."""

    permissions: int
    discipline: int
    exclusive: bool
    #: None if another job is in the foreground: a shell at its prompt sets its own attributes.
    attributes: list[Any] | None

    @classmethod
    def of(cls, fd: int) -> _Terminal:
        """Return the state of the terminal *fd*.

        Raises:
            OSError, termios.error: the terminal has hung up.
        """
        attributes = termios.tcgetattr(fd) if _has_foreground(fd) else None
        return cls(stat.S_IMODE(os.fstat(fd).st_mode), _discipline(fd), _is_exclusive(fd), attributes)

    def restore(self, fd: int, *, attributes: bool) -> None:
        """Restore this state of the terminal *fd*, and its termios attributes only if *attributes* is set."""
        with suppress(OSError):
            if _is_exclusive(fd) != self.exclusive:
                fcntl.ioctl(fd, termios.TIOCEXCL if self.exclusive else termios.TIOCNXCL)
        with suppress(OSError):
            # First: other line disciplines have no attributes.
            if _discipline(fd) != self.discipline:
                fcntl.ioctl(fd, termios.TIOCSETD, _INT.pack(self.discipline))
        with suppress(OSError):
            if stat.S_IMODE(os.fstat(fd).st_mode) != self.permissions:
                os.fchmod(fd, self.permissions)
        with suppress(OSError, termios.error):
            # No request returns whether TCOOFF stopped the output. TCOON does not resume output that the user stopped by ctrl-s.
            termios.tcflow(fd, termios.TCOON)
            if attributes and self.attributes is not None and termios.tcgetattr(fd) != self.attributes:
                termios.tcsetattr(fd, termios.TCSANOW, self.attributes)


@dataclass(frozen=True, slots=True)
class StandardDescriptors:
    """The state of the descriptors 0 to 2 that are open: file status flags (F_GETFL) and terminals, by descriptor."""

    flags: dict[int, int]
    terminals: dict[int, _Terminal]

    @classmethod
    def now(cls) -> StandardDescriptors:
        """Return their current state."""
        flags: dict[int, int] = {}
        terminals: dict[int, _Terminal] = {}
        for fd in _STANDARD:
            with suppress(OSError):
                flags[fd] = fcntl.fcntl(fd, fcntl.F_GETFL)
            with suppress(OSError, termios.error):
                terminals[fd] = _Terminal.of(fd)
        return cls(flags, terminals)

    def restore(self) -> None:
        """Restore the state as far as possible. Never raises."""
        # The kernel stops a background process by SIGTTOU at most terminal requests, unless it is blocked: tty_check_change().
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            for fd, terminal in self.terminals.items():
                terminal.restore(fd, attributes=_has_foreground(fd) and not _any_pipe(_STANDARD))
            for fd, flags in self.flags.items():
                with suppress(OSError):
                    if fcntl.fcntl(fd, fcntl.F_GETFL) != flags:
                        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _discipline(fd: int) -> int:
    return int(_INT.unpack(fcntl.ioctl(fd, termios.TIOCGETD, bytes(_INT.size)))[0])


def _is_exclusive(fd: int) -> bool:
    return bool(_INT.unpack(fcntl.ioctl(fd, _TIOCGEXCL, bytes(_INT.size)))[0])


def _has_foreground(fd: int) -> bool:
    """Return whether this process is in the foreground of its terminal *fd*. Otherwise other jobs may set the attributes."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def _any_pipe(fds: Iterable[int]) -> bool:
    """Return whether one of *fds* is a pipe: then a pager at its other end may have set the attributes."""
    for fd in fds:
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                return True
    return False
