"""`sandbox-net` with `network.egress`: slow names, many connections, and the end of a process."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from typing import Any

import pytest

from tests.kernel.conftest import InNamespaces
from tests.kernel.support import refusal
from tests.kernel.test_network_egress import KINDS, connect_to_name, greeting, query, start_egress
from tests.support.gates import INTERNET, WAIT, Machine

pytestmark = pytest.mark.networks


def test_a_slow_name_delays_no_other(in_namespaces: InNamespaces) -> None:
    def attempts() -> tuple[str, bool]:
        (slow,) = query("slow.example.org")[1]
        waiting = [socket.create_connection((slow, 9000), WAIT) for _ in range(10)]
        line = connect_to_name("fast.example.org", 9000)
        waits = select.select(waiting, (), (), 0)[0] == []
        for one in waiting:
            one.close()
        return line, waits

    def inside() -> Any:
        machine = Machine(
            {"slow.example.org": [[INTERNET]], "fast.example.org": [[INTERNET]]}, {"slow.example.org": 3600}
        )
        start_egress(machine, allow=("*.example.org:9000",))
        return machine.sandbox.run(attempts)

    line, waits = in_namespaces(inside, kinds=KINDS)
    assert line.startswith(INTERNET)
    assert waits


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, and return that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def serve_one_byte(port: int) -> None:
    """Send one byte to each connection, and keep all open."""
    raise_descriptor_limit()
    with socket.create_server((INTERNET, port), backlog=4096) as listener:
        kept = []
        while True:
            kept.append(listener.accept()[0])
            kept[-1].send(b"x")


def test_two_thousand_connections_are_served_at_once_and_more_are_reset(in_namespaces: InNamespaces) -> None:
    most = min(2000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 700) // 6)

    def attempts() -> tuple[int, int]:
        raise_descriptor_limit()
        (address,) = query("example.org")[1]
        opened = []
        for _ in range(most):
            opened.append(socket.create_connection((address, 9001), WAIT))
            assert opened[-1].recv(1) == b"x"
        reset = sum(greeting(address, 9001) == "" for _ in range(5))
        for one in opened:
            one.close()
        return len(opened), reset

    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        machine.internet.start(lambda: serve_one_byte(9001))
        start_egress(machine, allow=("example.org:9001",), ports=(9001,))
        while machine.internet.run(lambda: refusal(greeting, INTERNET, 9001)):
            pass
        found = machine.sandbox.run(attempts)
        counts = machine.counts()
        machine.stop()
        return found, counts.above_limit

    found, above_limit = in_namespaces(inside, kinds=KINDS)
    assert found == [most, 5]
    assert above_limit == 5


def test_connections_that_ended_leave_room_and_no_descriptor(in_namespaces: InNamespaces) -> None:
    """A leaked descriptor of a connection would use up the limit, which is that of some 30 connections."""

    def inside() -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (900, 900))
        machine = Machine({"example.org": [[INTERNET]]})
        start_egress(machine)

        def attempts() -> set[str]:
            (address,) = query("example.org")[1]
            return {greeting(address, 9000).split()[0] for _ in range(300)}

        found = machine.sandbox.run(lambda: list(attempts()))
        deadline = time.monotonic() + WAIT
        while (counts := machine.counts()).connections and time.monotonic() < deadline:
            time.sleep(0.01)
        return found, counts.above_limit, counts.connections

    assert in_namespaces(inside, kinds=KINDS) == [[INTERNET], 0, 0]


def reap_orphans() -> None:
    """Reap the ended children of this process, which is process 1 of its pid namespace."""
    while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
        pass


def exists(pid: int) -> bool:
    return refusal(os.kill, pid, 0) is None


@pytest.mark.parametrize("victim", ["supervisor", "sandbox-net", "sandbox-resolve"])
def test_after_the_end_of_a_process_nothing_is_reachable_and_nothing_runs(
    in_namespaces: InNamespaces, victim: str
) -> None:
    def inside() -> Any:
        machine = Machine({"example.org": [[INTERNET]]})
        ready = start_egress(machine)
        assert machine.sandbox.run(lambda: connect_to_name("example.org", 9000)).startswith(INTERNET)
        if victim == "supervisor":
            machine.control.close()
        else:
            os.kill(machine.process if victim == "sandbox-net" else ready.children[0], signal.SIGKILL)
        os.waitpid(machine.process, 0)
        deadline = time.monotonic() + WAIT
        while exists(ready.children[0]) and time.monotonic() < deadline:
            reap_orphans()
        return exists(ready.children[0]), machine.sandbox.run(lambda: refusal(greeting, "198.18.0.1", 9000))

    assert in_namespaces(inside, kinds=KINDS) == [False, "ECONNREFUSED"]
