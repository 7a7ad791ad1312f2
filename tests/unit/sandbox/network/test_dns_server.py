"""The DNS server on sockets of loopback, and its forwarding to a resolver of the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import dnslib
import pytest

from sandbox.network import dns_server as dns_server_module
from sandbox.network.dns_answers import Zone
from sandbox.network.dns_server import DnsServer, Upstream
from sandbox.network.egress_rules import EgressRules
from sandbox.network.event_loop import EventLoop
from sandbox.network.names import EgressNames, Member, MemberNames
from sandbox.network.refusals import RefusalLine, RefusalLog
from tests.unit.sandbox.network.loops import WAIT, listener, open_descriptors, received, running, wait_until


class Served:
    """A running server: its address for UDP and TCP, the refusals so far, and the number of descriptors."""

    def __init__(self, udp: tuple[str, int], tcp: tuple[str, int], lines: list[RefusalLine]) -> None:
        self.udp = udp
        self.tcp = tcp
        self.lines = lines

    def query(
        self, name: str, kind: str = "A", *, tcp: bool = False, seconds: float = WAIT
    ) -> tuple[str, list[str]]:
        host, port = self.tcp if tcp else self.udp
        data = dnslib.DNSRecord.question(name, kind).send(host, port, tcp=tcp, timeout=seconds)
        return codes(data)


def codes(data: bytes) -> tuple[str, list[str]]:
    record = dnslib.DNSRecord.parse(data)
    return dnslib.RCODE[record.header.rcode], [str(one.rdata) for one in record.rr]


@contextmanager
def serving(zone: Zone, resolvers: list[tuple[str, int]] | None = None) -> Iterator[Served]:
    loop = EventLoop()
    lines: list[RefusalLine] = []
    upstream = None if resolvers is None else Upstream(loop, resolvers)
    server = DnsServer(loop, zone, RefusalLog(lines.append, time.monotonic), upstream)
    before = open_descriptors()
    with listener(socket.SOCK_DGRAM) as udp, listener() as tcp:
        server.serve_udp(udp)
        server.serve_tcp(tcp)
        with running(loop):
            yield Served(udp.getsockname(), tcp.getsockname(), lines)
            wait_until(lambda: open_descriptors() <= before + 4)  # the two listeners, and those of `running`


def egress_zone() -> Zone:
    return Zone(rules=EgressRules.parse(("example.org:443",), (), {}), names=EgressNames())


@pytest.mark.parametrize("tcp", [False, True])
def test_queries_are_answered_and_refused_names_are_reported(tcp: bool) -> None:
    with serving(egress_zone()) as served:
        assert served.query("example.org", tcp=tcp) == ("NOERROR", ["198.18.0.1"])
        assert served.query("example.com", tcp=tcp) == ("NXDOMAIN", [])
        assert served.query("example.com", "AAAA", tcp=tcp) == ("NXDOMAIN", [])
    assert [line.destination for line in served.lines] == ["example.com"]


def test_many_queries_on_one_connection_are_answered_in_order_in_whatever_pieces_they_come() -> None:
    queries = [dnslib.DNSRecord.question("example.org", kind) for kind in ("A", "AAAA", "TXT") * 30]
    stream = b"".join(len(data).to_bytes(2, "big") + data for data in (bytes(one.pack()) for one in queries))
    with serving(egress_zone()) as served, socket.create_connection(served.tcp, WAIT) as one:
        for start in range(0, len(stream), 777):
            one.sendall(stream[start : start + 777])
        answers = b""
        identities = []
        while len(identities) < len(queries):
            while len(answers) < 2 or len(answers) < 2 + int.from_bytes(answers[:2], "big"):
                block = one.recv(4096)
                assert block
                answers += block
            length = int.from_bytes(answers[:2], "big")
            identities.append(int.from_bytes(answers[2:4], "big"))
            answers = answers[2 + length :]
    assert identities == [query.header.id for query in queries]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff\xff" + bytes(70000),
        b"\x00\x05abcde",
        b"\0\0" * 100,
        b"\x00\x0c" + bytes(12),
    ],
)
def test_hostile_streams_end_or_are_answered_and_others_are_served(data: bytes) -> None:
    with serving(egress_zone()) as served:
        with socket.create_connection(served.tcp, WAIT) as one:
            try:
                one.sendall(data)
                one.shutdown(socket.SHUT_WR)
                assert len(received(one)) < 100
            except OSError:  # the server has ended the connection already
                pass
        assert served.query("example.org", tcp=True)[0] == "NOERROR"


def test_hostile_datagrams_are_harmless() -> None:
    with serving(egress_zone()) as served, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for data in (b"", b"\0" * 11, b"\xff" * 60000, bytes(range(256)) * 2, b"\0" * 12, b"\x80" * 40):
            one.sendto(data, served.udp)
        for _ in range(500):
            one.sendto(
                b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", served.udp
            )
        wait_until(lambda: _answers(served))


def _answers(served: Served) -> bool:
    try:
        return served.query("example.org", seconds=0.5)[0] == "NOERROR"
    except TimeoutError:
        return False


def test_connections_are_bounded_and_idle_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server_module, "_MOST_CONNECTIONS", 5)
    monkeypatch.setattr(dns_server_module, "_CONNECTION_SECONDS", 0.1)
    with serving(egress_zone()) as served:
        many = [socket.socket() for _ in range(8)]
        for one in many:
            one.settimeout(WAIT)
            try:
                one.connect(served.tcp)
            except ConnectionResetError:
                continue
        for one in many:
            try:
                assert one.recv(1) == b""
            except OSError:
                pass
            one.close()
        assert served.query("example.org", tcp=True)[0] == "NOERROR"


def _both_protocols() -> tuple[socket.socket, socket.socket]:
    """Return a UDP socket and a TCP listener at the same free port."""
    for _ in range(100):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:  # another process has the TCP port
            udp.close()
    pytest.fail("no port is free")


class HostResolver:
    """A resolver of the host over UDP and TCP, which answers every name with 192.0.2.1 after *change* has seen the answer."""

    def __init__(self, change: Callable[[bytes], bytes | None]) -> None:
        self._change = change
        self.udp, self.tcp = _both_protocols()
        self.address: tuple[str, int] = self.udp.getsockname()
        self.ports: set[int] = set()
        self._threads = [threading.Thread(target=one) for one in (self._serve_udp, self._serve_tcp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"", self.address)
        socket.create_connection(self.address).close()
        for thread in self._threads:
            thread.join(WAIT)
        self.udp.close()
        self.tcp.close()

    def _answer(self, data: bytes) -> bytes | None:
        reply = dnslib.DNSRecord.parse(data).reply()
        reply.add_answer(dnslib.RR(reply.q.qname, rdata=dnslib.A("192.0.2.1"), ttl=5))
        return self._change(bytes(reply.pack()))

    def _serve_udp(self) -> None:
        while True:
            data, address = self.udp.recvfrom(4096)
            if not data:
                return
            self.ports.add(address[1])
            answer = self._answer(data)
            if answer is not None:
                self.udp.sendto(answer, address)

    def _serve_tcp(self) -> None:
        while True:
            accepted, _ = self.tcp.accept()
            with accepted:
                data = accepted.recv(4096)
                if not data:
                    return
                answer = self._answer(data[2:])
                if answer is not None:
                    accepted.sendall(len(answer).to_bytes(2, "big"))
                    accepted.sendall(answer)


def network_zone() -> Zone:
    members = MemberNames("backend")
    members.replace([Member("web", "10.0.0.2")])
    return Zone(members=(members,), forwards=True)


@pytest.mark.parametrize("tcp", [False, True])
def test_unknown_names_are_forwarded_from_a_new_port_each_time(tcp: bool) -> None:
    with HostResolver(lambda data: data) as resolver, serving(network_zone(), [resolver.address]) as served:
        for _ in range(5):
            assert served.query("example.org", tcp=tcp) == ("NOERROR", ["192.0.2.1"])
        assert served.query("web", tcp=tcp) == ("NOERROR", ["10.0.0.2"])
        assert served.query("gone.backend", tcp=tcp) == ("NXDOMAIN", [])
    assert tcp or len(resolver.ports) > 1


def test_a_forged_answer_is_ignored_and_the_right_one_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server_module, "_ANSWER_SECONDS", 0.2)
    sent = []

    def change(data: bytes) -> bytes:
        forged = dnslib.DNSRecord.parse(data)
        sent.append(data)
        if len(sent) == 1:
            forged.header.id ^= 1
        elif len(sent) == 2:
            forged.questions[0].qname = dnslib.DNSLabel("example.com")
        else:
            return data
        return bytes(forged.pack())

    with HostResolver(change) as resolver, serving(network_zone(), [resolver.address] * 3) as served:
        assert served.query("example.org") == ("NOERROR", ["192.0.2.1"])
    assert len(sent) == 3


@pytest.mark.parametrize("tcp", [False, True])
def test_the_next_resolver_is_tried_and_without_one_the_server_fails(
    tcp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server_module, "_ANSWER_SECONDS", 0.2)
    with (
        HostResolver(lambda _: None) as silent,
        HostResolver(lambda data: data) as good,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as nobody,
    ):
        nobody.bind(("127.0.0.1", 0))
        closed = nobody.getsockname()
        with serving(network_zone(), [closed, silent.address, good.address]) as served:
            assert served.query("example.org", tcp=tcp) == ("NOERROR", ["192.0.2.1"])
        with serving(network_zone(), [closed, silent.address]) as served:
            assert served.query("example.org", tcp=tcp) == ("SERVFAIL", [])
    with serving(network_zone(), []) as served:
        assert served.query("example.org", tcp=tcp) == ("SERVFAIL", [])


def test_forwarded_queries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server_module, "_MOST_FORWARDED", 3)
    monkeypatch.setattr(dns_server_module, "_ANSWER_SECONDS", 0.5)
    with (
        HostResolver(lambda _: None) as silent,
        serving(network_zone(), [silent.address]) as served,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
    ):
        one.settimeout(WAIT)
        one.connect(served.udp)
        queries = [dnslib.DNSRecord.question("example.org") for _ in range(5)]
        for query in queries:
            one.send(query.pack())
        first = [dnslib.DNSRecord.parse(one.recv(4096)).header.id for _ in range(2)]
        assert first == [query.header.id for query in queries[3:]]
        for _ in range(3):
            assert codes(one.recv(4096))[0] == "SERVFAIL"
