"""The phases of one sandbox, its deadlines, and what each event leads to: a state machine without system calls.

`monitor` reports events, with the time at which they happened, and executes the actions that come back. `create` and `start` of
the OCI runtime specification are the two ways from STARTING to RUNNING: process 1 waits in READY until it receives Start.
"""

from __future__ import annotations

import signal
from enum import Enum

from sandbox.errors import SandboxError
from sandbox.runtime.signals import ENDING
from unionfs._stdlib.dataclasses import dataclass

GRACE = 5.0
"""Seconds: for process 1 to exit after its mounts are gone, for the program to be executed after a signal, and for process 1 to end
after SIGKILL before the server is killed too (a process that waits for an answer of the server does not end)."""


class Phase(Enum):
    """Where a sandbox is between its first process and its end."""

    #: Stage1 makes the namespaces, then process 1 mounts the file systems. It does not catch signals.
    STARTING = "starting"
    #: Process 1 catches signals and waits for Start.
    READY = "ready"
    #: Process 1 has received Start and makes the program's process.
    EXECUTING = "executing"
    #: The program has been executed.
    RUNNING = "running"
    #: Process 1 has been reaped.
    ENDED = "ended"

    @property
    def can_start(self) -> bool:
        """Whether process 1 waits for Start."""
        return self is Phase.READY

    @property
    def can_receive_signals(self) -> bool:
        """Whether process 1 passes a signal on to the program, as soon as there is one."""
        return self in (Phase.READY, Phase.EXECUTING, Phase.RUNNING)

    @property
    def can_fail_to_start(self) -> bool:
        """Whether a failure of process 1 is one of the start."""
        return self in (Phase.STARTING, Phase.READY, Phase.EXECUTING)

    def can_become(self, other: Phase) -> bool:
        """Whether *other* may follow."""
        return other in _FOLLOWING[self]


_FOLLOWING = {
    Phase.STARTING: (Phase.READY, Phase.ENDED),
    Phase.READY: (Phase.EXECUTING, Phase.ENDED),
    Phase.EXECUTING: (Phase.RUNNING, Phase.ENDED),
    Phase.RUNNING: (Phase.ENDED,),
    Phase.ENDED: (),
}


class Deadline(Enum):
    """What is not waited for any longer than until a point in time."""

    #: The end of the program (limits.wall_time).
    WALL_TIME = "wall time"
    #: The execution of the program, after a signal that ends programs.
    EXEC = "exec"
    #: The end of the program after the signal that stops it (process.stop_timeout).
    STOP = "stop"
    #: The end of process 1 after SIGKILL.
    SERVER_KILL = "server kill"
    #: The end of process 1 after that of the server.
    INIT_EXIT = "init exit"


@dataclass(frozen=True, slots=True)
class KillInit:
    """Send SIGKILL to process 1; what it is the first of ends with it."""


@dataclass(frozen=True, slots=True)
class KillServer:
    """Send SIGKILL to the file system's server, whose clients get an error then."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Send signal *number* to process 1, which passes it on to the program."""

    number: int


Action = KillInit | KillServer | Forward


class Life:
    """The phase of one sandbox, its deadlines, and why it ends. The supervisor creates it; nothing has to be closed."""

    def __init__(self, *, stop_signal: int, stop_timeout: float) -> None:
        """Begin in STARTING, without a deadline.

        Args:
            stop_signal: the number that is sent to the program in place of SIGTERM.
            stop_timeout: seconds after SIGTERM until the sandbox is killed.
        """
        self._stop_signal = stop_signal
        self._stop_timeout = stop_timeout
        self.phase = Phase.STARTING
        self.deadlines: dict[Deadline, float] = {}
        #: The signal that ended the start, 0 for none.
        self.interrupted = 0
        #: The signal after which the program has to be executed until Deadline.EXEC.
        self._exec_signal = 0
        #: Whether Deadline.WALL_TIME has passed, and Deadline.STOP.
        self.timed_out = False
        self.overstayed = False
        #: Whether the sandbox was stopped because its private network failed.
        self.network_failed = False
        self.failure: SandboxError | None = None
        #: Whether `failure` says only that the mount is dead: the server knows the cause.
        self._cause_unknown = False

    def enter(self, phase: Phase) -> None:
        """Go on to *phase*.

        Raises:
            ValueError: it does not follow the present one.
        """
        if not self.phase.can_become(phase):
            raise ValueError(f"a sandbox that is {self.phase.value} cannot become {phase.value}")
        self.phase = phase
        if phase is Phase.RUNNING:
            self.deadlines.pop(Deadline.EXEC, None)
        elif phase is Phase.ENDED:
            self.deadlines.clear()

    @property
    def waits_for_cause(self) -> bool:
        """Whether the failure that is known is that of a mount whose server has not said yet why it ended."""
        return self._cause_unknown

    def limit(self, deadline: Deadline, at: float) -> None:
        """Set *deadline* to the time *at*, unless it has a time already."""
        self.deadlines.setdefault(deadline, at)

    def fail(self, failure: SandboxError, *, mount_died: bool = False) -> None:
        """Note why process 1 fails, unless there is a reason already. *mount_died*: its server knows the cause."""
        if self.failure is None:
            self.failure = failure
            self._cause_unknown = mount_died

    def on_signal(self, number: int, now: float) -> list[Action]:
        """Return what to do about the signal *number*, which the supervisor has received."""
        if not self.phase.can_receive_signals:
            if number not in ENDING:
                return []
            self.interrupted = self.interrupted or number
            return self._kill(now)
        if self.phase is not Phase.RUNNING and number in ENDING and Deadline.EXEC not in self.deadlines:
            self._exec_signal = number
            self.limit(Deadline.EXEC, now + GRACE)
        if number == signal.SIGTERM:
            self.limit(Deadline.STOP, now + self._stop_timeout)
            number = self._stop_signal
        return [Forward(number)]

    def on_network_failed(self, now: float) -> list[Action]:
        """Return what to do about a private network that has failed: stop the program, as after SIGTERM."""
        self.network_failed = True
        return self.on_signal(signal.SIGTERM, now)

    def on_server_ended(self, now: float) -> None:
        """Note that the server has ended as it should. Its mount is gone, so process 1 ends.

        The kernel releases the mounts of a process before it reports its exit.
        """
        self.limit(Deadline.INIT_EXIT, now + GRACE)

    def on_server_failed(self, failure: SandboxError, now: float) -> list[Action]:
        """Return what to do about a server that has failed."""
        if self.failure is None or self._cause_unknown:
            self._cause_unknown = False
            self.failure = failure
        return self._kill(now)

    def next_deadline(self) -> float | None:
        """Return the time of the next deadline; None where there is none."""
        return min(self.deadlines.values(), default=None)

    def on_time(self, now: float, server_failure: SandboxError) -> list[Action]:
        """Return what to do about the deadlines that have passed.

        *server_failure* is the failure of a server whose end process 1 has outlived.
        """
        passed = [deadline for deadline, at in self.deadlines.items() if now >= at]
        actions: list[Action] = []
        for deadline in passed:
            del self.deadlines[deadline]
            if deadline is Deadline.SERVER_KILL:
                actions.append(KillServer())
                continue
            if deadline is Deadline.INIT_EXIT:
                actions += self.on_server_failed(server_failure, now)
                continue
            if deadline is Deadline.WALL_TIME:
                self.timed_out = True
            elif deadline is Deadline.EXEC:
                self.interrupted = self.interrupted or self._exec_signal
            else:
                self.overstayed = True
            actions += self._kill(now)
        return actions

    @property
    def is_killed(self) -> bool:
        """Whether process 1 has been killed and has not ended within GRACE yet."""
        return Deadline.SERVER_KILL in self.deadlines

    def _kill(self, now: float) -> list[Action]:
        self.limit(Deadline.SERVER_KILL, now + GRACE)
        return [KillInit()]
