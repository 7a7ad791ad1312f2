"""Network namespaces with an Internet, a gate and a sandbox, for tests of `sandbox.network`.

A test runs in a network namespace that stands for the host, as id 0 of a user namespace, and in a mount and a pid namespace of
its own. All packets stay in namespaces that the test made. The addresses are those of documentation (RFC 5737, RFC 3849):

    host 198.51.100.2 --- 198.51.100.1 Internet (203.0.113.10, 203.0.113.11, 2001:db8::10; DNS 203.0.113.53)
    gate 10.99.0.1 --- 10.99.0.2 sandbox
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - of getaddrinfo; the ids of the namespaces may be unable to read the interpreter's files
import json
import os
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import dnslib

from sandbox.host import facts
from sandbox.kernel import namespaces, network, process
from sandbox.network import control
from sandbox.network.network_process import start_network_process
from sandbox.network.request import NetworkRequest
from sandbox.network.socket_maker import SocketSpec, make_sockets
from sandbox.seccomp.compiler import compile_filter
from sandbox.seccomp.network import network_filter, resolver_filter
from sandbox.seccomp.values import MACHINES

HOST, INTERNET, OTHER, INTERNET6, RESOLVER = (
    "198.51.100.2",
    "203.0.113.10",
    "203.0.113.11",
    "2001:db8::10",
    "203.0.113.53",
)
GATE, SANDBOX, GATE6, SANDBOX6 = "10.99.0.1", "10.99.0.2", "fd99::1", "fd99::2"
PORTS = (80, 443, 9000)
FACTS = facts.gather()
LANDLOCK = FACTS.landlock or 0
MACHINE = MACHINES.get(FACTS.machine)
FILTERS = (
    (None, None)
    if MACHINE is None
    else (compile_filter(network_filter()), compile_filter(resolver_filter(MACHINE.native)))
)
_FILES = "/mnt"
"""Where the files of a test are, in a file system of its mount namespace."""
#: The directories of programs for administrators are not on the path of every account.
_ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
WAIT = 60.0
"""Seconds that bound a failure."""


class Namespace:
    """A network namespace, with the user namespace that owns it unless that is ours. No process stays in it."""

    def __init__(self, *, with_user: bool) -> None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                process.set_dumpable(True)  # /proc/self otherwise belongs to real root
                uid, gid = os.geteuid(), os.getegid()
                namespaces.unshare(["user", "net"] if with_user else ["net"])
                if with_user:
                    for name, text in (
                        ("setgroups", "deny"),
                        ("uid_map", f"0 {uid} 1"),
                        ("gid_map", f"0 {gid} 1"),
                    ):
                        with open(f"/proc/self/{name}", "w") as file:
                            file.write(text)
                network.loopback_up()
                write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")  # it takes seconds
                files = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "user")]
                socket.send_fds(theirs, [b"x"], files)
            finally:
                os._exit(0)
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 2)
        ours.close()
        os.waitpid(pid, 0)
        self.net = fds[0]
        self.user = fds[1] if with_user else -1

    def enter(self) -> None:
        if self.user >= 0:
            namespaces.join("user", self.user)
        namespaces.join("net", self.net)

    def start(self, function: Callable[[], object]) -> int:
        """Call *function* in a child inside, and return its pid."""
        pid = os.fork()
        if pid == 0:
            try:
                self.enter()
                function()
            except BaseException:  # noqa: BLE001 - the process must not return into pytest
                traceback.print_exc()
            finally:
                os._exit(0)
        return pid

    def run(self, function: Callable[[], Any]) -> Any:
        """Call *function* in a child inside, and return its result, a value of JSON."""
        reading, writing = os.pipe()

        def call() -> None:
            try:
                outcome = {"value": function()}
            except BaseException:  # noqa: BLE001
                outcome = {"error": traceback.format_exc()}
            os.write(writing, json.dumps(outcome).encode())

        pid = self.start(call)
        os.close(writing)
        with open(reading, "rb") as file:
            answer = file.read()
        os.waitpid(pid, 0)
        outcome = json.loads(answer or '{"error": "no result"}')
        assert "error" not in outcome, outcome["error"]
        return outcome["value"]

    def commands(self, *lines: str) -> None:
        """Run the lines as commands of ip(8) inside, and lines that begin with "nft" as such."""
        batch = "\n".join(line for line in lines if not line.startswith("nft"))

        def run() -> None:
            subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True, env=_ENVIRONMENT)
            for line in lines:
                if line.startswith("nft"):
                    subprocess.run(["nft", line.removeprefix("nft ")], check=True, env=_ENVIRONMENT)

        self.run(run)


class NameServer:
    """The DNS server of the Internet. Each name has a list of answers; each query for A takes the next, the last one remains."""

    def __init__(self, answers: dict[str, list[list[str]]], delays: dict[str, float], log: str) -> None:
        self._answers = answers
        self._delays = delays
        self._log = log

    def serve(self) -> None:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((RESOLVER, 53))
        listener = socket.create_server((RESOLVER, 53))
        threading.Thread(target=self._serve_tcp, args=(listener,), daemon=True).start()
        while True:
            data, address = one.recvfrom(4096)
            threading.Thread(target=self._reply, args=(one, data, address), daemon=True).start()

    def _serve_tcp(self, listener: socket.socket) -> None:
        while True:
            accepted, _ = listener.accept()
            data = accepted.recv(4096)
            if data:
                answer = self._answer(data[2:])
                accepted.sendall(len(answer).to_bytes(2, "big") + answer)
            accepted.close()

    def _reply(self, one: socket.socket, data: bytes, address: Any) -> None:
        one.sendto(self._answer(data), address)

    def _answer(self, data: bytes) -> bytes:
        query = dnslib.DNSRecord.parse(data)
        name, kind = str(query.q.qname).rstrip("."), dnslib.QTYPE[query.q.qtype]
        with open(self._log, "a") as file:
            file.write(f"{name} {kind}\n")
        time.sleep(self._delays.get(name, 0))
        reply = query.reply()
        answers = self._answers.get(name)
        if answers is None:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        elif kind in ("A", "AAAA"):
            found = answers[0]
            if kind == "A" and len(answers) > 1:
                answers.pop(0)
            for text in found:
                if (":" in text) == (kind == "AAAA"):
                    data = dnslib.AAAA(text) if kind == "AAAA" else dnslib.A(text)
                    reply.add_answer(dnslib.RR(query.q.qname, query.q.qtype, ttl=0, rdata=data))
        return bytes(reply.pack())


def serve_greeting(addresses: Sequence[tuple[str, int]]) -> None:
    """Accept connections at *addresses*: greet with the own and the peer's address, echo what comes, end after the peer's end."""

    def serve(accepted: socket.socket) -> None:
        with accepted:
            own, peer = accepted.getsockname(), accepted.getpeername()
            accepted.sendall(f"{own[0]} {own[1]} {peer[0]} {peer[1]}\n".encode())
            while data := accepted.recv(65536):
                accepted.sendall(data)

    def accept(listener: socket.socket) -> None:
        while True:
            accepted, _ = listener.accept()
            threading.Thread(target=serve, args=(accepted,), daemon=True).start()

    threads = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listener = socket.create_server(address, family=family, backlog=512)
        threads.append(threading.Thread(target=accept, args=(listener,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Machine:
    """The host with its Internet, a gate and a sandbox. Made in the namespaces of the test, which end with it."""

    def __init__(
        self, answers: dict[str, list[list[str]]] | None = None, delays: dict[str, float] | None = None
    ) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", _FILES], check=True)
        self.query_log = f"{_FILES}/queries"
        open(self.query_log, "w").close()
        network.loopback_up()
        write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        self.internet = Namespace(with_user=False)
        self.gate = Namespace(with_user=True)
        self.sandbox = Namespace(with_user=True)
        self._connect()
        self._use_resolver()
        addresses = [(address, port) for address in (INTERNET, OTHER, INTERNET6) for port in PORTS]
        names = NameServer(answers or {}, delays or {}, self.query_log)
        self._servers = [
            self.internet.start(lambda: serve_greeting(addresses)),
            self.internet.start(names.serve),
        ]
        self._wait_for_servers()
        self.process = 0
        self.control = socket.socket()
        self.control.close()

    def _connect(self) -> None:
        _ip(
            "link add wan0 type veth peer name eth0",
            f"addr add {HOST}/24 dev wan0",
            "addr add 2001:db8:1::2/64 dev wan0 nodad",
            "link set wan0 up",
        )
        _move("eth0", self.internet)
        self.internet.commands(
            "addr add 198.51.100.1/24 dev eth0",
            "addr add 2001:db8:1::1/64 dev eth0 nodad",
            "link set eth0 up",
            *(f"addr add {address}/32 dev lo" for address in (INTERNET, OTHER, RESOLVER)),
            f"addr add {INTERNET6}/128 dev lo nodad",
        )
        _ip("route add default via 198.51.100.1", "route add default via 2001:db8:1::1")
        _ip("link add gate0 type veth peer name box0")
        _move("gate0", self.gate)
        _move("box0", self.sandbox)
        self.gate.commands(
            f"addr add {GATE}/32 dev gate0",
            f"addr add {GATE6}/128 dev gate0 nodad",
            "link set gate0 up",
            f"route add {SANDBOX}/32 dev gate0 scope link",
            f"route add {SANDBOX6}/128 dev gate0",
        )
        self.sandbox.commands(
            f"addr add {SANDBOX}/32 dev box0",
            f"addr add {SANDBOX6}/128 dev box0 nodad",
            "link set box0 up",
            f"route add {GATE}/32 dev box0 scope link",
            f"route add default via {GATE}",
            f"route add {GATE6}/128 dev box0",
            f"route add default via {GATE6} dev box0",
        )

    def _use_resolver(self) -> None:
        for path, text in (
            (
                "/etc/resolv.conf",
                f"nameserver {RESOLVER}\nsearch corp.example\noptions timeout:3 attempts:1\n",
            ),
            ("/etc/nsswitch.conf", "hosts: files dns\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n"),
        ):
            source = f"{_FILES}/{os.path.basename(path)}"
            with open(source, "w") as file:
                file.write(text)
            if os.path.exists(path):
                subprocess.run(["mount", "--bind", source, os.path.realpath(path)], check=True)

    def _wait_for_servers(self) -> None:
        deadline = time.monotonic() + WAIT
        wanted = [(INTERNET, port) for port in PORTS] + [(INTERNET6, PORTS[-1]), (RESOLVER, 53)]
        for address in wanted:
            while True:
                try:
                    socket.create_connection(address, 5).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)

    def make_every_address_local(self) -> None:
        """Make the gate that of `network.egress`, as the docstring of `sandbox.network` has it."""
        self.gate.commands(
            f"route add {SANDBOX}/32 dev gate0 table local scope link",
            "route add local default dev lo table local",
            f"route add {SANDBOX6}/128 dev gate0 table local",
            "route add local ::/0 dev lo table local",
        )
        self.gate.run(lambda: write("/proc/sys/net/ipv4/icmp_ratelimit", "0"))

    def gate_sockets(self, *specs: SocketSpec) -> list[int]:
        """Make sockets in the gate and return their descriptors."""
        return [one.detach() for one in make_sockets(self.gate.user, self.gate.net, specs)]

    def start(self, **fields: Any) -> control.Ready:
        """Start `sandbox-net` with the fields of a request, and return what it reports when it is ready."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program, resolver_program = FILTERS
        request = NetworkRequest(
            control=theirs.detach(),
            gate_user=os.dup(self.gate.user),
            gate_network=os.dup(self.gate.net),
            filter=program,
            resolver_filter=resolver_program,
            landlock=LANDLOCK,
            **fields,
        )
        self.process = start_network_process(request)
        for fd in request.descriptors():
            os.close(fd)
        event = self.next_event()
        assert isinstance(event, control.Ready), event
        return event

    def next_event(self, seconds: float = WAIT) -> Any:
        """Return the next event of the process; None at its end, "" if there is none in time."""
        self.control.settimeout(seconds)
        try:
            return control.receive(self.control)
        except TimeoutError:
            return ""

    def refusals(self) -> list[control.Refused]:
        """Return the refusals that were reported so far."""
        found = []
        control.send(self.control, control.RequestCounts())
        while not isinstance(event := self.next_event(), control.Counts):
            assert isinstance(event, control.Refused), event
            found.append(event)
        return found

    def counts(self) -> control.Counts:
        """Return the counts of the process; refusals that were not read yet are lost."""
        control.send(self.control, control.RequestCounts())
        while not isinstance(event := self.next_event(), control.Counts):
            assert event, "the process has ended"
        return event

    def queries(self) -> list[str]:
        """Return the queries that reached the Internet, as "NAME TYPE"."""
        with open(self.query_log) as file:
            return file.read().split("\n")[:-1]

    def end_servers(self) -> None:
        """End the servers of the Internet, for a test without a pid namespace."""
        for pid in self._servers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def stop(self) -> int:
        """Close the control socket, and return the exit status of the process."""
        self.control.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _move(device: str, space: Namespace) -> None:
    """Move the network device to *space*."""
    command = ["ip", "link", "set", device, "netns", f"/proc/self/fd/{space.net}"]
    subprocess.run(command, pass_fds=[space.net], check=True)


def write(path: str, text: str) -> None:
    """Write *text* to the file *path*, such as a sysctl."""
    with open(path, "w") as file:
        file.write(text)
