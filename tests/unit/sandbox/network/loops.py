"""An event loop in a thread of the test, and connections over loopback."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandbox.network.connections import Connections
from sandbox.network.event_loop import IN, EventLoop

WAIT = 60.0
"""Seconds that bound a failure."""


@contextmanager
def running(loop: EventLoop) -> Iterator[None]:
    """Run *loop* in a thread meanwhile. The test changes nothing of it until then."""
    ours, theirs = socket.socketpair()
    loop.add(theirs.fileno(), IN, lambda _events: loop.stop())
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join(WAIT)
        theirs.close()
        loop.close_all()
        assert not thread.is_alive()


def listener(kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket at a free port of loopback that is not blocking; a TCP socket listens."""
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        made.listen(512)
    made.settimeout(0)
    return made


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* is true."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def open_descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def wait_for_end(connections: Connections) -> None:
    """Wait until no connection is left."""
    wait_until(lambda: connections.count == 0)


def received(one: socket.socket) -> bytes:
    """Return what *one* receives until its end."""
    data = b""
    while block := one.recv(1 << 20):
        data += block
    return data
