"""Reap the processes that end below process 1, and collect what the supervisor reports about them."""

from __future__ import annotations

import os
import resource
import signal

from sandbox.errors import EXIT_FAILURE
from sandbox.kernel import process, rlimits
from sandbox.runtime.messages import ProgramEnded
from unionfs._stdlib.typing import Literal

_MAX_REAPED = 64
"""Processes to reap before process 1 polls signals and the supervisor again: a program may fork faster than process 1 reaps."""

TimedOutProcess = Literal["program", "another", ""]
"""Which process reached its limit of CPU time; "" for none."""


class Children:
    """The children of process 1, one of which is the program. Owns the state of the reaping; process 1 creates it."""

    def __init__(self, program: int, cpu_time: int | str | None, proc_fd: int) -> None:
        """Store the pid of the *program*, and the limit *cpu_time* of each process in seconds; no int means no limit.

        *proc_fd* is the /proc in which the remaining processes are counted when the program ends, -1 to count none.
        """
        self._program = program
        self._cpu_time = cpu_time
        self._proc_fd = proc_fd
        #: Which of the processes reaped here reached its limit of CPU time. Children of other processes are not noticed.
        self.out_of_time: TimedOutProcess = ""
        #: Whether more children may have ended than were reaped.
        self.more = False

    def reap(self) -> int | None:
        """Reap some ended children, up to the program. Return how it ended, -N for signal N; None if it was not among them."""
        self.more = False
        for _ in range(_MAX_REAPED):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return EXIT_FAILURE
            if found is None:
                return None
            self._check_cpu_time(found.si_pid)
            pid, status = os.waitpid(found.si_pid, 0)
            code = os.waitstatus_to_exitcode(status)
            if pid == self._program:
                return code
        self.more = True
        return None

    def end_message(self, code: int) -> ProgramEnded:
        """Return the message for the supervisor about the end of the program with *code*."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return ProgramEnded(code, self.out_of_time, self._left_over(), own)

    def _left_over(self) -> int | None:
        """Return how many other processes exist, which end with process 1; None if they cannot be counted."""
        if self._proc_fd < 0:
            return None
        try:
            return process.count_others(self._proc_fd)
        except OSError:
            return None

    def _check_cpu_time(self, pid: int) -> None:
        if not isinstance(self._cpu_time, int):
            return
        used = rlimits.counted_cpu_time(pid)
        if used is not None and used >= self._cpu_time and self.out_of_time != "program":
            self.out_of_time = "program" if pid == self._program else "another"


def ended_by_limit(code: int) -> bool:
    """Return whether *code* is how the kernel ends a process that reached its limit of CPU time; setrlimit(2)."""
    return code in (-signal.SIGXCPU, -signal.SIGKILL)
