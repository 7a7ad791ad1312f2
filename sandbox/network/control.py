"""The messages between the supervisor and `sandbox-net`: JSON on a SOCK_SEQPACKET pair.

The supervisor sends commands and receives events. The end of the socket is the end of the process: it closes all its ports then.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

from sandbox.network.names import Member
from unionfs._stdlib.dataclasses import asdict, dataclass

_MOST = 1 << 18


@dataclass(frozen=True, slots=True)
class Ready:
    """Event: everything works, and the process is confined.

    *ports* are those of the listeners of `NetworkRequest.forwards`. *children* are the pids of the children of the process, which
    were made before the launcher could move it to a cgroup.
    """

    ports: list[int]
    children: list[int]


@dataclass(frozen=True, slots=True)
class Refused:
    """Event: a refusal for the log, as `RefusalLine` has it. *total* counts all refusals so far, also those without a line."""

    destination: str
    reason: str
    remedy: str
    total: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Event: the answer to `RequestCounts`.

    *not_logged* are the refusals without a line because there were too many destinations, *above_limit* the connections that were
    reset because there were too many, *connections* those that exist now.
    """

    refused: int
    not_logged: int
    above_limit: int
    connections: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Event: the process cannot start, or must end; *operation* failed with *errno*. The end follows."""

    operation: str
    errno: int
    text: str


@dataclass(frozen=True, slots=True)
class SetMembers:
    """Command: replace the members of *network*: [name, address, [alias, ...]] each. At most some 2,000 fit into one message."""

    network: str
    members: list[list[object]]

    @classmethod
    def of(cls, network: str, members: Sequence[Member]) -> SetMembers:
        """Return the command for *members*."""
        return cls(network, [[one.name, one.address, list(one.aliases)] for one in members])

    def values(self) -> list[Member]:
        """Return the members."""
        return [
            Member(str(name), str(address), tuple(map(str, aliases)))  # type: ignore[call-overload]
            for name, address, aliases in self.members
        ]


@dataclass(frozen=True, slots=True)
class SetResolvers:
    """Command: forward queries to these *addresses* from now on."""

    addresses: list[str]


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Command: send `Counts`."""


Event = Ready | Refused | Counts | Failed
Command = SetMembers | SetResolvers | RequestCounts
_KINDS: dict[str, type[Event | Command]] = {
    kind.__name__: kind for kind in (Ready, Refused, Counts, Failed, SetMembers, SetResolvers, RequestCounts)
}


def send(channel: socket.socket, message: Event | Command, *, wait: bool = True) -> bool:
    """Send *message*; return whether it was sent. Without *wait* it is dropped if the other side does not read.

    Raises:
        OSError: EPIPE, ECONNRESET: the other side has ended; EMSGSIZE: the message is too long.
    """
    data = json.dumps([type(message).__name__, asdict(message)]).encode()
    try:
        channel.send(data, socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False
    return True


def receive(channel: socket.socket) -> Event | Command | None:
    """Return the next message; None if the other side has ended.

    Raises:
        OSError: EAGAIN: *channel* is not blocking, and there is no message.
        ValueError: the message is malformed.
    """
    for _ in range(2):
        try:
            data = channel.recv(_MOST)
        except ConnectionResetError:
            continue  # the other side left messages of ours unread; its own can still be received
        if not data:
            return None
        try:
            name, fields = json.loads(data)
            return _KINDS[name](**fields)
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"a malformed message: {error}") from None
    return None
