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


def in_child(function: Callable[[], bool]) -> int:
    """Run *function* in a forked child and return its exit status: 0 for a true result, 1 for a false one."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            status = 0 if function() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
