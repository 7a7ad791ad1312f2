"""Run code of a forked process of the sandbox so that its failures become messages to the supervisor.

The module has no state. `stage1` and `init` call it, on both sides of the change of root, so it imports nothing inside functions.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from sandbox.errors import EXIT_FAILURE
from sandbox.runtime.messages import Channel, ChannelError, ExecFailed, ProgramEnded, SetupFailed
from sandbox.runtime.rootfs.executor import StepError
from unionfs._stdlib.typing import NoReturn, TypeVar

T = TypeVar("T")


def run_guarded(channel: Channel, action: Callable[[], int]) -> NoReturn:
    """Run *action* and exit with the status that it returns. If it raises, send the failure over *channel* and exit with 1."""
    status = EXIT_FAILURE
    try:
        status = action()
    except StepError as error:
        _report(channel, error.step, error.operation, error.error, error.hint)
    except OSError as error:
        _report(channel, "set-up", "set-up", error)
    except MemoryError:
        _report(channel, "set-up", "set-up", OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    except ChannelError:
        pass  # the supervisor has ended: there is no receiver
    except BaseException as error:  # noqa: BLE001 - a forked child must not run on in its parent's code
        send_quietly(channel, SetupFailed("internal error", "", 0, _locate(error), ""))
    finally:
        sys.stderr.flush()
        os._exit(status)


def _locate(error: BaseException) -> str:
    """Return *error* and its call stack on one line. The traceback module would be imported from the sandbox's files."""
    places = []
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{frame.tb_lineno} {code.co_name}")
        frame = frame.tb_next
    return f"{error!r} at {' > '.join(places)}"


def _report(channel: Channel, step: str, operation: str, error: OSError, hint: str = "") -> None:
    path = error.filename2 or error.filename or ""
    path = os.fsdecode(path) if isinstance(path, bytes | str) else str(path)
    send_quietly(
        channel, SetupFailed(step, operation, error.errno or 0, error.strerror or str(error), path, hint)
    )


def send_quietly(channel: Channel, message: SetupFailed | ExecFailed | ProgramEnded) -> None:
    """Send *message*; if the supervisor has ended, do nothing."""
    try:
        channel.send(message)
    except OSError:
        pass


def run_step(name: str, operation: str, action: Callable[[], T]) -> T:
    """Run *action*, the system call *operation* of the step *name*, and return its result.

    Raises:
        StepError: it raised OSError.
    """
    try:
        return action()
    except OSError as error:
        raise StepError(name, operation, error) from None
