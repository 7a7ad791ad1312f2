"""Make a gate: a network namespace without a process, through which the packets of sandboxes go or in which they end.

It needs no privileges. A child makes it with a user namespace of its own and ends at once; the descriptors that it sends keep the
gate. The supervisor owns both user namespaces, so that it may connect the gate with the network namespace of a sandbox.

Here is the gate of one sandbox, in which all its packets end. `shared_gate` has that of a network of several sandboxes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sandbox.kernel import links, namespaces, netlink, process, routes
from sandbox.kernel.routes import LOCAL_TABLE, MAIN_TABLE, Route
from sandbox.kernel.routing_rules import LOCAL_RULE, Rule, add_rule, remove_rule
from sandbox.network.nft import Nft
from sandbox.network.socket_maker import enter
from sandbox.plan.network_values import GATE, GATE6, SANDBOX, SANDBOX6
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import NoReturn

#: The interface of the gate that leads to the sandbox.
GATE_INTERFACE = "gate0"
_LOOPBACK = "lo"
_BACK_TABLE = 100
_BACK_PRIORITY = 100
Settings = Sequence[tuple[str, str]]
"""Files below /proc/sys, and what is written to them."""

OWN_GATE: Settings = (
    ("net/ipv4/ip_forward", "1"),  # without it, the kernel drops pings in silence instead of refusing them
    ("net/ipv4/icmp_ratelimit", "0"),  # every refused datagram is answered, not one a second
    ("net/ipv6/conf/default/accept_dad", "0"),  # addresses can be used at once
)


@dataclass(slots=True)
class Gate:
    """A gate, as descriptors of its namespaces and a netlink socket of it. The network creates it and closes it."""

    user_fd: int
    network_fd: int
    netlink: socket.socket
    #: Receives the changes of the gate's interfaces.
    watch: socket.socket

    def close(self) -> None:
        """Close the descriptors. The gate disappears with the last socket in it."""
        self.netlink.close()
        self.watch.close()
        os.close(self.user_fd)
        os.close(self.network_fd)


def make_gate(settings: Settings = OWN_GATE) -> Gate:
    """Make a gate with *settings* and without links.

    Raises:
        OSError: the kernel refuses a namespace or a setting.
    """

    def make() -> None:
        process.set_dumpable(True)  # /proc/self belongs to real root otherwise
        uid, gid = os.geteuid(), os.getegid()
        namespaces.unshare(["user", "net"])
        # Id 0, for programs that are executed in the gate: only root keeps its capabilities over an exec.
        for name, content in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            _write(f"/proc/self/{name}", content)
        for name, content in settings:
            if os.path.exists(f"/proc/sys/{name}"):
                _write(f"/proc/sys/{name}", content)

    return _receive_gate(make)


def open_gate(user_fd: int, network_fd: int) -> Gate:
    """Return the gate with these namespaces, which another process of this user has made. The descriptors remain the caller's.

    Raises:
        OSError: EPERM: this user does not own them.
    """
    return _receive_gate(lambda: enter(user_fd, network_fd))


def _receive_gate(into: Callable[[], None]) -> Gate:
    """Return the gate into which a child gets by calling *into*."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = os.fork()
        if pid == 0:
            _send_gate(theirs, into)
        theirs.close()
        try:
            message, fds, _, _ = socket.recv_fds(ours, 1000, 4)
        finally:
            os.waitpid(pid, 0)
    if len(fds) != 4:
        for fd in fds:
            os.close(fd)
        number, _, text = message.decode().partition(" ")
        raise OSError(int(number or errno.ECHILD), text or "the process that makes the gate has ended")
    for fd in fds:
        os.set_inheritable(fd, False)
    sockets = [socket.socket(fileno=fd) for fd in fds[2:]]
    return Gate(user_fd=fds[0], network_fd=fds[1], netlink=sockets[0], watch=sockets[1])


def _send_gate(channel: socket.socket, into: Callable[[], None]) -> NoReturn:
    try:
        into()
        made = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "net")]
        sockets = [netlink.open_socket(), netlink.open_socket(netlink.LINKS)]
        socket.send_fds(channel, [b"+"], [*made, *(one.fileno() for one in sockets)])
    except OSError as error:
        channel.send(f"{error.errno} {error.strerror}".encode())
    finally:
        os._exit(0)


def _write(path: str, content: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(content)


@contextmanager
def process_in(gate: Gate) -> Iterator[int]:
    """Keep a process in *gate*, and return its pid: programs open the namespaces as files of it in /proc.

    Paths of descriptors would do, too, but the AppArmor profile of pasta(1) permits only /proc/PID/ns.

    Raises:
        OSError: no process can be made, or it cannot enter the gate.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    parent, (ours, theirs) = os.getpid(), os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            # Others would keep locks of networks, and the pipe to the process in another gate, which ends when that is closed.
            process.close_descriptors_but({0, 1, 2, gate.user_fd, gate.network_fd, reader, theirs})
            process.set_parent_death_signal(parent=parent)
            enter(gate.user_fd, gate.network_fd)
            process.set_dumpable(True)  # its files in /proc belong to real root otherwise
            os.write(theirs, b"+")
            os.read(reader, 1)
        finally:
            os._exit(0)
    os.close(theirs)
    os.close(reader)
    try:
        if not os.read(ours, 1):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), "gate")
        yield pid
    finally:
        os.close(ours)
        os.close(writer)
        os.waitpid(pid, 0)


def connect(
    gate: Gate, inside: socket.socket, sandbox_fd: int, interface: str, *, ipv6: bool, default: bool = True
) -> None:
    """Connect *gate* with the network namespace *sandbox_fd* of a sandbox, and end all packets that arrive in the gate.

    Every address is one of the gate, so that its sockets receive what the program sends to any address.

    Args:
        gate: a gate without links.
        inside: a netlink socket of the sandbox's network namespace.
        sandbox_fd: a descriptor of that namespace.
        interface: the name of the interface to make in the sandbox.
        ipv6: whether the sandbox has IPv6. Without it, connections there fail at once.
        default: whether packets to all addresses that no other route has go to the gate. Otherwise, only answers to what
            came from the gate do: a forwarded connection has the address of its client.

    Raises:
        OSError: the kernel refuses a link, an address or a route.
    """
    links.add_pair(gate.netlink, GATE_INTERFACE, interface, sandbox_fd)
    inner, outer = (
        links.interface_index(inside, interface),
        links.interface_index(gate.netlink, GATE_INTERFACE),
    )
    loopback = links.interface_index(gate.netlink, _LOOPBACK)
    # The loopback interface of the sandbox, too: services of the host are to be opened there.
    links.set_up(inside, links.interface_index(inside, _LOOPBACK))
    links.set_up(gate.netlink, loopback)
    families = [(GATE, SANDBOX, "0.0.0.0/0"), *([(GATE6, SANDBOX6, "::/0")] if ipv6 else [])]
    for outside, own, _ in families:
        length = Route.to(own).length
        links.add_address(inside, inner, own, length)
        links.add_address(gate.netlink, outer, outside, length)
    links.set_up(inside, inner)
    links.set_up(gate.netlink, outer)
    for outside, own, everything in families:
        routes.add_route(inside, Route.to(outside, inner))
        table = MAIN_TABLE if default else _BACK_TABLE
        routes.add_route(
            inside, Route.to(everything, inner), gateway=Route.to(outside).destination, table=table
        )
        # The local table comes before the main one, so that the route to the sandbox is there, too.
        routes.add_route(gate.netlink, Route.to(own, outer), table=LOCAL_TABLE)
        routes.add_local_route(gate.netlink, Route.to(everything, loopback))
    if not default:
        add_rule(inside, Rule(priority=_BACK_PRIORITY, table=_BACK_TABLE, source=Route.to(SANDBOX)))
    _forbid_pings(gate.netlink)


def _forbid_pings(sock: socket.socket) -> None:
    """Answer ICMP messages from the sandbox for any address with "prohibited" instead of an echo.

    The rule of the local table, which would accept them first, gets a later place.
    """
    add_rule(sock, Rule(priority=1, table=None, interface=GATE_INTERFACE, protocol=socket.IPPROTO_ICMP))
    add_rule(sock, replace(LOCAL_RULE, priority=2))
    remove_rule(sock, LOCAL_RULE)


def redirect(gate: Gate, port: int) -> None:
    """Redirect the connections of the sandbox to every TCP port but that of DNS to *port* of the gate, by nft(8).

    Raises:
        FileNotFoundError: nft is not installed.
        OSError: nft fails; the text is what it prints.
    """
    rules = (
        "table inet sandbox {\nchain prerouting {\ntype nat hook prerouting priority dstnat\n"
        f'iifname "{GATE_INTERFACE}" tcp dport != 53 redirect to :{port}\n}}\n}}\n'
    )
    Nft(rules, lambda: enter_as_root(gate)).wait()


def enter_as_root(gate: Gate) -> None:
    """Move this process into *gate*, as id 0 of its user namespace, which keeps the capabilities over an exec.

    Raises:
        OSError: EPERM: this user does not own the user namespace.
    """
    enter(gate.user_fd, gate.network_fd)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
