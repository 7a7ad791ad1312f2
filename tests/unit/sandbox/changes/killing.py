"""Kills a process at one of its system calls."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from sandbox.changes import directory_calls, host_tree
from sandbox.kernel import trees

#: Functions that change a file system, by the module in which the code under test finds them.
CALLS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        os,
        (
            *("open", "mkdir", "symlink", "mkfifo", "mknod", "link", "unlink", "rmdir", "rename"),
            *("chmod", "chown", "utime", "setxattr", "removexattr", "pwrite", "ftruncate", "fsync"),
        ),
    ),
    (directory_calls, ("exchange_at", "rename_to_new_name")),
    (host_tree, ("synchronize_file_system",)),
)
assert directory_calls.exchange_at is trees.exchange_at


def killed_at(call: Callable[[], object], position: int) -> bool:
    """Run *call* in a child process that is killed before its system call number *position*; return whether it was."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            _arm(position)
            call()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not return
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _arm(position: int) -> None:
    left = position

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return function(*args, **named)

        return wrapper

    for module, names in CALLS:
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
