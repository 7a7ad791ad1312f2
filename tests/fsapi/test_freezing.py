"""Requests of a kernel that does not know that the writable layer was frozen between two of them."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fsapi.direct import DirectClient, entry
from tests.support.calls import calls_of
from tests.unit.unionfs.freezing import FreezingClient
from unionfs import _libc
from unionfs.fuse import protocol
from unionfs.fuse.direct import async_io
from unionfs.fuse.direct.async_io import AsyncIo
from unionfs.fuse.protocol import Opcode
from unionfs.upper.format import ANY_FORMAT

OWNER = SimpleNamespace(uid=os.getuid(), gid=os.getgid(), pid=1, umask=0)
LARGE = bytes(range(256)) * 8192
PATIENCE = 60.0
#: FUSE_WRITE_CACHE (linux/fuse.h): pages of a mapped file are written back.
_WRITE_CACHE = 1


class Kernel:
    """The kernel's side of one union: open files by name, with or without OPEN."""

    def __init__(self, union: FreezingClient, *, unopened: bool) -> None:
        self.union = union
        self.unopened = unopened
        self.direct = DirectClient(union.fs, unopened=unopened)
        self.said: dict[int, bytes | memoryview | int] = {}
        self.news = threading.Event()

    def use_threads(self) -> AsyncIo:
        """Let threads do blocking work, as the loop does."""

        def send(unique: int, reply: bytes | memoryview | int) -> None:
            self.said[unique] = reply

        made = self.direct.requests.async_io = AsyncIo(self.union.fs, send, self.news.set)
        return made

    def resume(self) -> list[object]:
        """Handle requests again whose contents have been copied, and finish work that threads have done."""
        threads = self.direct.requests.async_io
        assert threads is not None
        replies: list[object] = []
        for request in threads.resume():
            _, opcode, _, ino, *_ = protocol.IN_HEADER.unpack_from(request)
            replies.append(self.direct.send(opcode, ino, request[protocol.IN_HEADER.size :]))
        return replies

    def ino(self, name: str) -> int:
        return int(entry(self.direct.ask(Opcode.LOOKUP, 1, os.fsencode(name) + b"\0")).st_ino)

    def open(self, name: str, flags: int = os.O_RDWR) -> tuple[int, int]:
        """Return inode number and handle."""
        ino = self.ino(name)
        if self.unopened:
            return ino, 0
        reply = self.direct.ask(Opcode.OPEN, ino, protocol.OPEN_IN.pack(flags, 0))
        return ino, int(protocol.OPEN_OUT.unpack(reply)[0])

    def release(self, opened: tuple[int, int]) -> None:
        if not self.unopened:
            self.direct.ask(Opcode.RELEASE, opened[0], protocol.RELEASE_IN.pack(opened[1], 0, 0, 0))

    def write(self, opened: tuple[int, int], offset: int, data: bytes, flags: int = 0) -> object:
        body = protocol.WRITE_IN.pack(opened[1], offset, len(data), flags, 0, os.O_RDWR, 0) + data
        return self.direct.send(Opcode.WRITE, opened[0], body, OWNER)

    def read(self, opened: tuple[int, int], size: int = 1 << 20) -> bytes:
        body = protocol.READ_IN.pack(opened[1], 0, size, 0, 0, 0, 0)
        return bytes(self.direct.ask(Opcode.READ, opened[0], body))

    def setattr(self, opened: tuple[int, int], valid: int, *, size: int = 0, mode: int = 0) -> None:
        body = protocol.SETATTR_IN.pack(valid, 0, opened[1], size, *(0,) * 7, mode, 0, 0, 0, 0)
        self.direct.ask(Opcode.SETATTR, opened[0], body, OWNER)

    def fallocate(self, opened: tuple[int, int], offset: int, length: int) -> object:
        body = protocol.FALLOCATE_IN.pack(opened[1], offset, length, 0, 0)
        return self.direct.send(Opcode.FALLOCATE, opened[0], body, OWNER)

    def copy_range(self, source: tuple[int, int], target: tuple[int, int], length: int) -> object:
        body = protocol.COPY_FILE_RANGE_IN.pack(source[1], 0, target[0], target[1], 0, length, 0)
        return self.direct.send(Opcode.COPY_FILE_RANGE, source[0], body, OWNER)


@pytest.fixture(params=[False, True], ids=["opened", "unopened"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kernel]:
    """Yield a kernel whose union has a written file `f`, a large one and a lower one."""
    union = FreezingClient(tmp_path, [{"lower": b"lower", "d": {}}], ANY_FORMAT)
    made = Kernel(union, unopened=request.param)
    union.create("f", b"content")
    union.create("large", LARGE)
    yield made
    threads = made.direct.requests.async_io
    if threads is not None:
        threads.close()
    union.close()
    union.check_frozen()


@pytest.mark.parametrize("flags", [0, _WRITE_CACHE], ids=["write", "write-back"])
def test_a_write_through_a_handle_from_before_goes_to_a_copy(kernel: Kernel, flags: int) -> None:
    opened = kernel.open("f")
    assert kernel.write(opened, 0, b"C", flags) == protocol.WRITE_OUT.pack(1, 0)
    for data in (b"D", b"E"):
        kernel.union.freeze_running()
        assert kernel.write(opened, 0, data, flags) == protocol.WRITE_OUT.pack(1, 0)
        assert kernel.read(opened) == data + b"ontent"
    kernel.release(opened)


def test_a_change_of_the_mode_leaves_no_handle_on_the_frozen_file(kernel: Kernel) -> None:
    kernel.use_threads()
    opened = kernel.open("large")
    kernel.write(opened, 0, b"!")
    kernel.union.freeze_running()
    reply = kernel.direct.send(
        Opcode.SETATTR,
        opened[0],
        protocol.SETATTR_IN.pack(protocol.FATTR_MODE, *(0,) * 10, 0o600, *(0,) * 4),
        OWNER,
    )
    if reply is None:  # the contents are copied in a thread
        assert kernel.news.wait(PATIENCE)
        (reply,) = kernel.resume()
    assert isinstance(reply, bytes)
    kernel.news.clear()
    done = kernel.write(opened, 1, b"?")
    if done is None:
        assert kernel.news.wait(PATIENCE)
        (done,) = kernel.resume()
    assert done == protocol.WRITE_OUT.pack(1, 0)
    assert kernel.union.read("large")[:4] == b"!?" + LARGE[2:4]
    kernel.release(opened)


def test_other_changes_through_a_handle_from_before_go_to_a_copy(kernel: Kernel) -> None:
    opened, source = kernel.open("f"), kernel.open("lower")
    kernel.write(opened, 0, b"C")
    kernel.union.freeze_running()
    kernel.setattr(opened, protocol.FATTR_SIZE | protocol.FATTR_FH, size=3)
    assert kernel.read(opened) == b"Con"
    kernel.union.freeze_running()
    assert kernel.fallocate(opened, 0, 5) == b""
    assert kernel.read(opened) == b"Con\0\0"
    kernel.union.freeze_running()
    assert kernel.copy_range(source, opened, 3) == protocol.WRITE_OUT.pack(3, 0)
    assert kernel.read(opened) == b"low\0\0"
    for each in (opened, source):
        kernel.release(each)


def test_set_id_bits_are_cleared_by_an_allocation_that_waits_for_a_copy(kernel: Kernel) -> None:
    kernel.use_threads()
    opened = kernel.open("large")
    kernel.write(opened, 0, b"!")
    kernel.union.chmod("large", 0o6777)
    kernel.union.freeze_running()
    # The kernel announces that the caller, who does not own the file, may not keep the bits.
    stranger = SimpleNamespace(uid=os.getuid() + 1, gid=5, pid=77)
    body = protocol.SETATTR_IN.pack(*(0,) * 16)
    kernel.direct.ask(Opcode.SETATTR, opened[0], body, stranger)
    body = protocol.FALLOCATE_IN.pack(opened[1], 0, 5, 0, 0)
    assert kernel.direct.send(Opcode.FALLOCATE, opened[0], body, stranger) is None
    assert kernel.news.wait(PATIENCE)
    threads = kernel.direct.requests.async_io
    assert threads is not None
    for request in threads.resume():
        kernel.direct._buffer[: len(request)] = request
        assert kernel.direct.requests.answer(Opcode.FALLOCATE, opened[0], len(request)) == b""
        kernel.direct.requests.answered()
    assert stat.S_IMODE(kernel.union.stat("large").mode) == 0o777
    kernel.release(opened)


def test_a_copy_that_a_thread_has_begun_is_used_after_the_freeze(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = kernel.use_threads()
    opened = kernel.open("large")
    kernel.write(opened, 0, b"!")
    kernel.union.freeze_running()
    gate, really = threading.Event(), os.copy_file_range

    def slow(*args: int) -> int:
        assert gate.wait(PATIENCE)
        return really(*args)

    monkeypatch.setattr(os, "copy_file_range", slow)
    assert kernel.write(opened, 1, b"?") is None
    kernel.union.freeze_running()
    gate.set()
    assert kernel.news.wait(PATIENCE)
    assert kernel.resume() == [protocol.WRITE_OUT.pack(1, 0)]
    assert threads.count == 1
    assert kernel.union.read("large")[:3] == b"!?" + LARGE[2:3]
    assert kernel.union.leftovers() == []
    kernel.release(opened)


@pytest.mark.parametrize("long", [False, True])
def test_the_layer_is_not_frozen_while_a_thread_changes_a_file_in_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    kernel.use_threads()
    opened = kernel.open("large")
    kernel.write(opened, 0, b"!")
    gate, begun, really = threading.Event(), threading.Event(), _libc.fallocate

    def slow(*args: int) -> None:
        begun.set()
        assert gate.wait(PATIENCE)
        really(*args)

    monkeypatch.setattr(_libc, "fallocate", slow)
    assert kernel.fallocate(opened, 0, len(LARGE) + 5) is None
    assert begun.wait(PATIENCE)
    if long:
        monkeypatch.setattr(async_io, "_LONG", 0.01)
        with pytest.raises(OSError, match="takes long") as refused:
            kernel.union.freeze_running()
        assert refused.value.errno == errno.EBUSY
        gate.set()
    else:
        monkeypatch.setattr(async_io, "_LONG", PATIENCE)
        timer = threading.Timer(0.05, gate.set)
        timer.start()
        kernel.union.freeze_running()
        timer.join()
        assert (kernel.union.lowers[0] / "large").stat().st_size == len(LARGE) + 5
    assert kernel.news.wait(PATIENCE)
    assert kernel.resume() == []
    assert kernel.said == {7: b""}
    assert kernel.union.stat("large").size == len(LARGE) + 5
    kernel.release(opened)


def test_a_sync_reaches_what_was_written_before_the_freeze(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.union.fs.volatile = False
    synced: list[os.stat_result] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd)))
    opened = kernel.open("f")
    kernel.write(opened, 0, b"C")
    kernel.union.create("d/new")
    kernel.union.freeze_running()
    kernel.union.create("d/newer")
    kernel.direct.ask(Opcode.FSYNC, opened[0], protocol.FSYNC_IN.pack(opened[1], 0, 0))
    assert [info.st_ino for info in synced] == [(kernel.union.lowers[0] / "f").stat().st_ino]
    synced.clear()
    directory = kernel.ino("d")
    stream = 0
    if not kernel.unopened:
        reply = kernel.direct.ask(Opcode.OPENDIR, directory, protocol.OPEN_IN.pack(0, 0))
        stream = int(protocol.OPEN_OUT.unpack(reply)[0])
    body = protocol.FSYNC_IN.pack(stream, 0, 0)
    kernel.direct.ask(Opcode.FSYNCDIR, directory, body)
    parts = [path / "d" for path in (kernel.union.upper, kernel.union.lowers[0])]
    assert {info.st_ino for info in synced} == {path.stat().st_ino for path in parts}
    synced.clear()
    kernel.use_threads()
    assert kernel.direct.send(Opcode.FSYNCDIR, directory, body) is None
    while 7 not in kernel.said:
        assert not kernel.news.wait(0.005)
    assert {info.st_ino for info in synced} == {path.stat().st_ino for path in parts}
    if not kernel.unopened:
        kernel.direct.ask(Opcode.RELEASEDIR, directory, protocol.RELEASE_IN.pack(stream, 0, 0, 0))
    kernel.release(opened)


def test_a_write_costs_as_many_calls_as_before(kernel: Kernel) -> None:
    opened = kernel.open("f")
    kernel.write(opened, 0, b"C")
    before = calls_of(lambda: kernel.write(opened, 0, b"C"))
    kernel.union.freeze_running()
    kernel.write(opened, 0, b"C")
    kernel.write(opened, 0, b"C")
    assert calls_of(lambda: kernel.write(opened, 0, b"C")) == before
    kernel.release(opened)
