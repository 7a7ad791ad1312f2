"""Runs calls in forked children and deeper namespaces, and returns their errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from sandbox.kernel import filesystems, namespaces, process
from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo

O_DIR = os.O_PATH | os.O_DIRECTORY


def refusal(call: Callable[..., object], *arguments: object, **keywords: object) -> str | None:
    """Return the name of the errno with which *call* fails; None if it succeeds."""
    try:
        call(*arguments, **keywords)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def fork_and_run(function: Callable[[], bool]) -> int:
    """Run *function* in a forked child and return its pid. The exit status is 0 for a true result, 1 for a false one."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            status = 0 if function() else 1
        finally:
            os._exit(status)
    return pid


def in_child(function: Callable[[], bool]) -> int:
    """Return the exit status of :func:`fork_and_run`."""
    return os.waitstatus_to_exitcode(os.waitpid(fork_and_run(function), 0)[1])


def entry_at(path: str) -> MountEntry:
    """Return the topmost mount at *path*."""
    with open("/proc/self/mountinfo") as file:
        return [entry for entry in parse_mountinfo(file.read()) if entry.mount_point == path][-1]


def enter_deeper_namespaces() -> None:
    """Enter a user and mount namespace below the present one. The present mounts then come from a more privileged one."""
    process.set_dumpable(True)  # after the change of ids, /proc/self belongs to root
    namespaces.unshare(["user", "mount"])
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def tmpfs(path: str, **options: Any) -> None:
    fd = os.open(path, O_DIR)
    filesystems.mount_tmpfs(fd, **options)
    os.close(fd)


def touch(path: str) -> None:
    with open(path, "w"):
        pass
