"""Runs `sandbox` with a system call that fails, in the process and at the call that a test names:

    python -m tests.e2e.faulty ROLE NUMBER ERRNO SANDBOX-ARGUMENT ...

ROLE is supervisor, stage1, init, payload or server; its call NUMBER, counted from 0, of those that can run out of something
raises OSError(ERRNO), or, for KILL, ends the process with SIGKILL after the call was made; NUMBER -1 lets all succeed. The
names of the calls that were made are written to $FAULTY_RECORD as JSON, by role; the server's to $FAULTY_RECORD.server.
"""

from __future__ import annotations

import builtins
import fcntl
import json
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

ROLES = ("supervisor", "stage1", "init", "payload")
_ROOM = 1 << 16

#: What takes a descriptor, a process, memory or space, or may be refused. Not close, kill, waitpid: they cannot.
_OS_CALLS = (
    "chdir chmod chown dup2 execve fchmod fchown fork fstat link listdir lstat makedirs mkdir open openpty pidfd_open pipe "
    "pipe2 posix_spawn readlink rename rmdir scandir setgroups setresgid setresuid setsid setxattr stat symlink unlink write"
).split()
_OTHERS: tuple[tuple[Any, str], ...] = (
    (builtins, "open"),
    (fcntl, "flock"),
    (fcntl, "ioctl"),
    (socket, "socketpair"),
    (socket, "send_fds"),
    (socket, "recv_fds"),
    (socket, "sethostname"),
)


class _Plan:
    """Counts the calls of this process, notes their names where every process of the family sees them, and lets one fail."""

    def __init__(self, role: str, number: int, failure: str) -> None:
        self.role, self.number, self.failure = role, number, failure
        self.own = 0  # index of this process's role
        self.count = 0
        self.noted = mmap.mmap(-1, _ROOM * len(ROLES))

    def call(self, name: str, really: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        due = self.own < len(ROLES) and ROLES[self.own] == self.role and self.count == self.number
        self._note(name)
        self.count += 1
        if due and self.failure != "KILL":
            raise OSError(int(self.failure), os.strerror(int(self.failure)))
        result = really(*args, **kwargs)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "fork" and result == 0:
            self.own += 1
            self.count = 0
        return result

    def _note(self, name: str) -> None:
        if self.own < len(ROLES):
            start = _ROOM * self.own
            used = int.from_bytes(self.noted[start : start + 4], "little")
            text = name.encode() + b"\n"
            at = start + 4 + used
            self.noted[at : at + len(text)] = text
            self.noted[start : start + 4] = (used + len(text)).to_bytes(4, "little")

    def record(self) -> dict[str, list[str]]:
        found = {}
        for index, role in enumerate(ROLES):
            start = _ROOM * index
            used = int.from_bytes(self.noted[start : start + 4], "little")
            found[role] = self.noted[start + 4 : start + 4 + used].decode().split()
        return found

    def wrap(self, module: Any, name: str) -> None:
        really = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            return self.call(name, really, *args, **kwargs)

        setattr(module, name, counted)

    def install(self, libc: ModuleType) -> None:
        for name in _OS_CALLS:
            self.wrap(os, name)
        for module, name in _OTHERS:
            self.wrap(module, name)
        for name, value in list(vars(libc).items()):
            if (
                isinstance(value, FunctionType)
                and not name.startswith("_")
                and value.__module__ == libc.__name__
            ):
                self.wrap(libc, name)


def _main(role: str, number: str, failure: str, arguments: Sequence[str]) -> int:
    plan = _Plan(role, int(number), failure)
    if arguments[:1] == ["--serve-fd"]:
        import unionfs.channel
        import unionfs.confine
        import unionfs.fuse.server
        import unionfs.stack  # noqa: F401 - as below
        from unionfs import _libc, cli

        plan.role = "supervisor" if role == "server" else ""  # the first process of this family
        output = open(os.environ["FAULTY_RECORD"] + ".server", "w", encoding="utf-8")  # noqa: SIM115 - by an id that may
        plan.install(_libc)
        status = cli.main(list(arguments))
        record: object = plan.record()["supervisor"]
    else:
        import sandbox.image.store
        import sandbox.runtime.supervisor  # noqa: F401 - what imports read of the disk is none of our calls
        from sandbox.cli.main import main
        from sandbox.kernel import _libc

        wrapper = os.environ["FAULTY_RECORD"] + ".python"
        with open(wrapper, "w", encoding="utf-8") as file:
            shift = 'shift 3; exec "$PYTHON" -m tests.e2e.faulty "$ROLE" "$NUMBER" "$FAILURE" "$@"'
            file.write(
                f"#!/bin/sh\nPYTHON={sys.executable} ROLE={role} NUMBER={number} FAILURE={failure}\n{shift}\n"
            )
        os.chmod(wrapper, 0o755)
        sys.executable = wrapper
        output = open(os.environ["FAULTY_RECORD"], "w", encoding="utf-8")  # noqa: SIM115 - before calls are counted
        plan.install(_libc)
        status = main(list(arguments))
        record = plan.record()
    plan.number = -1
    with output:
        json.dump(record, output)
    return status


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:4], sys.argv[4:]))
