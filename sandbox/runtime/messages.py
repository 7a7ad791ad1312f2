"""Define the messages between the processes of one sandbox, and the channel that carries them.

A channel is one end of a SOCK_SEQPACKET pair. A message is JSON, with descriptors beside it (SCM_RIGHTS) if it is about any.
It is split into packets small enough for any socket buffer; the first byte of each says whether more follow. The set of
messages is closed: an unexpected message raises :class:`ChannelError`, which names the expected one.
The docstring of each message begins with its sender.
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
    """stage1: the user namespace is created; write its maps."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """supervisor: the maps are written, and stage1 is in the cgroup."""


@dataclass(frozen=True, slots=True)
class NetworkCreated:
    """stage1: the network namespace is created; the descriptor beside this message is a netlink socket of it."""


@dataclass(frozen=True, slots=True)
class NetworkConnected:
    """supervisor: no other process needs the namespaces of stage1 any more."""


@dataclass(frozen=True, slots=True)
class InitStarted:
    """stage1: process 1 of the sandbox is *pid* in the supervisor's pid namespace.

    *namespaces* are the kinds of the namespace descriptors beside this message, in the same order.
    """

    pid: int
    namespaces: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Adopted:
    """supervisor: process 1 is a child of the supervisor now; go on. *measure* requests the figures of the report."""

    measure: bool = False


@dataclass(frozen=True, slots=True)
class CgroupNamespace:
    """init: the descriptor beside this message is its cgroup namespace."""


@dataclass(frozen=True, slots=True)
class FuseMounted:
    """init: the root is mounted; serve the FUSE descriptor beside this message. Init closes its own copy at once.

    *at* is the time in nanoseconds on the clock of `timeline`; 0 if unknown.
    """

    at: int = 0


@dataclass(frozen=True, slots=True)
class RootBound:
    """init: the root is mounted as a direct bind, so no server is needed. *at* as in FuseMounted."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class HostsShown:
    """init: /etc/hosts is mounted; the descriptor beside this message reads and writes the file, to which members are to be added."""


@dataclass(frozen=True, slots=True)
class TerminalOpened:
    """init: the descriptor beside this message is the master side of the program's pseudo-terminal."""


@dataclass(frozen=True, slots=True)
class SeccompListener:
    """the program's process: the descriptor beside this message reports the system calls that the filter denies."""


@dataclass(frozen=True, slots=True)
class SignalsReady:
    """init: signals are recorded from now on, and forwarded to the program once it exists. *at* as in FuseMounted."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """supervisor: execute the program."""


@dataclass(frozen=True, slots=True)
class Started:
    """init: the program was executed. *at* as in FuseMounted."""

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

    *left_over* is the number of processes still running, None if not counted. *memory* is the peak memory of init in bytes.
    """

    code: int
    out_of_time: str = ""
    left_over: int | None = None
    memory: int = 0


Message = (
    Unshared
    | Mapped
    | NetworkCreated
    | NetworkConnected
    | InitStarted
    | Adopted
    | CgroupNamespace
    | FuseMounted
    | RootBound
    | HostsShown
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
        NetworkCreated,
        NetworkConnected,
        InitStarted,
        Adopted,
        CgroupNamespace,
        FuseMounted,
        RootBound,
        HostsShown,
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
    """The peer sent an unexpected message, or closed its end."""


class Channel:
    """One end of the connection. Owns the socket, and received descriptors until the caller takes them."""

    def __init__(self, end: socket.socket) -> None:
        """Take ownership of *end*."""
        self._socket = end
        self._received_fds: list[int] = []

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Create both ends, close-on-exec as all descriptors that Python creates."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(one), Channel(other)

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket, and each received descriptor that was not taken."""
        for fd in self._received_fds:
            os.close(fd)
        self._received_fds = []
        self._socket.close()

    def send(self, message: Message, *fds: int) -> None:
        """Send *message* with *fds* beside it.

        Raises:
            OSError: EPIPE: the peer has closed its end.
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
        """Wait for a message and return it; None if the peer has closed its end.

        Raises:
            OSError: EMFILE: no descriptor was free for one beside the message.
        """
        text = b""
        more = True
        while more:
            packet, fds, flags, _ = self._receive_packet()
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

    def _receive_packet(self) -> tuple[bytes, list[int], int, object]:
        try:
            return socket.recv_fds(self._socket, _MAX_PACKET, _MAX_FDS)
        except ConnectionResetError:
            # The other side has ended with a message of ours unread. That is reported once, before the messages it sent.
            return socket.recv_fds(self._socket, _MAX_PACKET, _MAX_FDS)

    def take_fd(self) -> int:
        """Return the next descriptor that was received with a message; the caller closes it."""
        if not self._received_fds:
            raise ChannelError("a message came without its descriptor")
        return self._received_fds.pop(0)

    def expect(self, kind: type[M]) -> M:
        """Wait for a message of *kind* and return it.

        Raises:
            ChannelError: another message was received, or the peer closed its end.
        """
        message = self.receive()
        if not isinstance(message, kind):
            received = "the end" if message is None else type(message).__name__
            raise ChannelError(f"expected {kind.__name__}, received {received}")
        return message
