"""The supervisor's end of the control socket, without a sandbox: who is answered, and that nobody delays another."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import StateError
from sandbox.runtime.control import MOST_CLIENTS, ControlSocket, Request, RequestError
from sandbox.state.control import MAX_PACKET, NAME, VERSION, ControlError, connect


class Supervisor:
    """A poll loop with the socket. It executes a request at once, or later if it is "slow"."""

    def __init__(self, directory: Path) -> None:
        self.begun: list[str] = []
        self.control = ControlSocket(str(directory), self._begin)

    def _begin(self, request: Request) -> None:
        self.begun.append(request.name)
        if request.name == "refuse":
            raise RequestError("no", "EBUSY")

    def turn(self) -> None:
        """Handle everything that can be read."""
        while True:
            poll = select.poll()
            for fd, events in self.control.interest().items():
                poll.register(fd, events)
            ready = poll.poll(0)
            if not ready:
                return
            for fd, _ in ready:
                self.control.handle(fd)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    # Longer than sockaddr_un permits.
    made = tmp_path / ("d" * 120)
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def supervisor(directory: Path) -> Iterator[Supervisor]:
    made = Supervisor(directory)
    yield made
    made.control.close()


def client(directory: Path) -> socket.socket:
    fd = os.open(directory, os.O_PATH)
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.connect(f"/proc/self/fd/{fd}/{NAME}")
    finally:
        os.close(fd)
    made.settimeout(5)
    return made


def send(channel: socket.socket, request: str, fds: tuple[int, ...] = (), **more: object) -> None:
    socket.send_fds(
        channel, [json.dumps({"version": VERSION, "request": request, **more}).encode()], list(fds)
    )


def received(channel: socket.socket) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(channel.recv(MAX_PACKET))
    return answer


def test_requests_are_executed_one_after_the_other(directory: Path, supervisor: Supervisor) -> None:
    with client(directory) as one, client(directory) as two:
        send(one, "first")
        send(two, "second")
        send(one, "third")
        supervisor.turn()
        assert len(supervisor.begun) == 1
        for _ in range(3):
            supervisor.control.finish({"done": supervisor.begun[-1]})
        answers = [received(one)["done"], received(one)["done"], received(two)["done"]]
        assert sorted(answers) == sorted(supervisor.begun) == ["first", "second", "third"]


def test_a_refused_request_delays_no_other(directory: Path, supervisor: Supervisor) -> None:
    with client(directory) as one, client(directory) as two:
        send(one, "refuse")
        send(two, "next")
        supervisor.turn()
        assert received(one) == {"version": VERSION, "error": "no", "errno": "EBUSY"}
        supervisor.control.finish({"ok": 1})
        assert received(two) == {"version": VERSION, "ok": 1}


def test_the_socket_is_for_its_owner_alone(directory: Path, supervisor: Supervisor) -> None:
    info = os.lstat(directory / NAME)
    assert stat.S_ISSOCK(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert supervisor.begun == []


@pytest.mark.root
def test_another_user_is_not_answered(directory: Path, supervisor: Supervisor) -> None:
    """The mode of the socket and of its directory is not all that protects it."""
    for at in (directory, *directory.parents[:3]):
        os.chmod(at, 0o755)
    os.chmod(directory / NAME, 0o666)
    script = f"""
import os, socket
fd = os.open({str(directory)!r}, os.O_PATH)
os.setuid(65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(f"/proc/self/fd/{{fd}}/{NAME}")
try:
    s.send(b'{{"version": 1, "request": "first"}}')
    print(s.recv(100))
except OSError:
    print(b"")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            supervisor.turn()
        assert process.stdout is not None
        assert process.stdout.read() == b"b''\n"
    assert supervisor.begun == []


@pytest.mark.parametrize(
    "packet",
    [b"", b"x", b"[]", b"{}", b'{"version": 1}', b'{"version": 1, "request"', b"\xff" * 100, b"[" * 60_000],
    ids=lambda packet: packet[:20].decode(errors="replace"),
)
def test_a_malformed_request_is_answered_or_ends_its_connection(
    directory: Path, supervisor: Supervisor, packet: bytes
) -> None:
    with client(directory) as bad, client(directory) as good:
        bad.send(packet)
        supervisor.turn()
        assert packet == b"" or "malformed" in received(bad)["error"]
        send(good, "first")
        supervisor.turn()
        supervisor.control.finish({})
        assert received(good) == {"version": VERSION}


def test_a_request_of_another_version_is_one_clear_error(directory: Path, supervisor: Supervisor) -> None:
    with client(directory) as channel:
        channel.send(b'{"version": 7, "request": "first"}')
        supervisor.turn()
        assert "version 7 of the control protocol" in received(channel)["error"]


def test_a_packet_that_is_too_long_or_has_too_many_descriptors_ends_its_connection(
    directory: Path, supervisor: Supervisor
) -> None:
    with client(directory) as long, client(directory) as many:
        long.send(b"x" * (MAX_PACKET + 1))
        send(many, "first", (0, 1, 2))
        supervisor.turn()
        assert (long.recv(1), many.recv(1)) == (b"", b"")
    assert supervisor.begun == []


def test_descriptors_are_closed_with_their_request(directory: Path, supervisor: Supervisor) -> None:
    reader, writer = os.pipe()
    with client(directory) as channel:
        send(channel, "refuse", (writer,))
        send(channel, "first", (writer,))
        send(channel, "waiting", (writer,))
        os.close(writer)
        supervisor.turn()
        supervisor.control.finish({})
        assert supervisor.begun == ["refuse", "first", "waiting"]
        supervisor.control.close()
        assert os.read(reader, 1) == b""  # no descriptor of the other end is open
    os.close(reader)


def test_a_client_that_reads_nothing_is_dropped_and_the_others_are_answered(
    directory: Path, supervisor: Supervisor
) -> None:
    with client(directory) as deaf, client(directory) as good:
        for _ in range(2000):
            try:
                deaf.settimeout(0)
                send(deaf, "refuse")
            except OSError:
                pass
            supervisor.turn()
        send(good, "first")
        supervisor.turn()
        supervisor.control.finish({"ok": 1})
        assert received(good)["ok"] == 1


def test_more_clients_than_the_limit_wait(directory: Path, supervisor: Supervisor) -> None:
    clients = []
    for _ in range(MOST_CLIENTS + 5):
        clients.append(client(directory))
        supervisor.turn()
    send(clients[-1], "first")
    supervisor.turn()
    assert supervisor.begun == []
    for each in clients[:10]:
        each.close()
    supervisor.turn()
    assert supervisor.begun == ["first"]
    for each in clients:
        each.close()


def test_a_client_that_has_gone_is_forgotten(directory: Path, supervisor: Supervisor) -> None:
    with client(directory) as channel:
        send(channel, "first")
        supervisor.turn()
    supervisor.turn()
    supervisor.control.finish({})
    assert supervisor.control.current is None


def test_a_command_reports_that_nothing_listens(directory: Path) -> None:
    with pytest.raises(StateError, match="cannot be reached"), connect(str(directory), "box"):
        pass


def test_a_command_reports_errors_of_the_supervisor_and_its_end(
    directory: Path, supervisor: Supervisor
) -> None:
    child = os.fork()
    if child == 0:
        for _ in range(400):
            supervisor.turn()
            select.select([], [], [], 0.005)
            if len(supervisor.begun) == 2:
                break
        os._exit(0)
    supervisor.control.close()
    with connect(str(directory), "box") as asking:
        with pytest.raises(ControlError, match="no") as refused:
            asking.ask("refuse")
        assert refused.value.errno_name == "EBUSY"
        with pytest.raises(StateError, match="box has ended meanwhile"):
            asking.ask("first")
    os.waitpid(child, 0)
