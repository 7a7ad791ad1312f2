"""What process 1 does about processes that end: reap them, and note what the supervisor is to say of them."""

from __future__ import annotations

import os
import signal
from typing import Literal

from sandbox.errors import EXIT_FAILURE
from sandbox.kernel import rlimits

Who = Literal["program", "another", ""]
"""Whose limit of processor time was reached; "" for nobody's."""


class Children:
    """The processes below process 1, of which one is the program."""

    def __init__(self, program: int, cpu_time: int | str | None) -> None:
        """Know the pid of the *program*, and the seconds of *cpu_time* that each process has; no number: any."""
        self._program = program
        self._cpu_time = cpu_time
        #: Who of those that were reaped had no processor time left. What somebody else waited for is not seen.
        self.out_of_time: Who = ""

    def reap(self) -> int | None:
        """Reap all that have ended, up to the program; what that ended with, if it is among them: -N for signal N."""
        while True:
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

    def _look_at(self, pid: int) -> None:
        if not isinstance(self._cpu_time, int):
            return
        used = rlimits.counted_cpu_time(pid)
        if used is not None and used >= self._cpu_time and self.out_of_time != "program":
            self.out_of_time = "program" if pid == self._program else "another"


def ended_by_limit(code: int) -> bool:
    """Tell whether *code* is how the kernel ends a process whose limit of processor time is reached; setrlimit(2)."""
    return code in (-signal.SIGXCPU, -signal.SIGKILL)
