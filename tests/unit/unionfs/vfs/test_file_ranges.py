"""Copies and allocations of ranges by requests. Small ones are done at once, large ones in a thread. Then the server counts and
answers.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.fsapi.direct import DirectClient
from unionfs import _libc
from unionfs.fuse import protocol
from unionfs.fuse.direct import file_handlers
from unionfs.fuse.direct.async_io import AsyncIo
from unionfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

PATIENCE = 60.0
LARGE = bytes(range(256)) * 128


class Server:
    """A union that is used through requests, some of which threads handle."""

    def __init__(self, union: Union) -> None:
        self.union = union
        self.client = DirectClient(union.fs, unopened=True)
        self.replies: dict[int, bytes | memoryview | int] = {}
        self.done = threading.Event()
        self.async_io = self.client.requests.async_io = AsyncIo(
            union.fs, self.replies.__setitem__, self.done.set
        )

    def ino(self, path: str) -> int:
        """Look up *path* as the kernel does, and return its inode number."""
        inode = self.union.inode(path)
        inode.lookups += 1
        return inode.ino

    def copy_range(self, source: str, length: int, opcode: Opcode = Opcode.COPY_FILE_RANGE) -> object:
        """Copy to offset 3 of the upper file. Return the reply; None if it is sent later."""
        body = protocol.COPY_FILE_RANGE_IN.pack(0, 0, self.ino("upper"), 0, 3, length, 0)
        return self.client.send(opcode, self.ino(source), body)

    def allocate(self, mode: int, length: int) -> object:
        """Call fallocate(2) for the upper file. Return the reply; None if it is sent later."""
        return self.client.send(
            Opcode.FALLOCATE, self.ino("upper"), protocol.FALLOCATE_IN.pack(0, 0, length, mode, 0)
        )

    def finish(self) -> None:
        """Wait for the thread, and run the server's part of the request."""
        assert self.done.wait(PATIENCE)
        assert self.replies == {}, "no thread answers"
        assert list(self.async_io.resume()) == []


@pytest.fixture
def server(make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server with a small and a large lower file, and a file of the upper layer."""
    union = make_union({"small": b"small", "large": LARGE})
    union.create("upper", b"upper")
    monkeypatch.setattr(file_handlers, "LARGE", len(LARGE))
    made = Server(union)
    yield made
    made.async_io.close()


def test_a_copy_of_a_large_range_holds_nobody_up_and_is_shown_when_it_is_done(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, gate = os.copy_file_range, threading.Event()

    def slow(source: int, target: int, length: int, offset: int, at: int) -> int:
        assert gate.wait(PATIENCE)
        return copy(source, target, length, offset, at)

    monkeypatch.setattr(os, "copy_file_range", slow)
    assert server.copy_range("large", len(LARGE)) is None
    # Another client reads the attributes, so that the server caches the former ones.
    assert isinstance(server.client.send(Opcode.GETATTR, server.ino("upper"), bytes(16)), bytes)
    gate.set()
    server.finish()
    assert server.replies == {7: protocol.WRITE_OUT.pack(len(LARGE), 0)}
    assert server.union.stat("upper").size == 3 + len(LARGE)
    assert server.union.read("upper") == b"upp" + LARGE


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        (Opcode.COPY_FILE_RANGE, protocol.WRITE_OUT.pack(4, 0)),
        (Opcode.COPY_FILE_RANGE_64, protocol.COPY_FILE_RANGE_OUT.pack(4)),
    ],
)
def test_a_copy_of_a_small_range_is_answered_at_once(server: Server, opcode: Opcode, expected: bytes) -> None:
    assert server.copy_range("small", 4, opcode) == expected
    assert server.union.read("upper") == b"uppsmal"


@pytest.mark.parametrize(("error", "expected"), [(errno.EIO, errno.EIO), (errno.EXDEV, errno.EOPNOTSUPP)])
def test_a_copy_of_a_range_that_fails_in_a_thread_is_the_error_of_the_caller(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: int, expected: int
) -> None:
    def failing(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "copy_file_range", failing)
    assert server.copy_range("large", len(LARGE)) is None
    server.finish()
    assert server.replies == {7: -expected}
    assert server.union.read("upper") == b"upper"


@pytest.mark.parametrize("mode", [0, _libc.FALLOC_FL_PUNCH_HOLE | _libc.FALLOC_FL_KEEP_SIZE])
def test_an_allocation_of_a_large_range_holds_nobody_up_and_is_shown_when_it_is_done(
    server: Server, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    allocate, gate = _libc.fallocate, threading.Event()

    def slow(*arguments: int) -> None:
        assert gate.wait(PATIENCE)
        allocate(*arguments)

    monkeypatch.setattr(_libc, "fallocate", slow)
    assert server.allocate(mode, len(LARGE)) is None
    assert isinstance(server.client.send(Opcode.GETATTR, server.ino("upper"), bytes(16)), bytes)
    gate.set()
    server.finish()
    assert server.replies == {7: b""}
    expected = bytes(5) if mode else b"upper" + bytes(len(LARGE) - 5)
    assert server.union.stat("upper").size == len(expected)
    assert server.union.read("upper") == expected


def test_an_allocation_that_fails_in_a_thread_is_the_error_of_the_caller(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_libc, "fallocate", failing)
    assert server.allocate(0, len(LARGE)) is None
    server.finish()
    assert server.replies == {7: -errno.ENOSPC}


def test_an_allocation_of_a_small_range_is_answered_at_once(server: Server) -> None:
    assert server.allocate(0, 10) == b""
    assert server.union.read("upper") == b"upper" + bytes(5)


def test_ranges_are_changed_where_there_is_no_descriptor_left_for_a_thread(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The files are open already.
    assert server.copy_range("small", 4) == protocol.WRITE_OUT.pack(4, 0)
    assert server.copy_range("large", 4) == protocol.WRITE_OUT.pack(4, 0)

    def full(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", full)
    assert server.copy_range("small", 4) == protocol.WRITE_OUT.pack(4, 0)
    assert server.copy_range("large", len(LARGE)) == protocol.WRITE_OUT.pack(len(LARGE), 0)
    assert server.allocate(0, 2 * len(LARGE)) == b""
    assert server.union.stat("upper").size == 2 * len(LARGE)
    assert server.replies == {}
