"""Run a probe in a forked child with a time limit. Results that it reported before its end are kept."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from sandbox.doctor.facts import Failure, Probe
from unionfs._stdlib.dataclasses import dataclass

Report = Callable[[str, Any], None]
"""Reports one result of a probe: a name, and a value that JSON can represent."""

TIME_LIMIT = 5.0
"""Seconds for one probe. A probe takes hundredths of a second, unless it hangs, for example on a dead network file server."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LAST_WAIT = 1.0  # seconds for a killed child to end; in an uninterruptible wait it does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a child reported, and why it ended early, if it did."""

    results: Mapping[str, Any]
    problem: str | None = None

    def probe(self) -> Probe:
        """Return the results that :func:`attempt` reported in the child."""
        attempts = {
            step: None if value is None else Failure(errno=value[0], text=value[1])
            for step, value in self.results.items()
        }
        return Probe(attempts=attempts, problem=self.problem)


def attempt(report: Report, step: str, action: Callable[[], object], *, named: bool = True) -> bool:
    """Run *action*, report the result of *step*, and return whether it succeeded. With *named*, an error includes its path."""
    try:
        action()
    except OSError as error:
        report(step, [error.errno or 0, reason_of(error) if named else error.strerror or str(error)])
        return False
    report(step, None)
    return True


def reason_of(error: OSError) -> str:
    """Return the text of *error* with its path."""
    text = error.strerror or str(error)
    path = error.filename2 or error.filename
    return text if path is None else f"{os.fsdecode(path)}: {text}"


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that end this process, and children made within the context."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def cleaned_up_by(clean: Callable[[], object]) -> Iterator[None]:
    """Call *clean* after the context, with the signals blocked that end this process and the children that it makes then.

    A signal that arrives while the context is left does not prevent the call.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    finally:
        # Blocked once more: a signal before the call above has raised its exception there.
        with signals_blocked():
            clean()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_limited(action: Callable[[Report], None], *, seconds: float = TIME_LIMIT) -> Outcome:
    """Run *action* in a forked child and kill it after *seconds*. Processes that *action* starts must end with the child."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    # Blocked, because a handler of ours in the child would continue there in its parent's code.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        pid = os.fork()
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        os.close(reader)
        os.close(writer)
        return Outcome(results={}, problem=f"no process could be started: {error.strerror}")
    if pid == 0:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        os.close(reader)
        _run(action, writer)
    os.close(writer)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        text, in_time = _read_until(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        ended = _end(pid)
    lines = [json.loads(line) for line in text.split(b"\n")[:-1]]
    problem = next((value for key, value in lines if key == ""), None)
    results = {key: value for key, value in lines if key != ""}
    if not in_time:
        problem = f"no answer within {seconds:g} seconds"
    elif problem is None and ended != 0:
        problem = (
            "it ended without a result" if ended is None or ended > 0 else f"it was killed by signal {-ended}"
        )
    return Outcome(results=results, problem=problem)


def _run(action: Callable[[Report], None], writer: int) -> NoReturn:
    status = 1

    def report(key: str, value: Any) -> None:
        os.write(writer, json.dumps([key, value]).encode() + b"\n")

    try:
        action(report)
        status = 0
    except OSError as error:
        report("", reason_of(error))
    except BaseException as error:  # noqa: BLE001 - a forked child must not run on in its parent's code
        report("", repr(error))
    finally:
        os._exit(status)


def _read_until(reader: int, deadline: float) -> tuple[bytes, bool]:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(int(left * 1000) + 1):
            continue
        block = os.read(reader, 65536)
        if not block:
            return text, True
        text += block
    return text, False


def _end(pid: int) -> int | None:
    """Wait for the child, which has closed its pipe or is late; kill it if necessary. Return its exit code, None if it stays.

    The pid cannot belong to another process: a child that has ended is a zombie until it is waited for.
    """
    deadline = time.monotonic() + _LAST_WAIT
    # The child exits within microseconds after closing the pipe. It is killed only if it does not.
    killed = False
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if not killed and time.monotonic() > deadline - _LAST_WAIT + 0.1:
            os.kill(pid, signal.SIGKILL)
            killed = True
        time.sleep(0.0005)
    return None
