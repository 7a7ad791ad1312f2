"""Names are resolved by a process, here a thread, that is reached over a socket pair."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.network import resolver as resolver_module
from sandbox.network.addresses import pack
from sandbox.network.event_loop import EventLoop
from sandbox.network.resolver import Resolver, serve_names
from tests.unit.sandbox.network.loops import WAIT

FOUND = {b"one.example.org": ["192.0.2.1", "2001:db8::1"], b"mapped.example.org": ["::ffff:10.0.0.1"]}


class Lookup:
    """Stands in for getaddrinfo(3): names that begin with "slow" wait until :meth:`go`."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._event = threading.Event()
        self.go = self._event.set

    def __call__(self, name: bytes, _port: None, **_: int) -> list[tuple[object, ...]]:
        self.asked.append(name)
        if name.startswith(b"slow"):
            self._event.wait(WAIT)
        if name not in FOUND:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(0, 0, 0, "", (address, 0)) for address in FOUND[name]]


@pytest.fixture
def lookup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookup]:
    made = Lookup()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    monkeypatch.setenv("LOCALDOMAIN", "")  # serve_names sets it for its own process
    yield made
    made.go()


@contextmanager
def resolving() -> Iterator[tuple[EventLoop, Resolver, list[str]]]:
    loop = EventLoop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=serve_names, args=(theirs,))
    thread.start()
    ended: list[str] = []
    try:
        yield loop, Resolver(loop, ours, lambda: ended.append("ended")), ended
    finally:
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT)
        theirs.close()
        ours.close()
        loop.close_all()


def turn_until(loop: EventLoop, condition: object) -> None:
    assert callable(condition)
    while not condition():
        loop.turn(WAIT)


def test_addresses_come_in_their_order_and_unknown_names_have_none(lookup: Lookup) -> None:
    found: dict[str, list[bytes]] = {}
    with resolving() as (loop, resolver, _):
        for name in ("one.example.org", "mapped.example.org", "other.example.org"):
            resolver.resolve(name, lambda addresses, name=name: found.update({name: addresses}))
        turn_until(loop, lambda: len(found) == 3)
    assert found == {
        "one.example.org": [pack("192.0.2.1"), pack("2001:db8::1")],
        "mapped.example.org": [pack("10.0.0.1")],
        "other.example.org": [],
    }
    assert os.environ["LOCALDOMAIN"] == "."


def test_slow_names_delay_no_other_and_time_out(lookup: Lookup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "RESOLVE_SECONDS", 0.3)
    found: list[tuple[str, int]] = []
    with resolving() as (loop, resolver, _):
        for number in range(20):
            resolver.resolve(
                f"slow{number}.example.org", lambda addresses: found.append(("slow", len(addresses)))
            )
        resolver.resolve("one.example.org", lambda addresses: found.append(("one", len(addresses))))
        turn_until(loop, lambda: bool(found))
        assert found == [("one", 2)]
        turn_until(loop, lambda: len(found) == 21)
        assert set(found[1:]) == {("slow", 0)}
        lookup.go()
        resolver.resolve("one.example.org", lambda addresses: found.append(("one", len(addresses))))
        turn_until(loop, lambda: len(found) == 22)


def test_no_more_names_than_the_limit_are_resolved_at_once_and_none_is_lost(
    lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "MOST_AT_ONCE", 4)
    found: list[int] = []
    with resolving() as (loop, resolver, _):
        for _ in range(10):
            resolver.resolve("slow.example.org", lambda addresses: found.append(len(addresses)))
        for _ in range(20):
            loop.turn(0.01)
        assert len(lookup.asked) <= 4
        lookup.go()
        turn_until(loop, lambda: len(found) == 10)
    assert len(lookup.asked) == 10


def test_requests_beyond_the_limit_of_those_that_wait_get_no_address_at_once(
    lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(resolver_module, "MOST_WAITING", 3)
    found: list[int] = []
    with resolving() as (loop, resolver, _):
        for number in range(8):
            resolver.resolve("one.example.org", lambda addresses, number=number: found.append(number))
        assert found == [5, 6, 7]
        turn_until(loop, lambda: len(found) == 8)


def test_the_end_of_the_process_is_reported(lookup: Lookup) -> None:
    loop = EventLoop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended: list[str] = []
    Resolver(loop, ours, lambda: ended.append("ended"))
    theirs.close()
    loop.turn(WAIT)
    assert ended == ["ended"]
    ours.close()
    loop.close_all()
