"""A simulated service manager behind a socket: the parts of D-Bus and systemd that creating a scope needs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    Parser,
    new_error,
    new_method_return,
    new_signal,
)

_MANAGER = DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
)
_JOB = "/org/freedesktop/systemd1/job/7"


class Bus:
    """Answer one connection; *calls* are the methods that were called, with their arguments.

    *result* is the result of the scope's job; *refusal* is an error text instead; from the method *silent_from* on,
    there are no replies; with *early*, the end of the job is signalled before the reply.
    """

    def __init__(
        self, *, result: str = "done", refusal: str = "", silent_from: str = "", early: bool = False
    ) -> None:
        self.result = result
        self.refusal = refusal
        self.silent_from = silent_from
        self.early = early
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._serial = 0

    @contextmanager
    def listening(self, path: str) -> Iterator[None]:
        """Answer on the socket *path*."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            thread.start()
            yield
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)

    def _serve(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            try:
                self._talk(connection)
            except ConnectionError:
                pass

    def _talk(self, connection: socket.socket) -> None:
        if self.silent_from == "AUTH":
            connection.recv(4096)
            while connection.recv(4096):
                pass
            return
        text, answered = b"", False
        while b"BEGIN\r\n" not in text:
            data = connection.recv(4096)
            if not data:
                return
            text += data
            if not answered and text.endswith(b"\r\n"):
                connection.sendall(b"OK 0123456789abcdef\r\n")
                answered = True
        parser = Parser()
        data = text.partition(b"BEGIN\r\n")[2]
        while data or (data := connection.recv(65536)):
            parser.add_data(data)
            data = b""
            while (message := parser.get_next_message()) is not None:
                self._answer(connection, message)

    def _answer(self, connection: socket.socket, message: Message) -> None:
        assert message.header.message_type is MessageType.method_call
        member = message.header.fields[HeaderFields.member]
        self.calls.append((member, message.body))
        if self.silent_from in [name for name, _ in self.calls]:
            return
        if member == "StartTransientUnit" and self.refusal:
            name = "org.freedesktop.systemd1.UnitExists"
            self._send(connection, new_error(message, name, "s", (self.refusal,)))
            return
        reply = {
            "Hello": new_method_return(message, "s", (":1.7",)),
            "StartTransientUnit": new_method_return(message, "o", (_JOB,)),
        }.get(member, new_method_return(message))
        told = []
        if member == "StartTransientUnit":
            unit = message.body[0]
            # The end of another job is signalled, too.
            for job, result in (("/org/freedesktop/systemd1/job/6", "failed"), (_JOB, self.result)):
                told.append(new_signal(_MANAGER, "JobRemoved", "uoss", (7, job, unit, result)))
        for each in [*told, reply] if self.early else [reply, *told]:
            self._send(connection, each)

    def _send(self, connection: socket.socket, message: Message) -> None:
        self._serial += 1
        connection.sendall(message.serialise(self._serial))
