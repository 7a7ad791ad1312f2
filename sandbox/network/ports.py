"""Choose free ports of the host, and check before a start that the requested ones are free."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

from sandbox.errors import SetupError
from sandbox.network.socket_maker import SocketSpec, open_socket
from sandbox.spec.values.addresses import Port, singles
from unionfs._stdlib.dataclasses import dataclass, replace

_FIRST_ORDINARY_PORT = "net/ipv4/ip_unprivileged_port_start"
_LISTENING = {
    "tcp": "0A",
    "udp": "07",
}  # TCP_LISTEN; an unconnected UDP socket has the number of TCP_CLOSE (net/tcp_states.h)


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that has a port."""

    pid: int
    #: The name of its program.
    name: str

    def __str__(self) -> str:
        """Return the process for a message."""
        return f"{self.name} (pid {self.pid})"


def claim(
    ports: Sequence[Port], sandbox_with: Callable[[Port], str | None], *, proc_root: str = "/proc"
) -> tuple[Port, ...]:
    """Return *ports* with a free port of the host in place of each 0. Nothing listens on them when the function returns.

    Arguments and exceptions as of :func:`listen`.
    """
    claimed = []
    for number, port in enumerate(ports):
        opened = listen([port], sandbox_with, first=number, proc_root=proc_root)
        for _, one in opened:
            one.close()
        claimed.append(port if port.host else opened[0][0])
    return tuple(claimed)


def listen(
    ports: Sequence[Port],
    sandbox_with: Callable[[Port], str | None],
    *,
    first: int = 0,
    proc_root: str = "/proc",
) -> list[tuple[Port, socket.socket]]:
    """Listen on *ports*, and return each single port with its socket, which the caller closes.

    Args:
        ports: the requested ports; 0 of the host is any free port.
        sandbox_with: returns the name of the sandbox that has a port; None if none has it.
        first: the number of the first of *ports* in network.ports.
        proc_root: the path of procfs.

    Raises:
        SetupError: a port is in use, or this user may not listen on it. The message names the process that has it.
    """
    found: list[tuple[Port, socket.socket]] = []
    try:
        for number, port in enumerate(ports, first):
            for single in singles(port):
                try:
                    one = open_socket(SocketSpec(port.protocol, port.address, single.host))
                except OSError as error:
                    raise _failure(
                        f"network.ports[{number}]", single, error, sandbox_with, proc_root
                    ) from None
                found.append((replace(single, host=one.getsockname()[1]), one))
    except BaseException:
        for _, one in found:
            one.close()
        raise
    return found


def _failure(
    step: str, port: Port, error: OSError, sandbox_with: Callable[[Port], str | None], proc_root: str
) -> SetupError:
    address, protocol = port.address, port.protocol
    shown = f"port {port.host}/{protocol} of {address}"
    number = error.errno
    if number == errno.EADDRINUSE:
        sandbox = sandbox_with(port)
        listener = find_listener(address, port.host, protocol, proc_root=proc_root)
        whose = "a process of another user"
        if sandbox is not None:
            whose = f"the sandbox {sandbox}"
        elif listener is not None:
            whose = str(listener)
        return SetupError(step, f"{shown} is in use by {whose}", hint="end it, or choose another port")
    if number == errno.EACCES:
        first = _read(f"{proc_root}/sys/{_FIRST_ORDINARY_PORT}").strip() or "1024"
        name = _FIRST_ORDINARY_PORT.replace("/", ".")
        hint = f"choose a port from {first} on, or as root: sysctl {name}={port.host} (it is {first})"
        return SetupError(step, f"an ordinary user may not listen on {shown}", hint=hint)
    if number == errno.EADDRNOTAVAIL:
        hint = "name an address of this machine (`ip address` lists them), or 0.0.0.0 for all"
        return SetupError(step, f"{address} is not an address of this machine", hint=hint)
    return SetupError.from_os_error(f"{step}: {shown}", "bind", error)


def find_listener(address: str, port: int, protocol: str, *, proc_root: str = "/proc") -> Listener | None:
    """Return the process that listens on *port* of *address* or of all addresses; None if no process that we may inspect does."""
    inodes = set(_listening_inodes(address, port, protocol, proc_root))
    for entry in os.listdir(proc_root) if inodes else ():
        if entry.isdecimal() and inodes & set(_sockets(f"{proc_root}/{entry}/fd")):
            return Listener(int(entry), _read(f"{proc_root}/{entry}/comm").strip())
    return None


def _listening_inodes(address: str, port: int, protocol: str, proc_root: str) -> Iterator[str]:
    """Yield the inodes of the sockets on *port* that prevent another one on *address*; proc_pid_net(5)."""
    for suffix, family in (("", socket.AF_INET), ("6", socket.AF_INET6)):
        for line in _read(f"{proc_root}/net/{protocol}{suffix}").splitlines()[1:]:
            fields = line.split()
            place, _, number = fields[1].rpartition(":")
            if int(number, 16) != port or fields[3] != _LISTENING[protocol]:
                continue
            found = _address(place, family)
            if address in ("0.0.0.0", "::") or found in (address, "0.0.0.0", "::", f"::ffff:{address}"):
                yield f"socket:[{fields[9]}]"


def _address(text: str, family: int) -> str:
    """Return the address in *text*: hexadecimal words of 32 bits in the byte order of the machine."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    return socket.inet_ntop(family, b"".join(word.to_bytes(4, sys.byteorder) for word in words))


def _sockets(directory: str) -> Iterator[str]:
    try:
        for name in os.listdir(directory):
            yield os.readlink(f"{directory}/{name}")
    except OSError:
        return  # a process of another user, or one that has ended


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
