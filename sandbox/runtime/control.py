"""The supervisor's end of the control socket (sandbox/state/control.py): accepts clients, and passes requests to the server.

It belongs to the poll loop of :mod:`sandbox.runtime.monitor`, and never waits: a client that sends nothing or reads nothing
delays no other.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from sandbox.state.control import MAX_PACKET, NAME, VERSION
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

#: The most clients that are connected at the same time.
MOST_CLIENTS = 64
_MOST_DESCRIPTORS = 2
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)


class RequestError(Exception):
    """A request cannot be executed; its text is for the client."""

    def __init__(self, message: str, errno_name: str | None = None) -> None:
        """Describe the failure."""
        super().__init__(message)
        self.errno_name = errno_name


@dataclass(slots=True)
class Request:
    """One request of a client, with its descriptors, which :meth:`close` closes."""

    client: socket.socket
    name: str
    message: dict[str, Any]
    fds: list[int]

    def close(self) -> None:
        """Close the descriptors."""
        while self.fds:
            os.close(self.fds.pop())


class ControlSocket:
    """The listening socket, its clients, and their requests, which are executed one after the other.

    The supervisor creates and closes it. *begin* starts to execute a request, and raises RequestError if it cannot;
    :meth:`finish` tells the result.
    """

    def __init__(self, directory: str, begin: Callable[[Request], None]) -> None:
        """Listen in *directory*.

        Raises:
            OSError: the socket cannot be created.
        """
        self._begin = begin
        self._clients: dict[int, socket.socket] = {}
        self._waiting: deque[Request] = deque()
        #: The request that is being executed.
        self.current: Request | None = None
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            before = os.umask(0o177)
            try:
                self._listener.bind(f"/proc/self/fd/{fd}/{NAME}")
            finally:
                os.umask(before)
                os.close(fd)
            self._listener.listen(MOST_CLIENTS)
        except BaseException:
            self._listener.close()
            raise

    def close(self) -> None:
        """Close all sockets, and the descriptors of all requests."""
        self._listener.close()
        for client in self._clients.values():
            client.close()
        for request in (*self._waiting, *([self.current] if self.current is not None else [])):
            request.close()
        self._clients.clear()
        self._waiting.clear()
        self.current = None

    def interest(self) -> dict[int, int]:
        """Return the descriptors to poll, and the events."""
        fds = [*self._clients]
        if len(self._clients) < MOST_CLIENTS:
            fds.append(self._listener.fileno())
        return dict.fromkeys(fds, select.POLLIN)

    def handle(self, fd: int) -> None:
        """Handle *fd*, one of :meth:`interest`, which can be read."""
        if fd == self._listener.fileno():
            self._accept()
        elif fd in self._clients:
            self._receive(self._clients[fd])

    def finish(self, answer: dict[str, Any]) -> None:
        """Send *answer* to the client of the current request, and begin the next one."""
        request, self.current = self.current, None
        if request is not None:
            self._answer(request, answer)
        self._advance()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # the client has gone, or no descriptor is free
        _, uid, _ = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, os.geteuid()):
            client.close()
            return
        client.settimeout(0)
        self._clients[client.fileno()] = client

    def _drop(self, client: socket.socket) -> None:
        if client.fileno() >= 0:
            self._clients.pop(client.fileno(), None)
            client.close()

    def _receive(self, client: socket.socket) -> None:
        fds: list[int] = []
        try:
            packet, fds, flags, _ = socket.recv_fds(
                client, MAX_PACKET, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            packet = b""
            flags = 0
        request = Request(client, "", {}, fds)
        if not packet or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            request.close()
            self._drop(client)
            return
        try:
            request.message = json.loads(packet)
            if request.message["version"] != VERSION:
                raise RequestError(
                    f"the command uses version {request.message['version']} of the control protocol, and this sandbox {VERSION}"
                )
            request.name = str(request.message["request"])
        except RequestError as error:
            self._answer(request, {"error": str(error)})
            return
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            self._answer(request, {"error": f"malformed request: {error!r}"})
            return
        self._waiting.append(request)
        self._advance()

    def _advance(self) -> None:
        """Begin the next request, unless one is being executed."""
        while self.current is None and self._waiting:
            self.current = request = self._waiting.popleft()
            try:
                self._begin(request)
            except RequestError as error:
                self.current = None
                self._answer(request, {"error": str(error), "errno": error.errno_name})

    def _answer(self, request: Request, answer: dict[str, Any]) -> None:
        """Send *answer*. A client that does not read its answers is dropped."""
        request.close()
        with suppress(OSError):
            request.client.send(json.dumps({"version": VERSION, **answer}).encode(), socket.MSG_NOSIGNAL)
            return
        self._drop(request.client)
