"""`sandbox-net` with `network.egress`: a program in a network namespace reaches what the rules name, and nothing else."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

import dnslib
import pytest

from sandbox.network import control
from sandbox.network.addresses import pack
from sandbox.network.egress import is_own_address
from sandbox.network.request import DnsRequest, EgressListener, EgressRequest
from sandbox.network.socket_maker import SocketSpec
from tests.kernel.conftest import InNamespaces
from tests.kernel.support import refusal
from tests.support.gates import GATE, INTERNET, INTERNET6, OTHER, RESOLVER, WAIT, Machine, write

pytestmark = pytest.mark.networks
KINDS = ("mount", "net", "pid")


def start_egress(
    machine: Machine,
    *,
    allow: tuple[str, ...] = ("example.org:9000",),
    deny: tuple[str, ...] = (),
    hosts: dict[str, str] | None = None,
    ports: tuple[int, ...] = (9000,),
    **fields: Any,
) -> control.Ready:
    machine.make_every_address_local()
    listeners = [SocketSpec("tcp", address, port) for port in ports for address in ("0.0.0.0", "::")]
    dns = [SocketSpec(kind, address, 53) for kind in ("udp", "tcp") for address in ("0.0.0.0", "::")]
    observer = SocketSpec("observer", "gate0")
    fds = machine.gate_sockets(observer, *dns, *listeners)
    return machine.start(
        egress=EgressRequest(
            allow=allow,
            deny=deny,
            hosts=hosts or {},
            listeners=tuple(map(EgressListener, fds[5:])),
            observer=fds[0],
        ),
        dns=(DnsRequest(udp=tuple(fds[1:3]), tcp=tuple(fds[3:5]), egress=True),),
        **fields,
    )


def query(name: str, kind: str = "A", server: str = GATE, *, tcp: bool = False) -> tuple[str, list[str]]:
    """Query *server*, and return the code of the answer and its data."""
    data = dnslib.DNSRecord.question(name, kind).send(server, tcp=tcp, timeout=WAIT, ipv6=":" in server)
    answer = dnslib.DNSRecord.parse(data)
    return dnslib.RCODE[answer.header.rcode], [str(record.rdata) for record in answer.rr]


def greeting(address: str, port: int) -> str:
    """Connect, and return the first line; "" if the connection is reset."""
    try:
        with socket.create_connection((address, port), WAIT) as one:
            return one.recv(1000).decode().strip()
    except ConnectionResetError:
        return ""


def connect_to_name(name: str, port: int) -> str:
    (address,) = query(name)[1]
    return greeting(address, port)


def test_an_allowed_name_is_reached_and_a_program_needs_no_proxy(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        start_egress(machine)
        found = machine.sandbox.run(lambda: [query("example.org"), connect_to_name("example.org", 9000)])
        return found, machine.refusals(), machine.stop()

    (answer, line), refusals, status = in_namespaces(inside, kinds=KINDS)
    assert answer == ["NOERROR", ["198.18.0.1"]]
    assert line.startswith(f"{INTERNET} 9000 198.51.100.2 ")
    assert (refusals, status) == ([], 0)


def test_every_other_way_is_refused_at_once_and_the_log_has_the_line_to_add(
    in_namespaces: InNamespaces,
) -> None:
    def attempts() -> dict[str, Any]:
        query("example.org")
        started = time.monotonic()
        found: dict[str, Any] = {
            "name": query("example.com"),
            "name over TCP": query("sub.example.org", tcp=True),
            "other resolver": query("example.com", server=RESOLVER),
            "other resolver over TCP": query("example.com", server="192.0.2.1", tcp=True),
            "other resolver over IPv6": query("example.com", server="2001:db8::53"),
            "allowed name from another resolver": query("EXAMPLE.org.", server="192.0.2.1"),
            "no IPv6 address": query("example.org", "AAAA"),
            "raw address": greeting(INTERNET, 9000),
            "raw address of IPv6": greeting(INTERNET6, 9000),
            "address of no name": greeting("198.18.0.2", 9000),
            "other port": refusal(greeting, INTERNET, 81),
            "other port of the name": refusal(greeting, "198.18.0.1", 80),
            "other port of IPv6": refusal(greeting, INTERNET6, 80),
        }
        for name, address in (
            ("UDP", "198.18.0.1"),
            ("UDP to an address", INTERNET),
            ("UDP over IPv6", INTERNET6),
        ):
            one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            one.settimeout(WAIT)
            one.connect((address, 443))
            one.send(b"x")
            found[name] = refusal(one.recv, 10)
            one.close()
        assert time.monotonic() - started < WAIT
        return found

    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        start_egress(machine)
        found = machine.sandbox.run(attempts)
        return (
            found,
            [(one.destination, one.reason, one.remedy) for one in machine.refusals()],
            machine.queries(),
        )

    found, refusals, queries = in_namespaces(inside, kinds=KINDS)
    unknown = ["NXDOMAIN", []]
    assert found == {
        "name": unknown,
        "name over TCP": unknown,
        "other resolver": unknown,
        "other resolver over TCP": unknown,
        "other resolver over IPv6": unknown,
        "allowed name from another resolver": ["NOERROR", ["198.18.0.1"]],
        "no IPv6 address": ["NOERROR", []],
        "raw address": "",
        "raw address of IPv6": "",
        "address of no name": "",
        "other port": "ECONNREFUSED",
        "other port of the name": "ECONNREFUSED",
        "other port of IPv6": "ECONNREFUSED",
        "UDP": "ECONNREFUSED",
        "UDP to an address": "ECONNREFUSED",
        "UDP over IPv6": "ECONNREFUSED",
    }
    rule = 'network.egress.allow = ["example.org:9000", "%s"]'
    assert sorted(refusals) == sorted(
        [
            ["example.com", "no rule has this name", rule % "example.com:9000"],
            ["sub.example.org", "no rule has this name", rule % "sub.example.org:9000"],
            ["203.0.113.10:9000", "no rule has this address", rule % "203.0.113.10:9000"],
            ["[2001:db8::10]:9000", "no rule has this address", rule % "[2001:db8::10]:9000"],
            ["198.18.0.2:9000", "no name has this address in this run", ""],
            ["203.0.113.10:81", "no rule has this address", rule % "203.0.113.10:81"],
            ["example.org:80", "rules allow this name with port 9000 only", rule % "example.org:80"],
            ["[2001:db8::10]:80", "no rule has this address", rule % "[2001:db8::10]:80"],
            ["example.org:443/udp", "UDP other than DNS is refused with network.egress", ""],
            ["203.0.113.10:443/udp", "UDP other than DNS is refused with network.egress", ""],
            ["[2001:db8::10]:443/udp", "UDP other than DNS is refused with network.egress", ""],
        ]
    )
    assert queries == []  # an unlisted name is no covert channel


def link_local_address() -> str:
    """Return the link-local address of gate0 in this network namespace."""
    with open("/proc/self/net/if_inet6") as file:
        (digits,) = [line.split()[0] for line in file if line.startswith("fe80") and "gate0" in line]
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))


def test_a_link_local_address_of_the_gate_is_refused_as_any_other(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine()
        start_egress(machine)
        address = machine.gate.run(link_local_address)
        line = machine.sandbox.run(lambda: greeting(f"{address}%box0", 9000))
        return line, [one.destination == f"[{address}]:9000" for one in machine.refusals()], machine.stop()

    assert in_namespaces(inside, kinds=KINDS) == ["", [True], 0]


def test_an_address_passes_by_a_rule_with_an_address_or_network(in_namespaces: InNamespaces) -> None:
    def attempts() -> list[str]:
        return [
            greeting(INTERNET, 9000),
            greeting(OTHER, 9000),
            greeting(INTERNET6, 9000),
            greeting(OTHER, 443),
        ]

    def inside() -> Any:
        machine = Machine()
        start_egress(
            machine,
            allow=("203.0.113.0/24:9000", f"[{INTERNET6}]:9000", f"{OTHER}:443"),
            deny=(f"{OTHER}:9000",),
            ports=(443, 9000),
        )
        return machine.sandbox.run(attempts), machine.refusals()[0].remedy

    lines, remedy = in_namespaces(inside, kinds=KINDS)
    assert [line.split()[:2] for line in lines] == [
        [INTERNET, "9000"],
        [],
        [INTERNET6, "9000"],
        [OTHER, "443"],
    ]
    assert remedy == "network.egress.deny = []"


def test_a_name_that_resolves_to_an_address_inside_is_refused_unless_hosts_pins_it(
    in_namespaces: InNamespaces,
) -> None:
    inner = {
        "loopback.example.org": "127.0.0.1",
        "private.example.org": "10.1.2.3",
        "shared.example.org": "100.64.0.1",
        "own.example.org": "198.51.100.2",
        "metadata.example.org": "169.254.169.254",
        "mapped.example.org": "::ffff:7f00:1",
    }

    def inside() -> Any:
        machine = Machine({name: [[address]] for name, address in inner.items()})
        listener = socket.create_server(("0.0.0.0", 9000))
        start_egress(machine, allow=("*.example.org:9000",), hosts={"pinned.example.org": "198.51.100.2"})
        found = machine.sandbox.run(lambda: [connect_to_name(name, 9000) for name in inner])
        machine.sandbox.start(lambda: connect_to_name("pinned.example.org", 9000))
        listener.accept()
        return found, [(one.destination, one.reason, one.remedy) for one in machine.refusals()]

    found, refusals = in_namespaces(inside, kinds=KINDS)
    assert found == [""] * len(inner)
    pin = 'network.hosts."%s" = "%s"'
    assert refusals == [
        [f"{name}:9000", reason, pin % (name, address.replace("::ffff:7f00:1", "127.0.0.1"))]
        for (name, address), reason in zip(
            inner.items(),
            (
                "it resolves to 127.0.0.1, an address of this machine",
                "it resolves to the private address 10.1.2.3",
                "it resolves to the shared address 100.64.0.1",
                "it resolves to 198.51.100.2, an address of this machine",
                "it resolves to the link-local address 169.254.169.254",
                "it resolves to 127.0.0.1, an address of this machine",
            ),
            strict=True,
        )
    ]


def test_no_rule_opens_an_address_of_the_host(in_namespaces: InNamespaces) -> None:
    addresses = ("198.51.100.2", "0.0.0.0", "127.0.0.1", "127.0.0.9", "2001:db8:1::2", "::", "::1")

    def inside() -> Any:
        servers = [
            socket.create_server(("0.0.0.0", 9000)),
            socket.create_server(("::", 9000), family=socket.AF_INET6),
        ]
        machine = Machine()
        found = [
            is_own_address(pack(address)) for address in (*addresses, INTERNET, INTERNET6, "198.51.100.255")
        ]
        start_egress(machine, allow=("0.0.0.0/0", "0.0.0.0", "127.0.0.0/8", "::/0", "::1"))
        lines = machine.sandbox.run(
            lambda: [greeting(address, 9000) for address in ("198.51.100.2", "2001:db8:1::2")]
        )
        for server in servers:
            server.settimeout(0)
        return (
            found,
            lines,
            [one.remedy for one in machine.refusals()],
            [refusal(one.accept) for one in servers],
        )

    found, lines, remedies, accepted = in_namespaces(inside, kinds=KINDS)
    assert found == [True] * len(addresses) + [False] * 3
    assert lines == ["", ""]
    assert remedies == ['network.host_access = ["127.0.0.1:9000"]'] * 2
    assert accepted == ["EAGAIN", "EAGAIN"]


def test_each_connection_is_checked_although_the_name_changes_its_answer(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET], ["198.51.100.2"], ["10.0.0.1", OTHER]]})
        socket.create_server(("0.0.0.0", 9000))
        start_egress(machine)
        found = machine.sandbox.run(lambda: [connect_to_name("example.org", 9000) for _ in range(3)])
        return found, len(machine.refusals())

    lines, refusals = in_namespaces(inside, kinds=KINDS)
    assert [line.split()[:1] for line in lines] == [[INTERNET], [], [OTHER]]
    assert refusals == 1


def test_a_name_without_an_address_is_reset_and_no_search_domain_is_tried(
    in_namespaces: InNamespaces,
) -> None:
    def inside() -> Any:
        machine = Machine({"gone.example.org.corp.example": [[INTERNET]]})
        start_egress(machine, allow=("gone.example.org:9000",))
        line = machine.sandbox.run(lambda: connect_to_name("gone.example.org", 9000))
        return line, machine.refusals()[0].reason, machine.queries()

    line, reason, queries = in_namespaces(inside, kinds=KINDS)
    assert (line, reason) == ("", "the host's resolver has no address of this name")
    assert {query.split()[0] for query in queries} == {"gone.example.org"}


def test_a_rule_without_a_port_works_through_a_redirect(in_namespaces: InNamespaces) -> None:
    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        machine.make_every_address_local()
        machine.gate.commands(
            "nft table inet sandbox { chain pre { type nat hook prerouting priority dstnat; "
            "iifname gate0 tcp dport != 53 redirect to :40000; }; }"
        )
        fds = machine.gate_sockets(
            SocketSpec("udp", "0.0.0.0", 53),
            SocketSpec("tcp", "0.0.0.0", 40000),
            SocketSpec("tcp", "::", 40000),
            SocketSpec("observer", "gate0"),
        )
        machine.start(
            egress=EgressRequest(
                allow=("example.org", f"{INTERNET6}/128"),
                deny=("example.org:443",),
                hosts={},
                listeners=(EgressListener(fds[1], redirected=True), EgressListener(fds[2], redirected=True)),
                observer=fds[3],
            ),
            dns=(DnsRequest(udp=(fds[0],), tcp=(), egress=True),),
        )

        def attempts() -> list[str]:
            return [
                connect_to_name("example.org", 80),
                connect_to_name("example.org", 9000),
                connect_to_name("example.org", 443),
                greeting(INTERNET6, 9000),
                greeting(OTHER, 9000),
                greeting(GATE, 40000),
            ]

        return machine.sandbox.run(attempts), [one.destination for one in machine.refusals()]

    lines, refusals = in_namespaces(inside, kinds=KINDS)
    assert [line.split()[:2] for line in lines] == [
        [INTERNET, "80"],
        [INTERNET, "9000"],
        [],
        [INTERNET6, "9000"],
        [],
        [],
    ]
    assert refusals == ["example.org:443", f"{OTHER}:9000", f"{GATE}:40000"]


def test_echo_requests_are_refused_by_a_rule_and_logged(in_namespaces: InNamespaces) -> None:
    def ping() -> str:
        """Send an echo request, and return the name of the errno that an ICMP error gives."""
        one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        one.settimeout(WAIT)
        one.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        one.connect((INTERNET, 0))
        one.send(b"\x08\x00\xf7\xff\x00\x00\x00\x00")
        try:
            one.recv(100)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "answered"

    def inside() -> Any:
        machine = Machine()
        start_egress(machine)
        machine.gate.commands("rule add iif gate0 ipproto icmp prohibit pref 1")
        # The rule of the local table is the first one, so it has to follow.
        machine.gate.commands("rule add lookup local pref 2", "rule del pref 0")
        machine.gate.run(lambda: write("/proc/sys/net/ipv4/ip_forward", "1"))
        return machine.sandbox.run(ping), [one.destination for one in machine.refusals()]

    assert in_namespaces(inside, kinds=KINDS) == ["EHOSTUNREACH", [f"{INTERNET} (ping)"]]


def test_a_list_of_thousands_of_rules_leaves_the_process_running(in_namespaces: InNamespaces) -> None:
    """The line that removes one of them from the file would not fit into a message to the supervisor."""

    def inside() -> Any:
        machine = Machine()
        start_egress(machine, deny=tuple(f"tracker{number}.example.net" for number in range(12000)))
        code, _ = machine.sandbox.run(lambda: query("tracker5.example.net"))
        return code, machine.next_event().reason, machine.stop()

    found = in_namespaces(inside, kinds=KINDS)
    assert found == ["NXDOMAIN", 'network.egress.deny has "tracker5.example.net"', 0]
