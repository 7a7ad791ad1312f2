"""A request that would have to wait for a disk is answered by a thread, or asked again: others are answered meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.fsapi.direct import DirectClient
from unionfs import _libc
from unionfs.copyup import background_copy, copy_data
from unionfs.fuse import protocol
from unionfs.fuse.direct import async_io
from unionfs.fuse.direct.async_io import AsyncIo
from unionfs.fuse.direct.worker_pool import MOST, WorkerPool
from unionfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from tests.support.output import Complaints
    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

PATIENCE = 60.0
LARGE = bytes(range(256)) * 128  # with the limit of the fixture; a change of metadata alone copies none of it


@dataclass
class Server:
    """A union behind requests, whose threads can be held up."""

    union: Union
    client: DirectClient
    said: dict[int, bytes | int] = field(default_factory=dict)
    news: threading.Event = field(default_factory=threading.Event)
    #: Threads wait for it before they read, copy or sync.
    gate: threading.Event = field(default_factory=threading.Event)

    def node(self, path: str) -> int:
        """Look *path* up as the kernel does, who knows it then."""
        node = self.union.node(path)
        node.lookups += 1
        return node.ino

    def wait(self) -> None:
        assert self.news.wait(PATIENCE)
        self.news.clear()

    def resume(self) -> list[bytes | memoryview | int | None]:
        """Ask again what can be asked again, as the loop does."""
        waiting = self.client.requests.async_io
        assert waiting is not None
        replies = []
        for request in waiting.resume():
            _, opcode, _, node, *_ = protocol.IN_HEADER.unpack_from(request)
            self.client.requests._view[: len(request)] = request
            replies.append(self.client.requests.answer(opcode, node, len(request)))
            self.client.requests.answered()
        return replies

    def write(self, path: str, data: bytes, offset: int = 0) -> object:
        body = protocol.WRITE_IN.pack(0, offset, len(data), 0, 0, os.O_WRONLY, 0) + data
        return self.client.send(Opcode.WRITE, self.node(path), body)

    def read(self, path: str, size: int = 1 << 17) -> Any:
        return self.client.send(Opcode.READ, self.node(path), protocol.READ_IN.pack(0, 0, size, 0, 0, 0, 0))


@pytest.fixture
def server(make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Give a server of a small and a large lower file, and one of the upper layer."""
    union = make_union({"small": b"small", "large": LARGE, "d": {}})
    union.create("upper", b"upper")
    made = Server(union, DirectClient(union.fs, unopened=True))

    def say(unique: int, reply: bytes | int) -> None:
        made.said[unique] = reply
        made.news.set()

    monkeypatch.setattr(background_copy, "LARGE", len(LARGE))
    made.client.requests.async_io = AsyncIo(union.fs, say, made.news.set)
    copy = copy_data.Copier.copy

    def held(self: copy_data.Copier, at: int, to: int, size: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            assert made.gate.wait(PATIENCE)
        return copy(self, at, to, size)

    monkeypatch.setattr(copy_data.Copier, "copy", held)
    yield made
    made.gate.set()


def not_in_memory(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """Have the kernel say that nothing is in memory, and the disk wait for the gate."""
    read, pread = os.preadv, os.pread

    def preadv(fd: int, buffers: tuple[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return read(fd, buffers, offset, flags)

    def slow(fd: int, size: int, offset: int) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            assert server.gate.wait(PATIENCE)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pread", slow)


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
    node = server.union.file("small")
    server.client.send(Opcode.FORGET, node.ino, protocol.FORGET_IN.pack(node.lookups))
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


@dataclass
class Disk:
    """Contents that come to memory bit by bit."""

    server: Server
    #: Bytes of the file that are in memory.
    there: int = 0
    #: How often somebody looked.
    looked: int = 0
    #: What the disk says instead.
    error: int = 0

    @property
    def async_io(self) -> AsyncIo:
        found = self.server.client.requests.async_io
        assert found is not None
        return found


@pytest.fixture
def disk(server: Server, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Have the server look a hundred times for what its disk, of which nothing is in memory, has."""

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
    assert len(disk.async_io.coming) == 1
    assert not disk.async_io.look()
    disk.there = 5
    assert disk.async_io.look()
    assert disk.server.said == {7: b"small"}
    assert (disk.async_io.came, disk.async_io.count, disk.async_io.coming) == (1, 0, [])
    assert descriptors() == before + 1, "the file, which is kept open"


def test_what_has_come_is_not_read_twice(disk: Disk) -> None:
    disk.there = 2
    assert disk.server.read("small") is None
    (coming,) = disk.async_io.coming
    assert coming.done == 2
    disk.there = 4
    assert not disk.async_io.look()
    assert coming.done == 4
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
    assert disk.async_io.coming == []
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
    assert disk.async_io.coming == []
    assert descriptors() == before + 1


def test_a_disk_that_is_too_slow_for_it_is_not_looked_at(disk: Disk) -> None:
    for _ in range(32):
        assert disk.server.read("small") is None
        while disk.async_io.coming:
            disk.async_io.look()
    looked = disk.looked
    assert disk.server.read("small") is None
    assert disk.async_io.coming == []
    assert disk.looked == looked + 1


def test_no_more_is_looked_for_than_threads_could_wait_for(disk: Disk) -> None:
    for _ in range(MOST + 1):
        assert disk.server.read("small") is None
    assert len(disk.async_io.coming) == MOST
    assert disk.async_io.count == 1
    disk.async_io.stop_looking()
    assert disk.async_io.count == MOST + 1


def test_a_file_that_is_closed_while_its_contents_are_on_their_way_is_read_to_the_end(disk: Disk) -> None:
    assert disk.server.read("small") is None
    node = disk.server.union.file("small")
    disk.server.client.send(Opcode.FORGET, node.ino, protocol.FORGET_IN.pack(node.lookups))
    disk.there = 5
    assert disk.async_io.look()
    assert disk.server.said == {7: b"small"}


def test_a_mount_that_ends_looks_for_nothing_any_more(disk: Disk) -> None:
    before = descriptors()
    assert disk.server.read("small") is None
    disk.async_io.close()
    assert disk.async_io.coming == []
    assert descriptors() == before + 1
    assert disk.server.said == {}


def test_contents_of_which_the_kernel_cannot_tell_are_not_looked_for(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.error = errno.EOPNOTSUPP
    monkeypatch.setattr(_libc, "file_system_type", lambda _fd: 0x6969)
    assert disk.server.read("small") is None
    assert disk.async_io.coming == []
    disk.server.wait()
    assert disk.server.said == {7: b"small"}


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
    assert server.client.send(opcode, server.node(name), protocol.FSYNC_IN.pack(0, 0, 0)) is None
    assert bytes(server.read("small")) == b"small"
    server.gate.set()
    server.wait()
    assert server.said == {7: b""}
    assert [os.path.basename(path) for path in synced] == [name]


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

    monkeypatch.setattr(type(server.union.parts.upper), "begin_copy", no_room)
    assert server.write("large", b"!") == -errno.ENOSPC


def test_a_request_that_cannot_be_kept_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch, complaints: Complaints
) -> None:
    complaints.expect_log("request write failed")
    monkeypatch.setattr(AsyncIo, "park", no_memory)
    assert server.write("large", b"!") == -errno.EIO


def test_without_threads_the_server_does_it_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerPool, "run", lambda *_: False)
    not_in_memory(monkeypatch, server)
    assert server.read("small") == b"small"
    assert server.write("large", b"!") is None
    server.wait()
    assert server.resume() == [protocol.WRITE_OUT.pack(1, 0)]
    sync = protocol.FSYNC_IN.pack(0, 0, 0)
    assert server.client.send(Opcode.FSYNC, server.node("large"), sync) == b""


def test_no_more_threads_are_made_than_wait_at_once() -> None:
    threads, done = WorkerPool(2), threading.Semaphore(0)
    names: list[int] = []

    def work() -> None:
        names.append(threading.get_ident())
        done.release()

    for _ in range(50):
        assert threads.run(work)
    for _ in range(50):
        assert done.acquire(timeout=PATIENCE)
    assert len(set(names)) <= 2


def test_no_work_waits_for_another_while_there_may_be_more_threads() -> None:
    threads, gate, begun = WorkerPool(3), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        assert gate.wait(PATIENCE)

    done = threading.Event()
    threads.run(done.set)
    assert done.wait(PATIENCE)
    for _ in range(3):
        assert threads.run(work)
    for _ in range(3):
        assert begun.acquire(timeout=PATIENCE)
    gate.set()


def test_what_a_thread_raises_ends_neither_it_nor_the_server(complaints: Complaints) -> None:
    complaints.expect_log("work in a thread failed")
    threads, done = WorkerPool(1), threading.Event()

    def fail() -> None:
        raise ValueError("a bug")

    threads.run(fail)
    threads.run(done.set)
    assert done.wait(PATIENCE)


def test_a_system_that_allows_no_threads_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert WorkerPool().run(lambda: None) is False


def test_threads_are_had_where_nothing_can_be_imported_any_more() -> None:
    """A confined server may be unable to read Python's library."""
    script = (
        "import sys, threading, unionfs.fuse.direct.loop\n"
        "from unionfs.fuse.direct.worker_pool import WorkerPool\n"
        "sys.meta_path.clear()\n"
        "done = threading.Event()\n"
        "assert WorkerPool().run(done.set)\n"
        "assert done.wait(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def no_memory(*_: object) -> bytes:
    raise MemoryError


def test_a_read_for_which_a_thread_has_no_memory_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_in_memory(monkeypatch, server)
    monkeypatch.setattr(os, "pread", no_memory)
    assert server.read("small") is None
    server.wait()
    assert server.said == {7: -errno.ENOMEM}


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


def test_a_sync_needs_no_descriptor_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    node = server.node("upper")
    assert server.client.send(Opcode.READ, node, protocol.READ_IN.pack(0, 0, 9, 0, 0, 0, 0)) == b"upper"

    def full(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", full)
    assert server.client.send(Opcode.FSYNC, node, protocol.FSYNC_IN.pack(0, 0, 0)) == b""


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


def test_only_file_systems_that_wait_for_somebody_else_count_as_remote() -> None:
    assert 0x01021994 not in async_io._REMOTE  # tmpfs
    assert 0x794C7630 not in async_io._REMOTE  # overlay
