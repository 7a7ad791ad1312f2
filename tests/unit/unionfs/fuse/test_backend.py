"""The choice of the server, and failures around it."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from tests.support.output import Complaints
from unionfs import cli, mount
from unionfs.fuse.backend import Choice, choose
from unionfs.fuse.libfuse import loop
from unionfs.launch import index_builder
from unionfs.options import Server, Serving


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Server.AUTO, Server.DIRECT),
        (Server.DIRECT, Server.DIRECT),
        (Server.PYFUSE3, Server.PYFUSE3),
    ],
)
def test_the_direct_server_serves_unless_the_other_is_named(wanted: Server, chosen: Server) -> None:
    assert choose(Serving(server=wanted)) == Choice(server=chosen, open_requests=True)


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
