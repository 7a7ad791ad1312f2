"""Make a gate: a network namespace without a process, in which the packets of a sandbox end.

It needs no privileges. A child makes it with a user namespace of its own and ends at once; the descriptors that it sends keep the
gate. The supervisor owns both user namespaces, so that it may connect the gate with the network namespace of the sandbox.
"""

from __future__ import annotations

import errno
import os
import socket

from sandbox.kernel import links, namespaces, netlink, process, routes
from sandbox.kernel.routes import Route
from sandbox.network.socket_maker import enter
from sandbox.plan.network_values import GATE, GATE6, INTERFACE, SANDBOX, SANDBOX6
from unionfs._stdlib.dataclasses import dataclass

#: The interface of the gate that leads to the sandbox.
GATE_INTERFACE = "gate0"
_LOOPBACK = "lo"
_SETTINGS = (
    ("net/ipv4/ip_forward", "1"),  # without it, the kernel drops pings in silence instead of refusing them
    ("net/ipv4/icmp_ratelimit", "0"),  # every refused datagram is answered, not one a second
    ("net/ipv6/conf/default/accept_dad", "0"),  # addresses can be used at once
)
_NFT = "nft"


@dataclass(slots=True)
class Gate:
    """A gate, as descriptors of its namespaces and a netlink socket of it. The network creates it and closes it."""

    user_fd: int
    network_fd: int
    netlink: socket.socket

    def close(self) -> None:
        """Close the descriptors. The gate disappears with the last socket in it."""
        self.netlink.close()
        os.close(self.user_fd)
        os.close(self.network_fd)


def make_gate() -> Gate:
    """Make a gate without links.

    Raises:
        OSError: the kernel refuses a namespace or a setting.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = os.fork()
        if pid == 0:
            _make_and_send(theirs)
        theirs.close()
        try:
            message, fds, _, _ = socket.recv_fds(ours, 1000, 3)
        finally:
            os.waitpid(pid, 0)
    if len(fds) != 3:
        for fd in fds:
            os.close(fd)
        number, _, text = message.decode().partition(" ")
        raise OSError(int(number or errno.ECHILD), text or "the process that makes the gate has ended")
    for fd in fds:
        os.set_inheritable(fd, False)
    return Gate(user_fd=fds[0], network_fd=fds[1], netlink=socket.socket(fileno=fds[2]))


def _make_and_send(channel: socket.socket) -> None:
    try:
        process.set_dumpable(True)  # /proc/self belongs to real root otherwise
        uid, gid = os.geteuid(), os.getegid()
        namespaces.unshare(["user", "net"])
        # Id 0, for programs that are executed in the gate: only root keeps its capabilities over an exec.
        for name, content in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            _write(f"/proc/self/{name}", content)
        for name, content in _SETTINGS:
            if os.path.exists(f"/proc/sys/{name}"):
                _write(f"/proc/sys/{name}", content)
        made = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "net")]
        socket.send_fds(channel, [b"+"], [*made, netlink.open_socket().detach()])
    except OSError as error:
        channel.send(f"{error.errno} {error.strerror}".encode())
    finally:
        os._exit(0)


def _write(path: str, content: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(content)


def connect(gate: Gate, inside: socket.socket, sandbox_fd: int, *, ipv6: bool) -> None:
    """Connect *gate* with the network namespace *sandbox_fd* of a sandbox, and end all its packets in the gate.

    Every address is one of the gate, so that its sockets receive what the program sends to any address.

    Args:
        gate: a gate without links.
        inside: a netlink socket of the sandbox's network namespace.
        sandbox_fd: a descriptor of that namespace.
        ipv6: whether the sandbox has IPv6. Without it, connections there fail at once.

    Raises:
        OSError: the kernel refuses a link, an address or a route.
    """
    links.add_pair(gate.netlink, GATE_INTERFACE, INTERFACE, sandbox_fd)
    inner, outer = (
        links.interface_index(inside, INTERFACE),
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
        routes.add_route(inside, Route.to(everything, inner), gateway=Route.to(outside).destination)
        # The local table comes before the main one, so that the route to the sandbox is there, too.
        routes.add_route(gate.netlink, Route.to(own, outer), local=True)
        routes.add_local_route(gate.netlink, Route.to(everything, loopback))
    routes.forbid_pings(gate.netlink, GATE_INTERFACE)


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
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 2)
            enter(gate.user_fd, gate.network_fd)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            source = os.memfd_create("rules")
            os.write(source, rules.encode())
            os.lseek(source, 0, os.SEEK_SET)
            os.dup2(source, 0)
            os.execvpe(_NFT, [_NFT, "-f", "-"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        except FileNotFoundError:
            os._exit(errno.ENOENT)
        finally:
            os._exit(errno.EPERM)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as pipe:
        printed = " ".join(pipe.read().split())
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), _NFT)
    if code:
        raise OSError(errno.EPERM, printed or f"ended with status {code}", _NFT)
