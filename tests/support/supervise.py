"""Run a command with a time limit, and end all its processes and mounts.

usage: python supervise.py SECONDS DIRECTORY COMMAND...

Every process that the command starts becomes a child of this program when its own parent has ended, because this program
is their subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)). Processes that remain after the command are reported and killed.
Mounts below DIRECTORY are unmounted.

At the limit, and when this program receives SIGTERM or SIGHUP, the command gets SIGINT, so that pytest tears its fixtures
down. GRACE seconds later it is killed. The terminal sends SIGINT to the command as well, so that one is not sent again.

Exit status: that of the command; 128 + N after signal N; 124 at the limit; 1 if the command succeeded but left something.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = PROJECT  # remove this directory, whose modules are not top-level modules

from tests.support import _libc  # noqa: E402

#: Seconds from SIGINT to SIGKILL.
GRACE = 30.0
#: Seconds that remaining processes may take to end by themselves.
_LINGER = 2.0
#: Seconds between two lines about the elapsed time.
_TELL = 120.0
_LIMIT_REACHED = 124


class Supervision:
    """One command from its start until all its processes and mounts have ended.

    :func:`main` creates it. It owns the command's process.
    """

    def __init__(self, seconds: float, directory: str) -> None:
        """Set the limit to *seconds*. Mounts below *directory* belong to the command."""
        self._directory = directory
        self._started = time.monotonic()
        self._seconds = seconds
        self._stopped = False

    def run(self, command: list[str]) -> int:
        """Run *command* to its end and return the exit status."""
        _libc.become_subreaper()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(
            signal.SIGINT, lambda *_: None
        )  # a handler, unlike SIG_IGN, is not inherited through exec
        with subprocess.Popen(command) as process:
            status = self._wait(process)
        left = self._end_processes()
        mounts = self._unmount()
        return 1 if status == 0 and (left or mounts) else status

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        kill_at, told_at, status = 0.0, self._started, 0
        while True:
            try:
                ended = process.wait(0.2)
            except subprocess.TimeoutExpired:
                pass
            else:
                return status or (ended if ended >= 0 else 128 - ended)
            now = time.monotonic()
            if not kill_at and (self._stopped or now > self._started + self._seconds):
                status = 128 + signal.SIGTERM if self._stopped else _LIMIT_REACHED
                kill_at = now + GRACE
                process.send_signal(signal.SIGINT)
            elif kill_at and now > kill_at:
                process.kill()
            elif now > told_at + _TELL:
                told_at = now
                passed = now - self._started
                _tell(
                    f"\n== {passed / 60:.0f} minutes have passed, {(self._seconds - passed) / 60:.0f} are left"
                )

    def _end_processes(self) -> bool:
        """Kill the remaining processes of the command; return whether there were any."""
        until = time.monotonic() + _LINGER
        while _reap() and time.monotonic() < until:
            time.sleep(0.02)
        told: set[int] = set()
        until = time.monotonic() + GRACE
        while _reap() and time.monotonic() < until:
            for pid, command in _descendants().items():
                if pid not in told:
                    _tell(f"left running, killed: {pid} {command}")
                    told.add(pid)
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):  # PermissionError: a set-user-id program
                    continue
            time.sleep(0.02)
        return bool(told)

    def _unmount(self) -> bool:
        """Unmount everything below the directory; return whether there was any mount."""
        found = _mounts_below(self._directory)
        for path in reversed(found):
            _tell(f"left mounted, unmounted: {path}")
            # umount(8) also unmounts a user's own FUSE mounts, and unlike fusermount3 it does not need /etc/mtab.
            subprocess.run(["umount", "-l", "--", path], check=False)
        return bool(found)


def _tell(text: str) -> None:
    with contextlib.suppress(
        OSError
    ):  # the reader may have ended; the remaining processes must be ended in any case
        os.write(1, text.encode(errors="replace") + b"\n")


def _reap() -> bool:
    """Reap the dead children; return whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _descendants() -> dict[int, str]:
    """Return the command lines of all processes below this one, from /proc."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                # The command, in parentheses, may itself contain blanks and parentheses (proc_pid_stat(5)).
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found: dict[int, str] = {}
    below = {os.getpid()}
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        found.update((pid, _command_of(pid)) for pid in below)
    return found


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return ""


def _mounts_below(directory: str) -> list[str]:
    """Return the mount points below *directory* in the order in which they were mounted (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split(b" ", 5)[4] for line in file]
    paths = [os.fsdecode(field.decode("unicode_escape").encode("latin-1")) for field in fields]
    return [path for path in paths if path.startswith(directory + "/")]


def main() -> int:
    """Run the command of the command line."""
    seconds, directory, *command = sys.argv[1:]
    return Supervision(float(seconds), os.path.realpath(directory)).run(command)


if __name__ == "__main__":
    sys.exit(main())
