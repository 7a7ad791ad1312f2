"""Run a command with a time limit, and end everything that it started: processes and mounts.

usage: python supervise.py SECONDS DIRECTORY COMMAND...

Every process that the command starts becomes a child of this program when its own parent has ended, because this program
is their subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)). What is left when the command has ended is reported and killed, and
what is mounted below DIRECTORY is unmounted.

At the limit, and when this program gets SIGTERM or SIGHUP, the command gets SIGINT, which lets pytest tear its fixtures down;
GRACE seconds later it is killed. A SIGINT of the terminal goes to the command as well and is not sent again.

Exit status: that of the command, 128 + N after signal N; 124 at the limit; 1 where the command succeeded and left something.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = PROJECT  # not this directory, whose names are not those of top-level modules

from tests.support import _libc  # noqa: E402

#: Seconds from SIGINT to SIGKILL.
GRACE = 30.0
#: Seconds that what the command left may take to end by itself.
_LINGER = 2.0
#: Seconds between two lines that tell the time.
_TELL = 120.0
_LIMIT_REACHED = 124


class Supervision:
    """One command from its start until nothing of it is left. Created by :func:`main`; owns the command's process."""

    def __init__(self, seconds: float, directory: str) -> None:
        """Allow *seconds*; what is mounted below *directory* belongs to the command."""
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
        """Kill what is left of the command; tell whether anything had to be killed."""
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
        """Unmount what is mounted below the directory; tell whether there was anything."""
        found = _mounts_below(self._directory)
        for path in reversed(found):
            _tell(f"left mounted, unmounted: {path}")
            # Of a user's own FUSE mounts, too, and without /etc/mtab, in which fusermount3 looks for them.
            subprocess.run(["umount", "-l", "--", path], check=False)
        return bool(found)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may read on; what is left has to be ended all the same
        os.write(1, text.encode(errors="replace") + b"\n")


def _reap() -> bool:
    """Collect the dead children; tell whether there are others."""
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
                # The command, in parentheses, may itself hold blanks and parentheses (proc_pid_stat(5)).
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
