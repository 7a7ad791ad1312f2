"""A cache miss starts readahead; the server polls for the data before it hands the read to a thread."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

import pytest

from tests.unit.unionfs.fuse.async_server import Server
from unionfs import _libc
from unionfs.fuse import protocol
from unionfs.fuse.direct.async_io import AsyncIo
from unionfs.fuse.direct.worker_pool import MOST, WorkerPool
from unionfs.fuse.protocol import Opcode


@dataclass
class Disk:
    """File contents that reach the page cache piece by piece."""

    server: Server
    #: Bytes of the file that are in memory.
    there: int = 0
    #: The number of polls.
    looked: int = 0
    #: The error that the disk reports instead.
    error: int = 0

    @property
    def async_io(self) -> AsyncIo:
        found = self.server.client.requests.async_io
        assert found is not None
        return found


@pytest.fixture
def disk(server: Server, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Let the server poll a hundred times for data of a disk, none of which is in the page cache."""

    def say(unique: int, reply: bytes | memoryview | int) -> None:
        server.said[unique] = reply if isinstance(reply, int) else bytes(reply)
        server.news.set()

    server.client.requests.async_io = AsyncIo(server.union.fs, say, server.news.set, looks=100)
    made, read = Disk(server), os.preadv

    def preadv(fd: int, buffers: tuple[memoryview], offset: int, flags: int = 0) -> int:
        if not flags & os.RWF_NOWAIT:
            return read(fd, buffers, offset, flags)
        made.looked += 1
        room = made.there - offset
        if made.error:
            raise OSError(made.error, os.strerror(made.error))
        if room <= 0 and made.there < os.fstat(fd).st_size:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return read(fd, (buffers[0][: max(0, room)],), offset, 0)

    monkeypatch.setattr(os, "preadv", preadv)
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_contents_that_come_while_the_server_looks_need_no_thread(disk: Disk) -> None:
    before = descriptors()
    assert disk.server.read("small") is None
    assert len(disk.async_io.pending) == 1
    assert not disk.async_io.look()
    disk.there = 5
    assert disk.async_io.look()
    assert disk.server.said == {7: b"small"}
    assert (disk.async_io.came, disk.async_io.count, disk.async_io.pending) == (1, 0, [])
    assert descriptors() == before + 1, "the file, which is kept open"


def test_what_has_come_is_not_read_twice(disk: Disk) -> None:
    disk.there = 2
    assert disk.server.read("small") is None
    (read,) = disk.async_io.pending
    assert read.done == 2
    disk.there = 4
    assert not disk.async_io.look()
    assert read.done == 4
    disk.there = 5
    assert disk.async_io.look()
    assert disk.server.said == {7: b"small"}


@pytest.mark.parametrize("sleeps", [False, True], ids=["looked enough", "going to sleep"])
def test_contents_that_do_not_come_are_waited_for_by_a_thread(disk: Disk, sleeps: bool) -> None:
    disk.server.gate.set()
    assert disk.server.read("small") is None
    if sleeps:
        disk.async_io.stop_looking()
    else:
        assert [disk.async_io.look() for _ in range(100)] == [False] * 100
        assert disk.looked == 101
    assert disk.async_io.pending == []
    disk.server.wait()
    assert disk.server.said == {7: b"small"}
    assert (disk.async_io.came, disk.async_io.count) == (0, 1)


def test_without_threads_contents_that_do_not_come_are_read_by_the_server(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerPool, "run", lambda *_: False)
    assert disk.server.read("small") is None
    disk.async_io.stop_looking()
    assert disk.server.said == {7: b"small"}

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    assert disk.server.read("small") is None
    disk.async_io.stop_looking()
    assert disk.server.said == {7: -errno.EIO}


def test_a_disk_that_fails_while_the_server_looks_is_the_error_of_whoever_reads(disk: Disk) -> None:
    before = descriptors()
    assert disk.server.read("small") is None
    disk.error = errno.EIO
    assert disk.async_io.look()
    assert disk.server.said == {7: -errno.EIO}
    assert disk.async_io.pending == []
    assert descriptors() == before + 1


def test_a_disk_that_is_too_slow_for_it_is_not_looked_at(disk: Disk) -> None:
    for _ in range(32):
        assert disk.server.read("small") is None
        while disk.async_io.pending:
            disk.async_io.look()
    looked = disk.looked
    assert disk.server.read("small") is None
    assert disk.async_io.pending == []
    assert disk.looked == looked + 1


def test_no_more_is_looked_for_than_threads_could_wait_for(disk: Disk) -> None:
    for _ in range(MOST + 1):
        assert disk.server.read("small") is None
    assert len(disk.async_io.pending) == MOST
    assert disk.async_io.count == 1
    disk.async_io.stop_looking()
    assert disk.async_io.count == MOST + 1


def test_a_file_that_is_closed_while_its_contents_are_on_their_way_is_read_to_the_end(disk: Disk) -> None:
    assert disk.server.read("small") is None
    inode = disk.server.union.file("small")
    disk.server.client.send(Opcode.FORGET, inode.ino, protocol.FORGET_IN.pack(inode.lookups))
    disk.there = 5
    assert disk.async_io.look()
    assert disk.server.said == {7: b"small"}


def test_a_mount_that_ends_looks_for_nothing_any_more(disk: Disk) -> None:
    before = descriptors()
    assert disk.server.read("small") is None
    disk.async_io.close()
    assert disk.async_io.pending == []
    assert descriptors() == before + 1
    assert disk.server.said == {}


def test_contents_of_which_the_kernel_cannot_tell_are_not_looked_for(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.error = errno.EOPNOTSUPP
    monkeypatch.setattr(_libc, "file_system_type", lambda _fd: 0x6969)
    assert disk.server.read("small") is None
    assert disk.async_io.pending == []
    disk.server.wait()
    assert disk.server.said == {7: b"small"}
