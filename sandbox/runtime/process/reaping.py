"""What process 1 does about processes that end: reap them, and note what the supervisor is to say of them."""

from __future__ import annotations

import os
import resource
import signal

from sandbox.errors import EXIT_FAILURE
from sandbox.kernel import process, rlimits
from sandbox.runtime.messages import ProgramEnded
from unionfs._stdlib.typing import Literal

_AT_ONCE = 64
"""Processes to reap before process 1 looks for signals and the supervisor again: a program may fork faster than process 1 reaps."""

Who = Literal["program", "another", ""]
"""Whose limit of processor time was reached; "" for nobody's."""


class Children:
    """The processes below process 1, of which one is the program."""

    def __init__(self, program: int, cpu_time: int | str | None, proc_fd: int) -> None:
        """Know the pid of the *program*, and the seconds of *cpu_time* that each process has; no number: any.

        *proc_fd* is the /proc in which what the program leaves behind is counted, -1 where it is not.
        """
        self._program = program
        self._cpu_time = cpu_time
        self._proc_fd = proc_fd
        #: Who of those that were reaped had no processor time left. What somebody else waited for is not seen.
        self.out_of_time: Who = ""
        #: Whether more may have ended than were reaped.
        self.more = False

    def reap(self) -> int | None:
        """Reap some of those that have ended, up to the program; what that ended with, if it is among them: -N for signal N."""
        self.more = False
        for _ in range(_AT_ONCE):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return EXIT_FAILURE
            if found is None:
                return None
            self._look_at(found.si_pid)
            pid, status = os.waitpid(found.si_pid, 0)
            code = os.waitstatus_to_exitcode(status)
            if pid == self._program:
                return code
        self.more = True
        return None

    def told(self, code: int) -> ProgramEnded:
        """Return what the supervisor is told when the program has ended with *code*."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return ProgramEnded(code, self.out_of_time, self._left_over(), own)

    def _left_over(self) -> int | None:
        """Return how many processes there are that go with process 1, None where that is not for us to count."""
        if self._proc_fd < 0:
            return None
        try:
            return process.count_others(self._proc_fd)
        except OSError:
            return None

    def _look_at(self, pid: int) -> None:
        if not isinstance(self._cpu_time, int):
            return
        used = rlimits.counted_cpu_time(pid)
        if used is not None and used >= self._cpu_time and self.out_of_time != "program":
            self.out_of_time = "program" if pid == self._program else "another"


def ended_by_limit(code: int) -> bool:
    """Tell whether *code* is how the kernel ends a process whose limit of processor time is reached; setrlimit(2)."""
    return code in (-signal.SIGXCPU, -signal.SIGKILL)
