"""What the tests of this directory share."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable


def refusal(call: Callable[..., object], *arguments: object, **keywords: object) -> str | None:
    """Return the name of the errno that *call* fails with, None if it does not."""
    try:
        call(*arguments, **keywords)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def fork_and_run(function: Callable[[], bool]) -> int:
    """Run *function* in a forked child, whose exit status is 0 for a true result, 1 for a false one; return its pid."""
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
