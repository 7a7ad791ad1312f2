"""The choice of the server by the kernel's INIT request. The test acts as the kernel at the other end of a socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from tests.support.output import Complaints
from unionfs import cli, mount
from unionfs.fuse import protocol
from unionfs.fuse.backend import Choice, choose
from unionfs.fuse.libfuse import loop
from unionfs.launch import index_builder
from unionfs.options import Server, Serving


def first_request(major: int, minor: int) -> bytes:
    body = protocol.INIT_IN.pack(major, minor, 131072, 0x7FFFFFFF) + bytes(48)
    size = protocol.IN_HEADER.size + len(body)
    return protocol.IN_HEADER.pack(size, protocol.Opcode.INIT, 2, 0, 0, 0, 0, 0, 0) + body


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the kernel's end and the server's end, which is non-blocking."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("version", [(7, 23), (7, 45), (8, 0)])
def test_a_kernel_that_the_direct_server_knows_is_served_by_that(
    kernel: tuple[socket.socket, socket.socket], version: tuple[int, int]
) -> None:
    first = first_request(*version)
    kernel[0].send(first)
    found = choose(Serving(open_requests=False), kernel[1].fileno())
    assert found == Choice(server=Server.DIRECT, open_requests=False, first=first)


@pytest.mark.parametrize("version", [(7, 22), (6, 50)])
def test_an_older_kernel_is_served_by_pyfuse3_and_the_reason_told(
    kernel: tuple[socket.socket, socket.socket], version: tuple[int, int]
) -> None:
    first = first_request(*version)
    kernel[0].send(first)
    assert choose(Serving(open_requests=False), kernel[1].fileno()) == Choice(
        server=Server.PYFUSE3,
        open_requests=True,
        first=first,
        reason=f"the kernel has FUSE {version[0]}.{version[1]}, but the direct server requires 7.23",
    )


@pytest.mark.parametrize("server", [Server.DIRECT, Server.PYFUSE3])
def test_whoever_was_asked_for_serves_and_reads_the_first_request_itself(
    kernel: tuple[socket.socket, socket.socket], server: Server
) -> None:
    kernel[0].send(first_request(7, 22))
    assert choose(Serving(server=server), kernel[1].fileno()) == Choice(server=server, open_requests=True)
    assert len(os.read(kernel[1].fileno(), 8192)) == 104


@pytest.mark.parametrize("said", [b"", b"x" * 50])
def test_what_is_no_first_request_is_left_to_the_server_to_judge(
    kernel: tuple[socket.socket, socket.socket], said: bytes
) -> None:
    if said:
        kernel[0].send(said)
    found = choose(Serving(), kernel[1].fileno())
    assert found == Choice(server=Server.DIRECT, open_requests=True, first=said)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
def test_the_end_of_the_connection_while_pyfuse3_reads_a_request_ends_it_without_a_word(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def main(**_: object) -> None:
        async with trio.open_nursery():
            raise OSError(number, "fuse_session_receive_buf failed")

    monkeypatch.setattr(pyfuse3, "main", main)
    assert trio.run(loop._serve_until_unmounted, []) == 0


def test_any_other_failure_of_pyfuse3s_loop_is_logged_and_the_loop_begins_again(
    monkeypatch: pytest.MonkeyPatch, complaints: Complaints
) -> None:
    failures = [OSError(errno.EIO, "fuse_session_receive_buf failed"), ValueError("bug")]

    async def main(**_: object) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(pyfuse3, "main", main)
    complaints.expect_log("the serving loop failed")
    assert trio.run(loop._serve_until_unmounted, []) == 0
    assert failures == []


def test_a_mount_whose_indexes_cannot_be_begun_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def no_memory(*_: object) -> None:
        raise MemoryError

    device = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    mounted = SimpleNamespace(fd=device, unmount=lambda: done.append("unmounted"))
    monkeypatch.setattr(mount, "mount", lambda *_: mounted)
    monkeypatch.setattr(index_builder, "IndexBuilder", no_memory)
    fs: Any = SimpleNamespace(close=lambda: done.append("closed"))
    source: Any = SimpleNamespace(index_fd=0)
    with pytest.raises(MemoryError):
        cli._mount_and_serve(fs, source, "/nowhere", set(), Serving(), lambda: None)
    assert done == ["closed", "unmounted"]


def test_a_mount_does_without_an_index_that_cannot_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> tuple[socket.socket, socket.socket]:
        raise OSError(24, os.strerror(24))

    source: Any = None
    monkeypatch.setattr(index_builder, "lacks_indexes", full)
    index_builder.IndexBuilder(source).finish()
    monkeypatch.setattr(index_builder, "lacks_indexes", lambda _: True)
    monkeypatch.setattr(socket, "socketpair", full)
    index_builder.IndexBuilder(source).finish()
