"""Makes sockets inside a network namespace in which no process of ours stays.

A socket belongs for good to the network namespace in which it was made. :func:`make_sockets` makes listeners and the like in a
child that ends at once. For connections *into* the namespace, :func:`serve_sockets` runs in a child that stays there and makes
sockets on demand; :class:`SocketPool` is the other side of it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from sandbox.kernel import namespaces
from sandbox.network.event_loop import IN, EventLoop
from sandbox.network.packet_filter import attach_refusal_filter
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal, NoReturn

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_IPV6_FREEBIND = 78
_ETH_P_ALL = 3
_BACKLOG = 1024
_MOST_DESCRIPTORS = 128  # the kernel passes at most 253 beside one message (SCM_MAX_FD)

Kind = Literal["tcp", "udp", "observer"]


@dataclass(frozen=True, slots=True)
class SocketSpec:
    """A socket to make: a TCP listener or a UDP socket at *address* and *port*, or an observer of the interface *address*.

    An observer is a packet socket that receives the packets of `packet_filter`; *port* is 0 for it. Port 0 of the others is a free
    port, which getsockname(2) returns.
    """

    kind: Kind
    address: str
    port: int = 0


def open_socket(spec: SocketSpec) -> socket.socket:
    """Make the socket *spec* in the network namespace of this process. It is not blocking.

    Raises:
        OSError: EADDRINUSE: the port is in use; EACCES: it is below net.ipv4.ip_unprivileged_port_start; EADDRNOTAVAIL: no
            interface has the address; EPERM for an observer without CAP_NET_RAW.
    """
    if spec.kind == "observer":
        made = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM, 0
        )  # protocol 0: nothing is received before bind(2)
    else:
        family = socket.AF_INET6 if ":" in spec.address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM if spec.kind == "tcp" else socket.SOCK_DGRAM)
    try:
        made.settimeout(0)
        if spec.kind == "observer":
            attach_refusal_filter(made)
            made.bind((spec.address, _ETH_P_ALL))
            return made
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if spec.kind == "tcp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        made.bind((spec.address, spec.port))
        if spec.kind == "tcp":
            made.listen(_BACKLOG)
        elif made.family == socket.AF_INET6:
            # An answer comes from the address that was asked, which a local route alone makes no source (ip6_datagram_send_ctl).
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    except BaseException:
        made.close()
        raise
    return made


def enter(user_namespace: int, network_namespace: int) -> None:
    """Move this process into both namespaces, descriptors of them; *user_namespace* -1 if the present one owns the other.

    Raises:
        OSError: EPERM: this user does not own the user namespace.
    """
    if user_namespace >= 0:
        namespaces.join("user", user_namespace)
    namespaces.join("net", network_namespace)


def make_sockets(
    user_namespace: int, network_namespace: int, specs: Sequence[SocketSpec]
) -> list[socket.socket]:
    """Return the sockets *specs*, made in *network_namespace* by a child that has ended when this returns.

    Raises:
        OSError: as :func:`enter` and :func:`open_socket`; the file name is that of the failed specification.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _make_and_send(theirs, user_namespace, network_namespace, specs)
        finally:
            os._exit(1)
    theirs.close()
    made: list[socket.socket] = []
    try:
        while len(made) < len(specs):
            message, fds, _, _ = socket.recv_fds(ours, 4096, _MOST_DESCRIPTORS)
            made += [socket.socket(fileno=fd) for fd in fds]
            if not fds:
                number, _, text = message.decode().partition(" ")
                raise OSError(int(number or errno.ECHILD), text or "the process for sockets has ended")
    except BaseException:
        for one in made:
            one.close()
        raise
    finally:
        ours.close()
        os.waitpid(pid, 0)
    return made


def _make_and_send(
    channel: socket.socket, user_namespace: int, network_namespace: int, specs: Sequence[SocketSpec]
) -> NoReturn:
    place = "namespaces"
    try:
        enter(user_namespace, network_namespace)
        for start in range(0, len(specs), _MOST_DESCRIPTORS):
            made = []
            for spec in specs[start : start + _MOST_DESCRIPTORS]:
                place = f"{spec.kind} {spec.address} {spec.port}"
                made.append(open_socket(spec))
            socket.send_fds(channel, [b"x"], [one.fileno() for one in made])
    except OSError as error:
        channel.send(f"{error.errno} {place}: {error.strerror}".encode())
    os._exit(0)


SocketKind = Literal["tcp4", "tcp6", "udp4", "udp6"]
KINDS: tuple[SocketKind, ...] = ("tcp4", "tcp6", "udp4", "udp6")
_BATCH = 16


def serve_sockets(channel: socket.socket, *, transparent: bool) -> None:
    """Send unconnected sockets of this network namespace on *channel* until the other end is closed.

    A request is the index of a kind in one byte. The answer is that byte, with sockets beside it. With *transparent*, each has
    IP_TRANSPARENT if this process has CAP_NET_RAW or CAP_NET_ADMIN here, so that its user may bind it to any address.
    """
    while request := channel.recv(1):
        kind = KINDS[request[0]]
        made: list[socket.socket] = []
        try:
            while len(made) < _BATCH:
                made += [_make(kind, transparent=transparent)]
        except OSError:
            pass  # a descriptor or an address family is lacking: send those that there are
        try:
            if made:
                socket.send_fds(channel, [request], [one.fileno() for one in made])
            else:
                channel.send(request)
        except OSError:
            return
        finally:
            for one in made:
                one.close()


def _make(kind: SocketKind, *, transparent: bool) -> socket.socket:
    family = socket.AF_INET if kind.endswith("4") else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_STREAM if kind.startswith("tcp") else socket.SOCK_DGRAM)
    made.settimeout(0)
    if not transparent:
        return made
    try:
        if family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except PermissionError:
        pass  # the user of the socket finds that it cannot bind it to the address of a client
    except BaseException:
        made.close()
        raise
    return made


OnSocket = Callable[[socket.socket | None], None]
"""Receives a socket, which it owns then; None if none can be made."""


class SocketPool:
    """Sockets inside the gate that were made ahead, so that a connection waits for no other process. Owns *channel*."""

    def __init__(self, loop: EventLoop, channel: socket.socket, on_end: Callable[[], None]) -> None:
        """Request sockets on *channel*, a SOCK_SEQPACKET pair with :func:`serve_sockets`; call *on_end* if that has ended."""
        channel.settimeout(0)
        self._channel = channel
        self._on_end = on_end
        self._free: dict[SocketKind, deque[socket.socket]] = {kind: deque() for kind in KINDS}
        self._waiting: dict[SocketKind, deque[OnSocket]] = {kind: deque() for kind in KINDS}
        self._requested: set[SocketKind] = set()
        loop.add(channel.fileno(), IN, self._on_event)

    def prepare(self, kind: SocketKind) -> None:
        """Request sockets of *kind* unless they are on their way."""
        if kind in self._requested:
            return
        try:
            self._channel.send(bytes((KINDS.index(kind),)), socket.MSG_NOSIGNAL)
        except OSError:
            self._on_end()  # at most four requests are on their way, so the buffer is never full
            return
        self._requested.add(kind)

    def take(self, kind: SocketKind, on_socket: OnSocket) -> None:
        """Call *on_socket* with a socket of *kind*, at once or after the next answer."""
        free = self._free[kind]
        if free:
            on_socket(free.popleft())
        else:
            self._waiting[kind].append(on_socket)
        if len(free) < _BATCH // 2:
            self.prepare(kind)

    def _on_event(self, _events: int) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self._channel, 1, _BATCH)
        except BlockingIOError:
            return
        except OSError:
            message, fds = b"", []
        made = [socket.socket(fileno=fd) for fd in fds]
        if not message:
            self._on_end()
            return
        kind = KINDS[message[0]]
        self._requested.discard(kind)
        waiting = self._waiting[kind]
        if not made:
            while waiting:
                waiting.popleft()(None)
            return
        self._free[kind].extend(made)
        while waiting and self._free[kind]:
            waiting.popleft()(self._free[kind].popleft())
        if waiting:
            self.prepare(kind)

    def close(self) -> None:
        """Close the sockets that nothing has taken."""
        for free in self._free.values():
            while free:
                free.popleft().close()
