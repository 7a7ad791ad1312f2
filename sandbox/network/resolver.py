"""Resolves names with getaddrinfo(3) in a process of its own, which may read files, with many names at once.

A thread of that process waits for each name, so a slow name delays no other. Only names that a rule allows are sent to it. It takes
a name as it is: search domains of the host do not apply, because a rule is for exactly one name.
"""

from __future__ import annotations

import _thread
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from sandbox.network.addresses import pack
from sandbox.network.event_loop import IN, Deadlines, EventLoop

RESOLVE_SECONDS = 10.0
"""Seconds for one name, after which its connections fail."""

MOST_AT_ONCE = 64
"""Names that are resolved at the same time. Further ones wait for one of these."""

MOST_WAITING = 2000
"""Requests that wait, as many as there are connections at once. A program that aborts connections leaves their requests behind."""

_STACK = 512 * 1024
_NUMBER = struct.Struct("=Q")
_MOST_ADDRESSES = 32
_MESSAGE = 4096

OnResolved = Callable[[list[bytes]], None]
"""Receives the addresses in the order of preference (RFC 6724); none if the name has none or there was no answer in time."""


def serve_names(channel: socket.socket) -> None:
    """Answer the requests on *channel* until the other end is closed. The process does nothing else.

    The search list of resolv.conf(5) is replaced by the root.
    """
    os.environ["LOCALDOMAIN"] = "."
    _thread.stack_size(_STACK)
    while request := channel.recv(_MESSAGE):
        try:
            _thread.start_new_thread(_resolve, (channel, request))
        except RuntimeError:  # no further thread can be made
            _resolve(channel, request)


def _resolve(channel: socket.socket, request: bytes) -> None:
    number, name = request[: _NUMBER.size], request[_NUMBER.size :]
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        addresses = [pack(str(entry[4][0])) for entry in found if "%" not in str(entry[4][0])]
    except (OSError, UnicodeError, ValueError):
        addresses = []
    parts = [bytes((len(address),)) + address for address in addresses[:_MOST_ADDRESSES]]
    try:
        channel.send(number + b"".join(parts), socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the network process has ended


class Resolver:
    """The side of the network process: sends names, and passes on the answers. Owns *channel*."""

    def __init__(self, loop: EventLoop, channel: socket.socket, on_end: Callable[[], None]) -> None:
        """Send requests on *channel*, a SOCK_SEQPACKET pair with :func:`serve_names`; call *on_end* if that has ended."""
        channel.settimeout(0)
        self._channel = channel
        self._on_end = on_end
        self._next = 0
        self._pending: dict[int, OnResolved] = {}
        self._waiting: deque[tuple[int, str]] = deque()
        self._busy: set[int] = set()
        self._deadlines: Deadlines[int] = loop.add_deadlines(Deadlines(RESOLVE_SECONDS, self._time_out))
        loop.add(channel.fileno(), IN, self._on_event)

    def resolve(self, name: str, on_resolved: OnResolved) -> None:
        """Resolve the ASCII *name* and call *on_resolved* later; at once, without addresses, if `MOST_WAITING` requests wait."""
        if len(self._waiting) >= MOST_WAITING:
            on_resolved([])
            return
        self._next += 1
        self._pending[self._next] = on_resolved
        self._deadlines.renew(self._next)
        self._waiting.append((self._next, name))
        self._send()

    def _send(self) -> None:
        while self._waiting and len(self._busy) < MOST_AT_ONCE:
            number, name = self._waiting[0]
            if number in self._pending:
                try:
                    self._channel.send(_NUMBER.pack(number) + name.encode("ascii"), socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    return  # the process takes the next request after one of those that it has
                except OSError as error:
                    if error.errno in (errno.EPIPE, errno.ECONNRESET):
                        self._on_end()
                    return
                self._busy.add(number)
            self._waiting.popleft()

    def _on_event(self, _events: int) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                message = self._channel.recv(_MESSAGE)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if not message:
                self._on_end()
                return
            self._receive(message)
        self._send()

    def _receive(self, message: bytes) -> None:
        (number,) = _NUMBER.unpack_from(message)
        self._busy.discard(number)
        on_resolved = self._pending.pop(number, None)
        self._deadlines.discard(number)
        if on_resolved is None:
            return
        addresses, at = [], _NUMBER.size
        while at < len(message):
            end = at + 1 + message[at]
            addresses.append(message[at + 1 : end])
            at = end
        on_resolved(addresses)

    def _time_out(self, number: int) -> None:
        # The thread still waits for this name, so the number stays in _busy.
        self._pending.pop(number)([])
