"""Interact with the job control of the shell that started this process; see credentials(7) and termios(3)."""

from __future__ import annotations

import os
import signal


def in_background(fd: int) -> bool:
    """Return whether *fd* is the controlling terminal of this process and another process group is in the foreground.

    The kernel stops a background process that reads from the terminal (SIGTTIN) or changes its attributes (SIGTTOU).
    """
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return False  # no terminal, or the terminal of another session


def can_be_suspended() -> bool:
    """Return whether a shell with job control waits for this process group, and can resume it after SIGTSTP.

    Without such a parent the group is orphaned. The kernel ignores SIGTSTP in an orphaned group: setpgid(2).
    """
    leader = os.getpgrp()
    try:
        parent = _parent_of(leader)
        return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != leader
    except (OSError, ValueError):
        return False  # the leader has ended, or its parent is in another pid namespace


def suspend() -> None:
    """Stop this process group, as ctrl-z does on a terminal. Return when SIGCONT has resumed it."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        os.kill(0, signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, before)


def _parent_of(pid: int) -> int:
    """Return the parent of *pid* from /proc/PID/stat. The name in parentheses may contain any character; see proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
