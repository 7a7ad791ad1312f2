"""Reads from a disk and syncs run in threads, while the server answers other requests."""

from __future__ import annotations

import errno
import os

import pytest

from tests.unit.unionfs.fuse.async_server import LARGE, PATIENCE, Server, no_memory, not_in_memory
from unionfs import _libc
from unionfs.fuse import protocol
from unionfs.fuse.direct.worker_pool import WorkerPool
from unionfs.fuse.protocol import Opcode
from unionfs.layer import file_systems


def test_what_is_in_memory_is_answered_at_once(server: Server) -> None:
    assert bytes(server.read("small")) == b"small"
    assert bytes(server.read("large", 100)) == LARGE[:100]
    assert server.client.requests.async_io is not None
    assert server.client.requests.async_io.count == 0


def test_a_read_of_the_disk_holds_nobody_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    not_in_memory(monkeypatch, server)
    assert server.read("small") is None
    assert isinstance(server.client.send(Opcode.LOOKUP, 1, b"d\0"), bytes)
    assert server.said == {}
    server.gate.set()
    server.wait()
    assert server.said == {7: b"small"}


def test_a_file_that_is_closed_while_a_thread_reads_it_is_read_to_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_in_memory(monkeypatch, server)
    assert server.read("small") is None
    inode = server.union.file("small")
    server.client.send(Opcode.FORGET, inode.ino, protocol.FORGET_IN.pack(inode.lookups))
    server.gate.set()
    server.wait()
    assert server.said == {7: b"small"}


def test_a_disk_that_fails_is_the_error_of_whoever_reads(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_in_memory(monkeypatch, server)

    def broken(_fd: int, _size: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    assert server.read("small") is None
    server.wait()
    assert server.said == {7: -errno.EIO}


@pytest.mark.parametrize(("kind", "threaded"), [(0x6969, True), (0x01021994, False)], ids=["nfs", "tmpfs"])
def test_where_the_kernel_cannot_tell_only_remote_files_are_read_by_threads(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: int, threaded: bool
) -> None:
    read = os.preadv

    def preadv(fd: int, buffers: tuple[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return read(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(_libc, "file_system_type", lambda _fd: kind)
    for _ in range(2):
        server.said.clear()
        reply = server.read("small")
        if threaded:
            assert reply is None
            server.wait()
            reply = server.said[7]
        assert bytes(reply) == b"small"


@pytest.mark.parametrize("name", ["upper", "d"])
def test_a_sync_holds_nobody_up(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    synced: list[str] = []
    if name == "d":
        server.union.create("d/file")

    def slow(fd: int) -> None:
        assert server.gate.wait(PATIENCE)
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", slow)
    opcode = Opcode.FSYNCDIR if name == "d" else Opcode.FSYNC
    assert server.client.send(opcode, server.ino(name), protocol.FSYNC_IN.pack(0, 0, 0)) is None
    assert bytes(server.read("small")) == b"small"
    server.gate.set()
    server.wait()
    assert server.said == {7: b""}
    assert [os.path.basename(path) for path in synced] == [name]


def test_without_threads_the_server_does_it_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerPool, "run", lambda *_: False)
    not_in_memory(monkeypatch, server)
    assert server.read("small") == b"small"
    assert server.write("large", b"!") is None
    server.wait()
    assert server.resume() == [protocol.WRITE_OUT.pack(1, 0)]
    sync = protocol.FSYNC_IN.pack(0, 0, 0)
    assert server.client.send(Opcode.FSYNC, server.ino("large"), sync) == b""


def test_a_read_for_which_a_thread_has_no_memory_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_in_memory(monkeypatch, server)
    monkeypatch.setattr(os, "pread", no_memory)
    assert server.read("small") is None
    server.wait()
    assert server.said == {7: -errno.ENOMEM}


def test_a_sync_needs_no_descriptor_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    ino = server.ino("upper")
    assert server.client.send(Opcode.READ, ino, protocol.READ_IN.pack(0, 0, 9, 0, 0, 0, 0)) == b"upper"

    def full(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", full)
    assert server.client.send(Opcode.FSYNC, ino, protocol.FSYNC_IN.pack(0, 0, 0)) == b""


def test_only_file_systems_that_wait_for_somebody_else_count_as_remote() -> None:
    assert 0x01021994 not in file_systems._REMOTE  # tmpfs
    assert 0x794C7630 not in file_systems._REMOTE  # overlay
