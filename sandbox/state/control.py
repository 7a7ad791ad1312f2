"""The control socket of a running sandbox, over which commands of the same user ask its supervisor: protocol and client.

    RUN/run/ID/control    a SOCK_SEQPACKET socket, mode 0600, beside the lock of the run (sandbox/state/directory.py)

A request is one packet of JSON, with descriptors (SCM_RIGHTS); so is the answer, without descriptors::

    {"version": 1, "request": "stamp"}                                                  -> {"stamp": N}
    {"version": 1, "request": "link"} and a memfd                                       -> {"linked": N, "more": BOOL}
    {"version": 1, "request": "freeze", "searched": N, "directory": D} and upper, work  -> {"layers": [DIRECTORY, ...]}

Every answer has ``version``. One that has ``error``, a text, means that the request failed; it may have ``errno``, a name. The
three requests are those of the file system's server (unionfs/launch/protocol.py), for a snapshot. ``directory`` is the directory of
the next writable layer, whose upper and work directory are passed; ``layers`` are then the earlier layers, bottom first.

The supervisor answers a request of another version with an error. Only the owner of the sandbox and root are answered.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sandbox.errors import StateError
from unionfs._stdlib.typing import Any

NAME = "control"
VERSION = 1
MAX_PACKET = 1 << 16
"""The most bytes of a request or an answer."""
_PATIENCE = 60.0
"""Seconds to wait for an answer."""
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ControlError(StateError):
    """The supervisor refused a request, or the file system's server did."""

    def __init__(self, message: str, errno_name: str | None) -> None:
        """Describe the failure; *errno_name* is that of the server's errno ("EBUSY"), if it was one."""
        super().__init__(message)
        self.errno_name = errno_name


class NoAnswerError(StateError):
    """The supervisor has not answered. Whether it has executed the request is not known."""


class ControlClient:
    """A connection to the supervisor of the sandbox *name*. :func:`connect` opens and closes it."""

    def __init__(self, channel: socket.socket, name: str) -> None:
        """Ask over *channel*."""
        self._channel = channel
        self._name = name

    def ask(self, request: str, fds: Sequence[int] = (), **more: object) -> Mapping[str, Any]:
        """Send *request* with the descriptors *fds*, and return the answer.

        Raises:
            ControlError: it failed.
            NoAnswerError: the sandbox has ended meanwhile, or its supervisor does not answer.
        """
        message = {"version": VERSION, "request": request, **more}
        try:
            socket.send_fds(self._channel, [json.dumps(message).encode()], fds, socket.MSG_NOSIGNAL)
            packet = self._channel.recv(MAX_PACKET)
        except TimeoutError:
            raise NoAnswerError(
                f"the supervisor of sandbox {self._name} does not answer", hint="is it stopped (SIGSTOP)?"
            ) from None
        except OSError:
            packet = b""
        if not packet:
            raise NoAnswerError(f"sandbox {self._name} has ended meanwhile", hint="run the command again")
        answer = json.loads(packet)
        if "error" in answer:
            raise ControlError(str(answer["error"]), answer.get("errno"))
        assert isinstance(answer, dict)
        return answer


@contextmanager
def connect(run_directory: str, name: str) -> Iterator[ControlClient]:
    """Connect to the supervisor of the sandbox *name*, whose run has the directory *run_directory*.

    Raises:
        StateError: nothing listens there.
    """
    try:
        directory = os.open(run_directory, _OPEN_DIR)
        try:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                channel.settimeout(_PATIENCE)
                # sockaddr_un has room for 107 bytes, and the run directory may have a longer path.
                channel.connect(f"/proc/self/fd/{directory}/{NAME}")
            except BaseException:
                channel.close()
                raise
        finally:
            os.close(directory)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StateError(
            f"the supervisor of sandbox {name} cannot be reached: {reason}",
            hint="was it started by an older version of sandbox? End it, and start it again",
        ) from None
    with channel:
        yield ControlClient(channel, name)
