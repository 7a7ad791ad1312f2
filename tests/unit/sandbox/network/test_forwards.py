"""Forwarded ports, TCP and UDP, over loopback."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.network import connections as connections_module
from sandbox.network import forwards
from sandbox.network.addresses import pack
from sandbox.network.connections import Connections
from sandbox.network.event_loop import EventLoop
from sandbox.network.forwards import (
    DatagramClients,
    DatagramForward,
    SocketSource,
    forward_tcp,
    may_be_source,
)
from sandbox.network.request import Forward
from tests.unit.sandbox.network.loops import (
    WAIT,
    listener,
    open_descriptors,
    received,
    running,
    wait_for_end,
    wait_until,
)


def is_reset(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, WAIT) as one:
            one.recv(1)
            return False
    except ConnectionResetError:
        return True


class Forwarding:
    """A TCP forward to *server*, a listener of the test."""

    def __init__(self, connections: Connections, port: int, server: socket.socket) -> None:
        self.connections = connections
        self.port = port
        self.server = server

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), WAIT)

    def is_reset(self) -> bool:
        """Connect, and return whether the connection is reset."""
        return is_reset(("127.0.0.1", self.port))

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a forwarded connection."""
        client = self.connect()
        self.server.settimeout(WAIT)
        accepted, _ = self.server.accept()
        accepted.settimeout(WAIT)
        return client, accepted


@contextmanager
def forwarding(*, limit: int = 100, port: int | None = None) -> Iterator[Forwarding]:
    loop = EventLoop()
    connections = Connections(loop, limit)
    with listener() as front, listener() as server:
        target = port or server.getsockname()[1]
        forward = Forward(listener=-1, protocol="tcp", address="127.0.0.1", port=target, inside=False)
        forward_tcp(connections, front, forward, SocketSource(forward, None))
        with running(loop):
            yield Forwarding(connections, front.getsockname()[1], server)
            wait_for_end(connections)
        connections.pipes.close()


def test_bytes_pass_in_both_directions_and_each_ends_by_itself() -> None:
    with forwarding() as forward:
        client, server = forward.pair()
        with client, server:
            client.sendall(b"question")
            assert server.recv(100) == b"question"
            client.shutdown(socket.SHUT_WR)
            assert server.recv(100) == b""
            server.sendall(b"answer after the end")
            assert client.recv(100) == b"answer after the end"
            server.close()
            assert client.recv(100) == b""


def test_large_data_pass_unchanged_in_both_directions_at_once() -> None:
    size = 20_000_000
    data = random.Random(1).randbytes(1 << 16) * (size >> 16)

    def send(one: socket.socket) -> None:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)

    with forwarding() as forward:
        client, server = forward.pair()
        with client, server:
            threads = [threading.Thread(target=send, args=(one,)) for one in (client, server)]
            digests: list[bytes] = []
            threads += [
                threading.Thread(
                    target=lambda one=one: digests.append(hashlib.sha256(received(one)).digest())
                )
                for one in (client, server)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT)
    assert digests == [hashlib.sha256(data).digest()] * 2


def test_a_receiver_that_does_not_read_stops_the_sender_and_loses_nothing() -> None:
    with forwarding() as forward:
        client, server = forward.pair()
        with client, server:
            client.settimeout(0.05)
            sent = 0
            try:
                while True:
                    sent += client.send(bytes(1 << 16))
            except TimeoutError:
                pass
            assert sent < 100_000_000
            other, other_server = forward.pair()  # the others go on meanwhile
            with other, other_server:
                other.sendall(b"x")
                assert other_server.recv(1) == b"x"
            client.shutdown(socket.SHUT_WR)
            assert len(received(server)) == sent


def test_an_end_of_both_sides_with_data_on_the_way_is_waited_for() -> None:
    """The client sends much and ends; the server ends its own direction first and reads later."""
    with forwarding() as forward:
        client, server = forward.pair()
        with client, server:
            server.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            thread = threading.Thread(target=lambda: (client.sendall(bytes(20_000_000)), client.close()))
            thread.start()
            assert len(received(server)) == 20_000_000
            thread.join(WAIT)


@pytest.mark.parametrize("side", [0, 1])
def test_a_reset_of_one_side_resets_the_other(side: int) -> None:
    with forwarding() as forward:
        pair = forward.pair()
        with pair[0], pair[1]:
            pair[side].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            pair[side].close()
            with pytest.raises(ConnectionResetError):
                pair[1 - side].recv(1)


def test_a_target_that_refuses_resets_the_client() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening, so that no other process has the port
        with forwarding(port=unused.getsockname()[1]) as forward:
            assert forward.is_reset()


def test_connections_above_the_limit_are_reset_and_counted() -> None:
    with forwarding(limit=3) as forward:
        pairs = [forward.pair() for _ in range(3)]
        assert forward.is_reset()
        assert forward.is_reset()
        for one, other in pairs:
            one.close()
            other.close()
        wait_for_end(forward.connections)
        assert forward.connections.above_limit == 2
        client, server = forward.pair()
        with client, server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"


def test_no_descriptor_is_left_whatever_way_connections_end() -> None:
    with forwarding() as forward:
        client, server = forward.pair()
        client.close()
        server.close()
        wait_for_end(forward.connections)
        before = open_descriptors()
        for number in range(60):
            client, server = forward.pair()
            client.sendall(b"x" * 1000 * number)
            if number % 3 == 0:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 3 == 1:
                server.recv(1)
            (client, server)[number % 2].close()
            (server, client)[number % 2].close()
        wait_for_end(forward.connections)
        wait_until(lambda: open_descriptors() <= before)


def test_idle_connections_have_two_descriptors_each() -> None:
    with forwarding() as forward:
        pairs = [forward.pair() for _ in range(20)]
        for client, server in pairs:
            client.sendall(b"x")
            assert server.recv(1) == b"x"
        # Four for each pair, two of which the test has itself; listeners, epoll and the four pipes that are used again.
        pipes = [name for name in map(_target, os.listdir("/proc/self/fd")) if name.startswith("pipe:")]
        assert len(set(pipes)) <= 8
        for client, server in pairs:
            client.close()
            server.close()


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:
        return ""


def test_an_address_that_does_not_answer_is_given_up_and_the_next_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections_module, "CONNECT_SECONDS", 0.1)
    loop = EventLoop()
    connections = Connections(loop, 10)
    failures: list[OSError] = []
    with listener() as front, listener() as server, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = []
        for _ in range(3):  # more than the backlog: a further connection gets no answer
            waiting.append(socket.socket())
            waiting[-1].settimeout(0)
            waiting[-1].connect_ex(address)

        def make() -> socket.socket:
            made = socket.socket()
            made.settimeout(0)
            return made

        candidates = [(make, address), (make, server.getsockname())]
        connections.listen(front, lambda one: one.connect(candidates, failures.append))
        with running(loop):
            with socket.create_connection(front.getsockname(), WAIT) as client:
                server.settimeout(WAIT)
                accepted, _ = server.accept()
                accepted.sendall(b"x")
                assert client.recv(1) == b"x"
                accepted.close()
            wait_for_end(connections)
            server.close()
            assert is_reset(front.getsockname())
        connections.pipes.close()
        for one in waiting:
            one.close()
    assert [error.errno for error in failures] == [errno.ECONNREFUSED]


@contextmanager
def datagram_forwarding() -> Iterator[tuple[tuple[str, int], socket.socket, DatagramForward]]:
    loop = EventLoop()
    with listener(socket.SOCK_DGRAM) as front, listener(socket.SOCK_DGRAM) as server:
        server.settimeout(WAIT)
        forward = Forward(
            listener=-1, protocol="udp", address="127.0.0.1", port=server.getsockname()[1], inside=False
        )
        made = DatagramForward(DatagramClients(loop), front, forward, SocketSource(forward, None))
        with running(loop):
            yield front.getsockname(), server, made
        for client in list(made._clients.values()):
            if client.socket is not None:
                client.socket.close()


def datagram_client(address: tuple[str, int]) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(WAIT)
    one.connect(address)
    return one


def test_each_udp_client_gets_the_answers_to_its_own_datagrams() -> None:
    with (
        datagram_forwarding() as (front, server, _),
        datagram_client(front) as one,
        datagram_client(front) as other,
    ):
        peers = []
        for client, text in ((one, b"one"), (other, b"other"), (one, b"one again"), (one, b"")):
            client.send(text)
            data, peer = server.recvfrom(100)
            assert data == text
            peers.append(peer)
        assert peers[0] == peers[2] == peers[3] != peers[1]
        server.sendto(b"to other", peers[1])
        server.sendto(b"to one", peers[0])
        server.sendto(b"to one, later", peers[0])
        assert (one.recv(100), one.recv(100), other.recv(100)) == (b"to one", b"to one, later", b"to other")


def test_a_large_datagram_passes_whole() -> None:
    with datagram_forwarding() as (front, server, _), datagram_client(front) as one:
        one.send(bytes(60000))
        assert server.recv(65535) == bytes(60000)


def test_an_idle_udp_client_is_forgotten_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "IDLE_SECONDS", 0.05)
    with datagram_forwarding() as (front, server, forward), datagram_client(front) as one:
        before = open_descriptors()
        one.send(b"x")
        first = server.recvfrom(10)[1]
        wait_until(lambda: not forward._clients and open_descriptors() == before)
        one.send(b"y")
        data, second = server.recvfrom(10)
        assert data == b"y"
        server.sendto(b"z", second)
        assert one.recv(10) == b"z"
        assert first[0] == second[0]


def test_the_udp_client_that_is_idle_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "MOST_CLIENTS", 2)
    with datagram_forwarding() as (front, server, forward):
        clients = [datagram_client(front) for _ in range(3)]
        for client in clients:
            client.send(b"x")
            server.recvfrom(10)
        wait_until(lambda: len(forward._clients) == 2)
        assert clients[0].getsockname() not in forward._clients
        for client in clients:
            client.close()


def test_a_udp_port_without_a_service_is_no_failure() -> None:
    with datagram_forwarding() as (front, server, forward), datagram_client(front) as one:
        port = server.getsockname()[1]
        server.close()
        for _ in range(3):
            one.send(b"x")
        wait_until(lambda: bool(forward._clients))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))
            again.settimeout(WAIT)
            one.send(b"last")
            while again.recv(10) != b"last":
                pass


@pytest.mark.parametrize(
    ("client", "target", "expected"),
    [
        ("203.0.113.9", "10.0.0.2", True),
        ("192.168.1.9", "10.0.0.2", True),
        ("127.0.0.1", "10.0.0.2", False),
        ("169.254.1.1", "10.0.0.2", False),
        ("10.0.0.2", "10.0.0.2", False),
        ("2001:db8::1", "10.0.0.2", False),
        ("2001:db8::1", "fd00::2", True),
        ("::1", "fd00::2", False),
    ],
)
def test_which_clients_can_be_the_source_inside(client: str, target: str, expected: bool) -> None:
    assert may_be_source(pack(client), pack(target)) == expected
