"""A large copy-up runs in a thread. Requests for the file wait for it, all others are answered."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.fsapi.direct import DirectClient
from tests.unit.unionfs.fuse.async_server import LARGE, PATIENCE, Server, no_memory
from unionfs.copyup import copy_data
from unionfs.fuse import protocol
from unionfs.fuse.direct.async_io import AsyncIo

if TYPE_CHECKING:
    from tests.support.output import Complaints
    from tests.unit.unionfs.conftest import MakeUnion


def test_a_large_copy_up_holds_nobody_up(server: Server) -> None:
    assert server.write("large", b"!!", 10) is None
    assert bytes(server.read("small")) == b"small"
    assert server.union.file("large").layer.writable is False
    server.gate.set()
    server.wait()
    assert server.resume() == [protocol.WRITE_OUT.pack(2, 0)]
    assert server.union.read("large") == LARGE[:10] + b"!!" + LARGE[12:]
    assert server.union.leftovers() == []


def test_two_who_write_to_a_large_file_wait_for_one_copy(server: Server) -> None:
    assert server.write("large", b"one", 0) is None
    assert server.write("large", b"two", 2) is None
    server.gate.set()
    server.wait()
    assert server.resume() == [protocol.WRITE_OUT.pack(3, 0)] * 2
    assert server.union.read("large") == b"ontwo" + LARGE[5:]
    assert server.client.requests.async_io is not None
    assert server.client.requests.async_io.count == 1
    assert server.union.leftovers() == []


def remove(server: Server) -> None:
    server.union.unlink("large")


def empty(server: Server) -> None:
    server.union.truncate("large", 0)


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        (lambda server: server.union.rename("large", "moved"), "moved", b"!" + LARGE[1:]),
        (lambda server: server.union.rename("large", "d/moved"), "d/moved", b"!" + LARGE[1:]),
        (lambda server: server.union.chmod("large", 0o600), "large", b"!" + LARGE[1:]),
        (lambda server: server.union.setxattr("large", "user.x", b"y"), "large", b"!" + LARGE[1:]),
        (empty, "large", b"!"),
        (remove, None, None),
    ],
    ids=["rename", "move", "chmod", "setxattr", "truncate", "unlink"],
)
def test_what_others_do_to_the_file_meanwhile_is_not_lost(
    server: Server, change: Callable[[Server], object], name: str | None, expected: bytes | None
) -> None:
    assert server.write("large", b"!") is None
    change(server)
    server.gate.set()
    server.wait()
    assert server.resume() == [protocol.WRITE_OUT.pack(1, 0)]
    if name is None:
        assert not server.union.exists("large")
    else:
        assert server.union.read(name) == expected
    assert server.union.leftovers() == []


def test_a_copy_that_fails_is_the_error_of_whoever_needs_it_and_leaves_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: copy_data.Copier, at: int, to: int, size: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(copy_data.Copier, "copy", full)
        assert server.write("large", b"!") is None
        server.wait()
        assert server.resume() == [-errno.ENOSPC]
    assert server.union.leftovers() == []
    assert server.write("large", b"!") is None, "the next one tries again"
    server.gate.set()
    server.wait()
    assert server.resume() == [protocol.WRITE_OUT.pack(1, 0)]


def test_a_copy_that_cannot_begin_is_an_error_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> tuple[bytes, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(server.union.parts.upper.workdir), "begin_copy", no_room)
    assert server.write("large", b"!") == -errno.ENOSPC


def test_a_request_that_cannot_be_kept_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch, complaints: Complaints
) -> None:
    complaints.expect_log("request write failed")
    monkeypatch.setattr(AsyncIo, "park", no_memory)
    assert server.write("large", b"!") == -errno.EIO


def test_a_copy_for_which_a_thread_has_no_memory_is_not_taken_for_the_file(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(copy_data.Copier, "copy", no_memory)
        assert server.write("large", b"!") is None
        server.wait()
        assert server.resume() == [-errno.ENOMEM]
    assert server.union.leftovers() == []
    assert server.union.read("large") == LARGE


def test_copies_under_way_count_against_the_size_of_the_writable_layer(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1 << 20
    data = os.urandom(size)
    union = make_union({"a": data, "b": data}, size=size * 3 // 2)
    news, gate = threading.Event(), threading.Event()
    client = DirectClient(union.fs, unopened=True)
    server = Server(union, client, news=news, gate=gate)
    client.requests.async_io = AsyncIo(union.fs, lambda *_: None, news.set)
    copy = copy_data.Copier.copy

    def held(self: copy_data.Copier, at: int, to: int, length: int) -> int:
        assert gate.wait(PATIENCE)
        return copy(self, at, to, length)

    monkeypatch.setattr(copy_data.Copier, "copy", held)
    union.create("other", b"")
    assert server.write("a", b"!") is None
    assert server.write("b", b"!") == -errno.ENOSPC
    wrote = server.write("other", data)
    assert isinstance(wrote, bytes)
    assert protocol.WRITE_OUT.unpack(wrote)[0] <= size // 2
    assert union.fs.statfs().f_bavail == 0
    assert server.write("a", b"?") is None, "which is the same copy"
    gate.set()
    server.wait()
    assert server.resume() == [protocol.WRITE_OUT.pack(1, 0)] * 2
    counted = union.parts.quota
    assert counted is not None
    assert counted.reserved == 0
    before = counted.bytes
    counted.recount()
    assert counted.bytes == before
    union.unlink("other")
    assert server.write("b", b"!") == -errno.ENOSPC


def test_what_a_copy_that_nobody_needs_took_is_given_back(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(1 << 20)
    union = make_union({"a": data}, size=(1 << 20) * 3 // 2)
    news = threading.Event()
    client = DirectClient(union.fs, unopened=True)
    server = Server(union, client, news=news)
    client.requests.async_io = AsyncIo(union.fs, lambda *_: None, news.set)
    counted = union.parts.quota
    assert counted is not None
    assert server.write("a", b"!") is None
    assert counted.reserved == 1 << 20
    union.truncate("a", 0)
    server.wait()
    server.resume()
    assert counted.reserved == 0


@pytest.mark.parametrize("ready", [True, False], ids=["ready", "under way"])
def test_a_mount_that_ends_leaves_no_copy_that_nobody_took(server: Server, ready: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert server.write("large", b"!") is None
    waiting = server.client.requests.async_io
    assert waiting is not None
    if ready:
        server.gate.set()
        server.wait()
    waiting.close()
    assert server.union.leftovers() == []
    if not ready:
        server.gate.set()
        server.wait()
    assert len(os.listdir("/proc/self/fd")) == before
