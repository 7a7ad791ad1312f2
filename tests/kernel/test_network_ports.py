"""`sandbox-net` with published ports, access to the host, and the DNS server of a network; and its confinement."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from sandbox.network import control
from sandbox.network.names import Member
from sandbox.network.request import DnsRequest, Forward
from sandbox.network.socket_maker import SocketSpec, make_sockets, open_socket
from tests.kernel.conftest import InNamespaces
from tests.kernel.support import refusal
from tests.kernel.test_network_egress import KINDS, connect_to_name, greeting, query, start_egress
from tests.kernel.test_network_egress_limits import reap_orphans
from tests.support.gates import (
    GATE,
    HOST,
    INTERNET,
    RESOLVER,
    SANDBOX,
    SANDBOX6,
    WAIT,
    Machine,
    serve_greeting,
)

pytestmark = pytest.mark.networks


def publish(port: int, inside: int, kind: Any = "tcp", address: str = "0.0.0.0", **fields: Any) -> Forward:
    """Return the forward of *port* of the host to *inside* of the sandbox."""
    listener = open_socket(SocketSpec(kind, address, port)).detach()
    fields = {"address": SANDBOX, "inside": True, "transparent": True, **fields}
    return Forward(listener=listener, protocol=kind, port=inside, **fields)


def serve_in_sandbox(machine: Machine, address: str = SANDBOX) -> None:
    """Serve TCP port 80 and UDP port 53 of the sandbox; each answers with the address of its client."""

    def serve_udp() -> None:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((address, 53))
        while True:
            _, peer = one.recvfrom(100)
            one.sendto(f"{peer[0]} {peer[1]}".encode(), peer)

    machine.sandbox.start(serve_udp)
    machine.sandbox.start(lambda: serve_greeting([(address, 80)]))
    deadline = time.monotonic() + WAIT
    while machine.sandbox.run(lambda: refusal(greeting, address, 80)) and time.monotonic() < deadline:
        pass


def ask_by_udp(address: str, port: int) -> list[str]:
    """Return the own address and port, and what the server at *address* answers, from the same address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(0.5)
        one.connect((address, port))
        for _ in range(int(WAIT)):
            one.send(b"x")
            try:
                own = one.getsockname()
                return [f"{own[0]} {own[1]}", one.recv(100).decode()]
            except (TimeoutError, ConnectionRefusedError):
                continue
    return []


def connect_from(address: str, port: int) -> list[str]:
    """Return the own address and port, and the address and port that the server sees."""
    with socket.create_connection((address, port), WAIT) as one:
        own = one.getsockname()
        return [f"{own[0]} {own[1]}", " ".join(one.recv(1000).decode().split()[2:])]


@pytest.mark.parametrize("gate", ["every address is local", "routes"])
def test_a_published_port_shows_the_address_of_the_client(in_namespaces: InNamespaces, gate: str) -> None:
    def inside() -> Any:
        machine = Machine()
        if gate == "routes":  # as docs/networking/tproxy.rst of the kernel has it
            machine.gate.commands(
                "nft table inet sandbox { chain pre { type filter hook prerouting priority mangle; "
                "socket transparent 1 meta mark set 1; }; }",
                "rule add fwmark 1 lookup 100",
                "route add local default dev lo table 100",
            )
        else:
            machine.make_every_address_local()
        serve_in_sandbox(machine)
        ports = machine.start(forwards=(publish(8080, 80), publish(0, 53, "udp"), publish(8081, 81))).ports
        outside = machine.internet.run(
            lambda: [connect_from(HOST, 8080), ask_by_udp(HOST, ports[1]), greeting(HOST, 8081)]
        )
        return outside, connect_from("127.0.0.1", 8080)[1], machine.stop()

    (tcp, udp, refused), from_host, status = in_namespaces(inside, kinds=KINDS)
    assert tcp[0] == tcp[1]
    assert udp[0] == udp[1]
    assert tcp[0].startswith("198.51.100.1 ")
    assert refused == ""
    assert from_host.startswith(GATE)  # 127.0.0.1 would be the sandbox itself
    assert status == 0


def test_a_service_on_the_loopback_of_the_sandbox_stays_private_and_a_port_answers_on_its_address_only(
    in_namespaces: InNamespaces,
) -> None:
    def inside() -> Any:
        machine = Machine()
        machine.make_every_address_local()
        serve_in_sandbox(machine, "127.0.0.1")
        machine.start(forwards=(publish(8080, 80, address="127.0.0.1"),))
        return greeting("127.0.0.1", 8080), machine.internet.run(lambda: refusal(greeting, HOST, 8080))

    assert in_namespaces(inside, kinds=KINDS) == ["", "ECONNREFUSED"]


def test_ipv6_is_forwarded_in_both_namespaces(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine()
        machine.make_every_address_local()
        machine.sandbox.start(lambda: serve_greeting([(SANDBOX6, 80)]))
        listener = open_socket(SocketSpec("tcp", "::", 8080)).detach()
        machine.start(
            forwards=(
                Forward(
                    listener=listener,
                    protocol="tcp",
                    address=SANDBOX6,
                    port=80,
                    inside=True,
                    transparent=True,
                ),
            )
        )
        deadline = time.monotonic() + WAIT
        while not (found := machine.internet.run(lambda: _connect_or_nothing("2001:db8:1::2", 8080))):
            assert time.monotonic() < deadline
        return found

    own, seen = in_namespaces(inside, kinds=KINDS)
    assert own == seen


def _connect_or_nothing(address: str, port: int) -> list[str]:
    try:
        found = connect_from(address, port)
    except ConnectionResetError:
        return []
    return found if found[1] else []


def test_a_service_of_the_host_is_reached_only_where_it_was_opened(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine()
        machine.make_every_address_local()
        serve_greeting_in_thread(machine)
        (listener,) = make_sockets(
            machine.sandbox.user, machine.sandbox.net, [SocketSpec("tcp", "127.0.0.1", 5432)]
        )
        forward = Forward(
            listener=listener.detach(), protocol="tcp", address="127.0.0.1", port=5432, inside=False
        )
        machine.start(forwards=(forward,))
        return machine.sandbox.run(
            lambda: [
                greeting("127.0.0.1", 5432),
                refusal(greeting, "127.0.0.1", 5433),
                refusal(greeting, HOST, 5432),
            ]
        )

    line, *others = in_namespaces(inside, kinds=KINDS)
    assert line.startswith("127.0.0.1 5432 127.0.0.1 ")
    assert others == ["ECONNREFUSED", "ECONNREFUSED"]


def serve_greeting_in_thread(machine: Machine) -> None:
    """Serve ports 5432 and 5433 of the host's loopback, and 5432 of its other address."""
    pid = os.fork()
    if pid == 0:
        try:
            serve_greeting([("127.0.0.1", 5432), ("127.0.0.1", 5433), (HOST, 5432)])
        finally:
            os._exit(0)
    deadline = time.monotonic() + WAIT
    while refusal(greeting, HOST, 5432) and time.monotonic() < deadline:
        pass


def start_network(machine: Machine, *, forwards: bool, members: tuple[Member, ...] = ()) -> None:
    fds = machine.gate_sockets(SocketSpec("udp", GATE, 53), SocketSpec("tcp", GATE, 53))
    machine.start(
        dns=(DnsRequest(udp=(fds[0],), tcp=(fds[1],), networks={"backend": members}, forwards=forwards),),
        resolvers=(RESOLVER,),
    )


def test_members_are_found_by_name_and_others_by_the_resolvers_of_the_host(
    in_namespaces: InNamespaces,
) -> None:
    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        start_network(machine, forwards=True, members=(Member("web", SANDBOX, ("www",)),))

        def ask() -> list[Any]:
            return [
                query("web"),
                query("web.backend", tcp=True),
                query("www"),
                query("2.0.99.10.in-addr.arpa", "PTR"),
                query("db"),
                query("db.backend"),
                query("example.org"),
                query("example.org", tcp=True),
                query("example.com"),
            ]

        first = machine.sandbox.run(ask)
        control.send(machine.control, control.SetMembers.of("backend", [Member("db", "10.99.0.3")]))
        machine.counts()  # commands are executed in order
        return first, machine.sandbox.run(ask), machine.queries()

    first, second, queries = in_namespaces(inside, kinds=KINDS)
    unknown, found, outside = ["NXDOMAIN", []], ["NOERROR", [SANDBOX]], ["NOERROR", [INTERNET]]
    assert first == [
        *(found, found, found, ["NOERROR", ["web.backend."]]),
        *(unknown, unknown, outside, outside, unknown),
    ]
    db = ["NOERROR", ["10.99.0.3"]]
    assert second == [*(unknown, unknown, unknown, unknown), *(db, db, outside, outside, unknown)]
    assert not any("backend" in line for line in queries)


def test_an_internal_network_sends_no_query_outside(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        start_network(machine, forwards=False)
        return machine.sandbox.run(
            lambda: [query("example.org"), query("example.org", tcp=True)]
        ), machine.queries()

    assert in_namespaces(inside, kinds=KINDS) == [[["NXDOMAIN", []]] * 2, []]


STATUS = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}


def facts_of(pid: int) -> list[Any]:
    """Return the title of a process, its `STATUS`, and whether /proc/PID belongs to another user, as if it is not dumpable."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read().rstrip(b"\0").decode()
    return [
        lines["Name"],
        command,
        {key: lines[key] for key in STATUS},
        os.stat(f"/proc/{pid}/fd").st_uid != 0,
    ]


def test_the_process_and_its_children_are_confined(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine()
        ready = start_egress(machine, forwards=(publish(8080, 80),))
        found = [facts_of(pid) for pid in (machine.process, *ready.children)]
        machine.stop()
        machine.end_servers()
        return found

    nothing, raw = "0" * 16, "0" * 12 + "2000"  # CAP_NET_RAW inside the gate, for IP_TRANSPARENT
    assert in_namespaces(inside, kinds=("mount", "net")) == [
        [
            title,
            title,
            {
                **dict.fromkeys(("CapInh", "CapAmb"), nothing),
                **dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), kept),
                "NoNewPrivs": "1",
                "Seccomp": "2",
            },
            True,
        ]
        for title, kept in (("sandbox-net", nothing), ("sandbox-sockets", raw), ("sandbox-resolve", nothing))
    ]


def test_the_process_of_real_root_changes_to_other_ids(in_namespaces: InNamespaces) -> None:
    if not in_namespaces.has_whole_map():
        pytest.skip("needs an id map with several ids")

    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        ready = start_egress(machine, forwards=(publish(8080, 80),), ids=(1000, 1001))
        found = []
        for pid in (machine.process, ready.children[1]):
            with open(f"/proc/{pid}/status") as file:
                found += [
                    line.split() for line in file if line.startswith(("Uid:", "Gid:", "Groups:", "CapPrm"))
                ]
        line = machine.sandbox.run(lambda: connect_to_name("example.org", 9000))
        machine.stop()
        machine.end_servers()
        return found, line

    found, line = in_namespaces(inside, kinds=("mount", "net"))
    one = [["Uid:", *["1000"] * 4], ["Gid:", *["1001"] * 4], ["Groups:"], ["CapPrm:", "0" * 16]]
    assert found == one * 2
    assert line.startswith(INTERNET)


def test_the_process_ends_if_the_one_that_makes_sockets_does(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine()
        machine.make_every_address_local()
        ready = machine.start(forwards=(publish(8080, 80),))
        os.kill(ready.children[0], signal.SIGKILL)
        event = machine.next_event()
        status = machine.stop()
        reap_orphans()
        with socket.create_server(("0.0.0.0", 8080)):  # the port is free again
            return [event.operation, event.text, status]

    assert in_namespaces(inside, kinds=KINDS) == ["serve", "the process that makes sockets has ended", 1]


def test_a_port_in_use_and_a_namespace_that_is_none_are_errors_of_their_call(
    in_namespaces: InNamespaces,
) -> None:
    def inside() -> Any:
        machine = Machine()
        taken = SocketSpec("tcp", GATE, 53)
        first = make_sockets(machine.gate.user, machine.gate.net, [taken])
        found = [
            refusal(make_sockets, machine.gate.user, machine.gate.net, [SocketSpec("udp", GATE, 53), taken]),
            refusal(make_sockets, machine.gate.user, machine.gate.net, [SocketSpec("tcp", "192.0.2.1", 1)]),
            refusal(make_sockets, machine.gate.user, machine.gate.user, [taken]),
        ]
        first[0].close()
        many = make_sockets(machine.gate.user, machine.gate.net, [SocketSpec("tcp", GATE)] * 300)
        found.append(str(len({one.getsockname()[1] for one in many})))
        for one in many:
            one.close()
        return found

    assert in_namespaces(inside, kinds=KINDS) == ["EADDRINUSE", "EADDRNOTAVAIL", "EINVAL", "300"]


def test_a_start_that_fails_is_reported_and_leaves_no_process(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine()
        try:
            machine.start(
                resolvers=(), dns=(), forwards=(publish(8080, 80, address="127.0.0.1"),), ids=(12345, 12345)
            )
        except AssertionError as error:
            text = str(error)
        else:
            text = "started"
        return text, machine.stop()

    text, status = in_namespaces(inside, kinds=KINDS, single_id=True)
    assert "Failed(operation='confine', errno=" in text
    assert status == 1


def test_nothing_slow_is_imported_for_the_process() -> None:
    code = (
        "import sys; import sandbox.network.network_process, sandbox.network.dns_server; print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"trio", "pyroute2", "asyncio", "logging", "subprocess", "ipaddress"} & set(modules)
    assert "dnslib" in modules
