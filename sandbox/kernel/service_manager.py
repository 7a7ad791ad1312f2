"""Request a transient scope from systemd: a new cgroup for running processes; org.freedesktop.systemd1(5).

systemd removes the unit when its last process has ended. One time limit covers the whole exchange with the bus.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Sequence

from unionfs._stdlib.typing import Any, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from jeepney import Message

TIMEOUT = 25.0
"""Time limit of the exchange in seconds: the reply time-out of D-Bus. The exchange usually takes some hundredths."""

_MAX_UNIT = 255  # characters of a unit name with its suffix; systemd.unit(5)
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def scope_name(name: str) -> str:
    """Return the unit name of the scope for *name*; characters not allowed in unit names are escaped as by systemd-escape(1)."""
    escaped = "".join(
        letter if letter in _ALLOWED else "".join(f"\\x{byte:02x}" for byte in letter.encode())
        for letter in name
    )
    return escaped[: _MAX_UNIT - len(".scope")] + ".scope"


def start_scope(
    bus: str,
    unit: str,
    pids: Sequence[int],
    *,
    description: str,
    cpu_weight: int | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Have the service manager at the socket *bus* move *pids* into a new scope *unit*, and delegate it to us.

    *cpu_weight* is the CPUWeight of the scope, 1 to 10000; None for the default (systemd.resource-control(5)).

    Raises:
        OSError: ETIMEDOUT: no answer; EPROTO: the service manager refused, with its reason; or an error of the socket.
    """
    try:
        with _Bus(bus, timeout) as manager:
            manager.start_scope(unit, pids, description, cpu_weight)
    except TimeoutError:
        text = f"the service manager did not answer within {timeout:g} seconds"
        raise OSError(errno.ETIMEDOUT, text, bus) from None


class _Bus:
    """A connection to a message bus with a deadline. jeepney's own connection would wait for the first reply without a limit."""

    def __init__(self, path: str, timeout: float) -> None:
        from jeepney import Parser

        self._path = path
        self._deadline = time.monotonic() + timeout
        self._parser = Parser()
        self._serial = 0
        self._received: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> Self:
        try:
            self._connect()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def start_scope(self, unit: str, pids: Sequence[int], description: str, cpu_weight: int | None) -> None:
        from jeepney import DBusAddress, MatchRule, message_bus, new_method_call

        manager = DBusAddress(
            "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
        )
        rule = MatchRule(
            type="signal", sender=manager.bus_name, interface=manager.interface, member="JobRemoved"
        )
        self._call(message_bus.AddMatch(rule))
        # Without a subscription systemd sends no signals.
        self._call(new_method_call(manager, "Subscribe"))
        properties = [
            ("Description", ("s", description)),
            ("PIDs", ("au", list(pids))),
            ("Delegate", ("b", True)),
            # Remove the unit even after a failure.
            ("CollectMode", ("s", "inactive-or-failed")),
        ]
        if cpu_weight is not None:
            properties.append(("CPUWeight", ("t", cpu_weight)))
        request = new_method_call(
            manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", properties, [])
        )
        job = self._call(request)[0]
        removed = self._wait(lambda message: message.body[1:2] == (job,))
        result = removed.body[3]
        if result != "done":
            raise OSError(
                errno.EPROTO, f"the service manager could not start the scope {unit}: {result}", self._path
            )

    def _connect(self) -> None:
        from jeepney import message_bus
        from jeepney.auth import BEGIN, AuthenticationError, Authenticator

        self._patient().connect(self._path)
        conversation = Authenticator(enable_fds=False)
        try:
            for words in conversation:
                self._patient().sendall(words)
                conversation.feed(self._receive())
        except AuthenticationError as error:
            raise OSError(errno.EACCES, f"the bus rejects the authentication: {error}", self._path) from None
        self._patient().sendall(BEGIN)
        self._call(message_bus.Hello())

    def _patient(self) -> socket.socket:
        """Return the socket, with its time-out set to the remaining time."""
        self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        return self._socket

    def _receive(self) -> bytes:
        data = self._patient().recv(4096)
        if not data:
            raise OSError(errno.ECONNRESET, "the bus closed the connection", self._path)
        return data

    def _call(self, message: Message) -> tuple[Any, ...]:
        from jeepney import HeaderFields, MessageType

        self._serial += 1
        serial = self._serial
        self._patient().sendall(message.serialise(serial))
        reply = self._wait(lambda message: message.header.fields.get(HeaderFields.reply_serial) == serial)
        if reply.header.message_type is MessageType.error:
            name = reply.header.fields.get(HeaderFields.error_name, "an error")
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else name
            raise OSError(errno.EPROTO, f"the service manager refused: {text}", self._path)
        return tuple(reply.body)

    def _wait(self, wanted: Callable[[Message], bool]) -> Message:
        """Return the first message for which *wanted* is true. Keep the others: the signal may arrive before the reply."""
        while True:
            for message in self._received:
                if wanted(message):
                    self._received.remove(message)
                    return message
            while (message := self._parser.get_next_message()) is None:
                self._parser.add_data(self._receive())
            self._received.append(message)


def socket_problem(path: str) -> str | None:
    """Return why we cannot use the socket *path*, or None if we can. This does not connect to it."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return f"{path} is not a socket"
    except OSError as error:
        return f"{path}: {(error.strerror or str(error)).lower()}"
    return None if os.access(path, os.W_OK, effective_ids=True) else f"{path}: permission denied"
