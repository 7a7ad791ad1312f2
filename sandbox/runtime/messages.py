"""Everything that the processes of one sandbox may say to each other, and the channel that carries it.

A channel is one end of a SOCK_SEQPACKET pair: a message is JSON, with descriptors beside it where the message is about
one. It is cut into packets that any socket buffer takes; the first byte of each says whether more follow. The set of
messages is closed: what is not expected at some point is a :class:`ChannelError` that says what was.
"""

from __future__ import annotations

import errno
import json
import os
import socket

from unionfs._stdlib.dataclasses import asdict, dataclass, field
from unionfs._stdlib.typing import TypeVar

_MAX_PACKET = 1 << 14
_MORE, _LAST = b"+", b"."
_MAX_FDS = 8  # one for each kind of namespace


@dataclass(frozen=True, slots=True)
class Unshared:
    """stage1: the user namespace is made; write its maps."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """supervisor: the maps are written, the cgroup is joined."""


@dataclass(frozen=True, slots=True)
class InitStarted:
    """stage1: process 1 of the sandbox is *pid* (in the supervisor's numbers); the descriptors beside this message are its
    *namespaces*.
    """

    pid: int
    namespaces: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Adopted:
    """supervisor: process 1 is my child now; go on, and *measure* what there is to report."""

    measure: bool = False


@dataclass(frozen=True, slots=True)
class CgroupNamespace:
    """init: the descriptor beside this message is its cgroup namespace."""


@dataclass(frozen=True, slots=True)
class FuseMounted:
    """init: the root is mounted; serve the descriptor beside this message. It closes its copy at once.

    *at* is when: nanoseconds of the clock of `timeline`; 0, untold.
    """

    at: int = 0


@dataclass(frozen=True, slots=True)
class RootBound:
    """init: the root is mounted, and there is nothing to serve. *at* as in FuseMounted."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class TerminalOpened:
    """init: the descriptor beside this message is the outer end of the program's terminal."""


@dataclass(frozen=True, slots=True)
class SeccompListener:
    """the program's process: the descriptor beside this message tells the calls that the filter denies."""


@dataclass(frozen=True, slots=True)
class SignalsReady:
    """init: signals are noted from now on, and passed on to the program once it is executed, after Start. *at* as in FuseMounted."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """supervisor: execute the program."""


@dataclass(frozen=True, slots=True)
class Started:
    """init: the program has been executed. *at* as in FuseMounted."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """stage1, init: *step* failed; *operation* and *errno* are a key of the advice table."""

    step: str
    operation: str
    errno: int
    text: str
    path: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ExecFailed:
    """init: the program *command* could not be executed."""

    command: str
    errno: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ProgramEnded:
    """init: the program ended with the exit status *code*, or by signal -*code*; *out_of_time* is `Children.out_of_time`.

    *left_over* processes were there still, None where that was not counted; *memory* are the most bytes that init itself has had.
    """

    code: int
    out_of_time: str = ""
    left_over: int | None = None
    memory: int = 0


Message = (
    Unshared
    | Mapped
    | InitStarted
    | Adopted
    | CgroupNamespace
    | FuseMounted
    | RootBound
    | TerminalOpened
    | SeccompListener
    | SignalsReady
    | Start
    | Started
    | SetupFailed
    | ExecFailed
    | ProgramEnded
)

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Unshared,
        Mapped,
        InitStarted,
        Adopted,
        CgroupNamespace,
        FuseMounted,
        RootBound,
        TerminalOpened,
        SeccompListener,
        SignalsReady,
        Start,
        Started,
        SetupFailed,
        ExecFailed,
        ProgramEnded,
    )
}

M = TypeVar("M")


class ChannelError(Exception):
    """The other side said something else than it should have, or went away."""


class Channel:
    """One end of the conversation."""

    def __init__(self, end: socket.socket) -> None:
        """Take over *end*."""
        self._socket = end
        self._received_fds: list[int] = []

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Make both ends; close-on-exec, as all descriptors of Python are."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(one), Channel(other)

    def fileno(self) -> int:
        """Return the descriptor, to poll on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end and what was received and not taken."""
        for fd in self._received_fds:
            os.close(fd)
        self._received_fds = []
        self._socket.close()

    def send(self, message: Message, *fds: int) -> None:
        """Send *message* with *fds* beside it.

        Raises:
            OSError: EPIPE, the other side is gone.
        """
        text = json.dumps([type(message).__name__, asdict(message)]).encode()
        size = _MAX_PACKET - 1
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        for number, piece in enumerate(pieces, 1):
            packet = (_LAST if number == len(pieces) else _MORE) + piece
            if fds and number == 1:
                socket.send_fds(self._socket, [packet], list(fds), socket.MSG_NOSIGNAL)
            else:
                self._socket.send(packet, socket.MSG_NOSIGNAL)

    def receive(self) -> Message | None:
        """Wait for a message; None when the other side is gone.

        Raises:
            OSError: EMFILE, there was no room for a descriptor beside it.
        """
        text = b""
        more = True
        while more:
            packet, fds, flags, _ = socket.recv_fds(self._socket, _MAX_PACKET, _MAX_FDS)
            for fd in fds:
                os.set_inheritable(fd, False)
            self._received_fds += fds
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if not packet:
                return None
            text += packet[1:]
            more = packet[:1] == _MORE
        name, fields = json.loads(text)
        return _KINDS[name](**fields)

    def take_fd(self) -> int:
        """Return the descriptor that came beside the last message; the caller closes it."""
        if not self._received_fds:
            raise ChannelError("a message came without its descriptor")
        return self._received_fds.pop(0)

    def expect(self, kind: type[M]) -> M:
        """Wait for a message of *kind*.

        Raises:
            ChannelError: another one came, or the other side went away.
        """
        message = self.receive()
        if not isinstance(message, kind):
            received = "the end" if message is None else type(message).__name__
            raise ChannelError(f"expected {kind.__name__}, received {received}")
        return message
