"""Runs `sandbox` with one failing system call, in the process and at the call that a test names:

    python -m tests.e2e.faulty ROLE NUMBER ERRNO SANDBOX-ARGUMENT ...

ROLE is supervisor, stage1, init, payload, helper or server. Counted are the calls of ROLE that need a resource, from 0.
Call NUMBER raises OSError(ERRNO). If ERRNO is KILL, the call is made and the process is then killed with SIGKILL. With
NUMBER -1 all calls succeed. The names of the calls are written as JSON, by role, to $FAULTY_RECORD; those of the server
to $FAULTY_RECORD.server. Helpers are the children that act with other ids, and those that connect a private
network; they are counted together.
"""

from __future__ import annotations

import builtins
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

ROLES = ("supervisor", "stage1", "init", "payload", "helper")
_HELPER = ROLES.index("helper")
#: Functions that fork a helper instead of the next process of the launcher.
_FORKS_A_HELPER = {"run_with_ids", "_unshare_users_inside", "_look_into", "connect"}
_ROOM = 1 << 17
#: Functions whose calls need no resource.
_ASK_ONLY = {"landlock_version", "have_mount_setattr"}
#: Originals of functions that this module itself calls, which are not counted.
_memfd_create, _dup2, _close, _fstat = os.memfd_create, os.dup2, os.close, os.fstat

#: Calls that need a descriptor, a process, memory or space, or that may be refused. close, kill and waitpid do not.
_OS_CALLS = (
    "chdir chmod chown dup dup2 execve fchdir fchmod fchown fork fstat fsync ftruncate link listdir lstat makedirs memfd_create mkdir "
    "mknod open openpty pidfd_open pipe pipe2 posix_spawn pwrite readlink rename rmdir scandir setgroups setresgid setresuid "
    "setsid setxattr stat symlink unlink utime write"
).split()
_OTHERS: tuple[tuple[Any, str], ...] = (
    (builtins, "open"),
    (fcntl, "flock"),
    (fcntl, "ioctl"),
    (socket, "socketpair"),
    (socket, "send_fds"),
    (socket, "recv_fds"),
    (socket, "sethostname"),
    (resource, "setrlimit"),
)


class _Plan:
    """Counts the calls of this process, and lets one fail. The names are in memory that all processes share."""

    def __init__(self, role: str, number: int, failure: str) -> None:
        self.role, self.number, self.failure = role, number, failure
        self.own = 0  # index of this process's role
        self.noted = mmap.mmap(-1, _ROOM * len(ROLES))

    def call(self, name: str, really: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        count = self._note(name)
        due = ROLES[self.own] == self.role and count == self.number
        if due and self.failure != "KILL":
            if name == "setxattr":
                # The kernel checks the permission before the space: fs/xattr.c, vfs_setxattr.
                really(*args, **kwargs)
                os.removexattr(args[0], args[1], follow_symlinks=kwargs.get("follow_symlinks", True))
            raise OSError(int(self.failure), os.strerror(int(self.failure)))
        result = really(*args, **kwargs)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "fork" and result == 0:
            self.own = _HELPER if _FORKS_A_HELPER & _callers() else self.own + 1
        return result

    def _note(self, name: str) -> int:
        """Record the call *name* of this process; return the number of earlier calls of its role, in all processes."""
        start = _ROOM * self.own
        used, count = (int.from_bytes(self.noted[at : at + 4], "little") for at in (start, start + 4))
        text = name.encode() + b"\n"
        at = start + 8 + used
        self.noted[at : at + len(text)] = text
        self.noted[start : start + 4] = (used + len(text)).to_bytes(4, "little")
        self.noted[start + 4 : start + 8] = (count + 1).to_bytes(4, "little")
        return count

    def record(self) -> dict[str, list[str]]:
        found = {}
        for index, role in enumerate(ROLES):
            start = _ROOM * index
            used = int.from_bytes(self.noted[start : start + 4], "little")
            found[role] = self.noted[start + 8 : start + 8 + used].decode().split()
        return found

    def wrap(self, module: Any, name: str) -> None:
        really = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            # A reply written to /dev/fuse needs no space.
            if name == "write" and stat.S_ISCHR(_fstat(args[0]).st_mode):
                return really(*args, **kwargs)
            return self.call(name, really, *args, **kwargs)

        setattr(module, name, counted)

    def install(self, libc: ModuleType) -> None:
        for name in _OS_CALLS:
            self.wrap(os, name)
        for module, name in _OTHERS:
            self.wrap(module, name)
        opening = builtins.open

        def opened(*args: Any, **kwargs: Any) -> Any:
            file = opening(*args, **kwargs)
            return _Written(file, self) if file.writable() else file

        builtins.open = opened
        making = socket.socket.__init__

        def made(self_: Any, *args: Any, fileno: int | None = None, **kwargs: Any) -> None:
            if fileno is None:
                self.call("socket", making, self_, *args, **kwargs)
            else:  # the file exists already
                making(self_, *args, fileno=fileno, **kwargs)

        socket.socket.__init__ = made  # type: ignore[method-assign]
        for name, value in list(vars(libc).items()):
            if (
                isinstance(value, FunctionType)
                and not name.startswith("_")
                and name not in _ASK_ONLY
                and value.__module__ == libc.__name__
            ):
                self.wrap(libc, name)


class _Written:
    """A file that is written. Flushing its buffer at the close may fail for lack of space."""

    def __init__(self, file: Any, plan: _Plan) -> None:
        self._file, self._plan = file, plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._plan.call("flush", self._file.flush)
        except OSError:
            nowhere = _memfd_create("nowhere")  # the rest of the buffer is discarded, as on a full disk
            _dup2(nowhere, self._file.fileno())
            _close(nowhere)
            raise
        finally:
            self._file.close()


def _callers() -> set[str]:
    """Return the names of the functions on the call stack."""
    names, frame = set(), sys._getframe()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


def _main(role: str, number: str, failure: str, arguments: Sequence[str]) -> int:
    plan = _Plan(role, int(number), failure)
    if arguments[:1] == ["--serve-fd"]:
        from unionfs import _libc, cli

        plan.role = "supervisor" if role == "server" else ""  # the supervisor
        output = open(os.environ["FAULTY_RECORD"] + ".server", "w", encoding="utf-8")  # noqa: SIM115 - by an id that may
        plan.install(_libc)
        status = cli.main(list(arguments))
        record: object = plan.record()["supervisor"]
    else:
        import sandbox.images.layer_store
        import sandbox.network.gated_network
        import sandbox.network.open_network
        import sandbox.runtime.supervisor  # noqa: F401 - what imports read of the disk is none of our calls
        from sandbox.cli.main import main
        from sandbox.kernel import _libc, netlink

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
        plan.wrap(netlink, "change")
        status = main(list(arguments))
        record = plan.record()
    plan.number = -1
    with output:
        json.dump(record, output)
    return status


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:4], sys.argv[4:]))
