"""Build the error for a start that failed, and the warning for a program that was killed. Pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from sandbox.errors import (
    EXIT_FAILURE,
    EXIT_TIMED_OUT,
    CommandError,
    SandboxError,
    SetupError,
    describe_errno,
)
from sandbox.host.facts import explain_userns_failure
from sandbox.plan import Plan
from sandbox.runtime.messages import ExecFailed, SetupFailed
from sandbox.runtime.phase import Life
from sandbox.spec.units import format_duration

#: A possible cause of a failure of process 1.
_SAME_ID = 'a program with the same user id as process 1 (always with ids.map = "single") can change its limits: prlimit(2)'


#: Operations that look up paths in the new root. The ids that read its layers are not the caller's.
_READS_LAYERS = ("mount", "mount proc", "mount sysfs", "chown")


def setup_error(plan: Plan, message: SetupFailed) -> SandboxError:
    """Return the error for the failed step of the start that *message* reports."""
    if message.operation == "unshare" and message.step == "user namespace":
        return SetupError(message.step, message.text.lower(), hint=explain_userns_failure(message.errno))
    # If the step is a setting, such as process.user, name its place in the file.
    place = plan.places.get(message.step)
    step = message.step if place is None else f"{place}: {message.step}"
    if not message.operation and not message.errno:
        return SetupError(step, message.text, hint=message.hint or None)
    error = OSError(message.errno, message.text, message.path or None)
    failure = SetupError.from_os_error(step, message.operation or message.step, error)
    if message.hint:
        failure.hint = message.hint
    elif message.errno == errno.EACCES and message.operation in _READS_LAYERS:
        failure.hint = f"the layers are read as user {plan.ids.root[0]} of this machine, which may not search a directory there: chmod o+x it, or start the sandbox as its owner"
    elif failure.hint is None:
        failure.hint = describe_errno(message.step, message.errno)
    return failure


def failure_of_process_1(message: SetupFailed) -> SandboxError:
    """Return the error for a failure of process 1 while the program runs."""
    return SetupError("process 1 of the sandbox", f"it failed: {message.text.lower()}", hint=_SAME_ID)


def command_error(message: ExecFailed) -> SandboxError:
    """Return the error for a program that could not be executed."""
    error = OSError(message.errno, os.strerror(message.errno))
    if isinstance(error, FileNotFoundError):
        return CommandError.not_found(message.command)
    failure = CommandError.not_executable(message.command, error)
    failure.hint = message.hint or failure.hint
    return failure


def exit_status(
    plan: Plan, life: Life, status: int, warn: Callable[[str], None], *, by_command: bool = False
) -> int:
    """Return the exit status of a sandbox whose process 1 ended with *status*, negative for a signal.

    *by_command*: `sandbox stop` or `sandbox kill` has killed process 1. *warn* receives why the sandbox ended, where the program did not end by itself.

    Raises:
        SandboxError: a part of the sandbox failed.
    """
    if life.network_failed:
        return EXIT_FAILURE  # the reason was printed when it happened
    if life.interrupted:
        return 128 + life.interrupted
    if life.failure is not None:
        raise life.failure
    if life.timed_out:
        warn(f"the sandbox was ended after limits.wall_time, {format_duration(plan.wall_time or 0)}")
        return EXIT_TIMED_OUT
    if status < 0 and by_command:
        warn("`sandbox stop` or `sandbox kill` has killed the sandbox")
        return 128 - status
    if status < 0:
        warn(why_killed(plan, -status, overstayed=life.overstayed))
        return 128 - status
    return status


def why_killed(plan: Plan, number: int, *, overstayed: bool) -> str:
    """Return the warning for a process 1 that signal *number* ended; *overstayed*: killed after process.stop_timeout."""
    if overstayed:
        limit = format_duration(plan.process.stop_timeout)
        return f"the program did not end within process.stop_timeout, {limit}, after {plan.process.stop_signal}, and was killed"
    text = f"process 1 of the sandbox was ended by signal {number}"
    return f"{text}: {_SAME_ID}" if plan.ids.single else text
