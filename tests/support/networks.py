"""A stand-in for a host with interfaces, and for the Internet behind it, in network namespaces of their own.

Nothing outside of them is reached. An ordinary user can make them, too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

PYTHON = "/usr/bin/python3"

#: The addresses of the stand-in for the host: the interface with the default route, a second one, and the loopback interface.
HOST, HOST6 = "10.77.0.2", "fd77::2"
SECOND, SECOND6 = "10.88.0.2", "fd88::2"
#: The address of the stand-in for the Internet.
INTERNET, INTERNET6 = "10.77.0.1", "fd77::1"

_SETUP = f"""
ip link set lo up
ip link add out0 type veth peer name in0 netns $1
ip link add second0 type veth peer name second1
ip address add {HOST}/24 dev out0
ip address add {HOST6}/64 dev out0 nodad
ip address add {SECOND}/24 dev second0
ip address add {SECOND6}/64 dev second0 nodad
ip link set out0 up
ip link set second0 up
ip link set second1 up
"""
_ROUTES = f"""
ip route add default via {INTERNET} dev out0
ip route add default via {INTERNET6} dev out0
"""
_INTERNET = f"""
ip link set lo up
ip address add {INTERNET}/24 dev in0
ip address add {INTERNET6}/64 dev in0 nodad
ip link set in0 up
ip route add {SECOND} via {HOST}
"""

#: A server for TCP and UDP, IPv4 and IPv6: it sends the name in its first argument, and prints the address of each client.
_SERVER = """
import socket, sys, threading
name, address, port = sys.argv[1].encode(), sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
def open_socket(kind):
    one = socket.socket(family, kind)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((address, port))
    return one
stream, datagram = open_socket(socket.SOCK_STREAM), open_socket(socket.SOCK_DGRAM)
stream.listen(64)
def serve_datagrams():
    while True:
        _, client = datagram.recvfrom(2000)
        datagram.sendto(name, client)
threading.Thread(target=serve_datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    connection, client = stream.accept()
    connection.sendall(name + b" " + client[0].encode())
    connection.close()
"""

#: Connects to each "PROTOCOL ADDRESS PORT [DEVICE]" of its arguments, and prints the answers or errors as a JSON list.
CLIENT = """
import concurrent.futures, json, socket, sys
def request(protocol, address, port, device=None):
    try:
        family, _, _, _, place = socket.getaddrinfo(address, int(port), type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        return "gaierror"
    with socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM) as one:
        one.settimeout(2)
        try:
            if device:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            one.connect(place)
            if protocol == "udp":
                one.send(b"?")
            return one.recv(100).decode()
        except TimeoutError:
            return "TimeoutError"
        except OSError as error:
            return type(error).__name__ if type(error) is not OSError else error.strerror
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(lambda words: request(*words.split()), sys.argv[1:]))))
"""


@dataclass(frozen=True, slots=True)
class StandIn:
    """The network namespaces, by the processes that keep them: the host's and the Internet's."""

    host: int
    internet: int
    #: Whether the host has a mount namespace of its own.
    has_mounts: bool = field(default=False, kw_only=True)

    def enter(self, pid: int, command: Sequence[str]) -> list[str]:
        """Return the command line that runs *command* in the namespaces of the process *pid*."""
        return _enter(pid, command, mounts=self.has_mounts and pid == self.host)

    def in_host(self, *command: str) -> list[str]:
        """Return the command line that runs *command* on the stand-in for the host, as this account and without privileges."""
        return self.enter(self.host, command)

    def in_internet(self, *command: str) -> list[str]:
        """Return the command line that runs *command* on the stand-in for the Internet."""
        return self.enter(self.internet, command)

    def configure(self, script: str) -> None:
        """Run the shell script *script* on the stand-in for the host, with its privileges."""
        _configure(self.host, script, mounts=self.has_mounts)

    def link_local_addresses(self) -> list[str]:
        """Return the IPv6 link-local addresses of the stand-in for the host, each with the sandbox's interface as its scope."""
        command = self.in_host("ip", "-6", "-o", "address", "show", "scope", "link")
        lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        return [f"{line.split()[3].partition('/')[0]}%eth0" for line in lines.splitlines()]

    def cover(self, path: str, by: str) -> None:
        """Show the file *by* at *path* on the stand-in for the host, which `stand_in` has made with mounts of its own."""
        assert self.has_mounts
        _configure(self.host, 'mount --bind "$1" "$2"', by, path, mounts=True)

    @contextmanager
    def server(self, where: int, name: str, address: str, port: int) -> Iterator[None]:
        """Serve TCP and UDP on *port* of *address* in the namespaces of the process *where*; every answer begins with *name*."""
        command = self.enter(where, (PYTHON, "-c", _SERVER, name, address, str(port)))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield
            finally:
                process.kill()


def _enter(pid: int, command: Sequence[str], *, mounts: bool = False) -> list[str]:
    options = [word for word in command[:1] if word == "--keep-caps"]
    rest = command[len(options) :]
    return [
        "nsenter",
        f"--user=/proc/{pid}/ns/user",
        f"--net=/proc/{pid}/ns/net",
        *((f"--mount=/proc/{pid}/ns/mnt", f"--wdns={os.getcwd()}") if mounts else ()),
        "--preserve-credentials",
        *options,
        *rest,
    ]


def _configure(pid: int, script: str, *arguments: str, mounts: bool = False) -> None:
    command = _enter(pid, ("--keep-caps", "sh", "-ec", script, "sh", *arguments), mounts=mounts)
    subprocess.run(command, check=True, timeout=60)


@contextmanager
def _namespaces(command: Sequence[str]) -> Iterator[int]:
    """Run *command* and then a process that keeps its namespaces; give the pid of that."""
    words = [*command, "sh", "-c", "echo; exec sleep infinity"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as keeper:
        try:
            assert keeper.stdout is not None
            keeper.stdout.readline()
            yield keeper.pid
        finally:
            keeper.kill()


@contextmanager
def stand_in(*, routes: bool = True, mounts: bool = False) -> Iterator[StandIn]:
    """Make the stand-ins, the host's with default routes if *routes*, and with a mount namespace of its own if *mounts*.

    They disappear at the end.
    """
    owner = ["unshare", "--user", "--map-current-user", "--keep-caps", "--net"]
    owner += ["--mount"] if mounts else []
    with (
        _namespaces(owner) as host,
        _namespaces(_enter(host, ("--keep-caps", "unshare", "--net"))) as internet,
    ):
        _configure(host, _SETUP, str(internet))
        _configure(internet, _INTERNET)
        if routes:
            _configure(host, _ROUTES)
        yield StandIn(host=host, internet=internet, has_mounts=mounts)
