"""Layers that are fetched in parts: what is missing is requested once, nobody waits in vain, and nothing is made up."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.archives import memory_file
from unionfs.layer_index import fetcher as fetcher_module
from unionfs.layer_index.archive_chunks import FETCH, FETCHED, Chunk, ChunkTable, encode_chunks
from unionfs.layer_index.archived_contents import ArchivedContents
from unionfs.layer_index.fetched_data import FetchedData
from unionfs.layer_index.fetcher import Fetcher
from unionfs.layer_index.format import DamagedError

SIZES = (100, 1, 50, 4096, 7)
CONTENT = bytes(range(256)) * 17
CONTENT = CONTENT[: sum(SIZES)]
PATIENCE = 60


def table_of(*sizes: int) -> bytes:
    chunks, position = [], 0
    for number, size in enumerate(sizes):
        chunks.append(Chunk(position, size, 3, 1000 + number * 10, 10, bytes([number]) * 32))
        position += size
    return encode_chunks(chunks)


@dataclass
class Launcher:
    """Stands for the process of the launcher: answers requests, or leaves that to the test."""

    channel: socket.socket
    fd: int
    requests: list[tuple[int, int, int, int]] = field(default_factory=list)
    answers: bool = True
    fails: int = 0

    def run(self) -> None:
        table = ChunkTable(table_of(*SIZES))
        while packet := self.channel.recv(FETCH.size):
            request = FETCH.unpack(packet)
            self.requests.append(request)
            number, _, first, count = request
            if not self.answers:
                continue
            if not self.fails:
                for at in range(first, first + count):
                    chunk = table[at]
                    part = CONTENT[chunk.position : chunk.position + chunk.size]
                    os.pwrite(self.fd, part, chunk.position)
            self.channel.send(FETCHED.pack(number, self.fails))


@contextmanager
def launched(**settings: Any) -> Iterator[tuple[FetchedData, Launcher]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = memory_file()
    os.ftruncate(fd, len(CONTENT))
    launcher = Launcher(theirs, fd, **settings)
    thread = threading.Thread(target=launcher.run)
    thread.start()
    fetcher = Fetcher(ours)
    try:
        yield FetchedData(fd, ChunkTable(table_of(*SIZES)), 5, fetcher), launcher
    finally:
        fetcher.close()
        thread.join(PATIENCE)
        theirs.close()
        os.close(fd)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_is_read_is_fetched_once_and_in_runs() -> None:
    with launched() as (data, launcher):
        room = memoryview(bytearray(60))
        assert not data.read(room, 95, cached=True)
        assert launcher.requests == []
        assert data.read(room, 95, cached=False)
        assert room == CONTENT[95:155]
        assert [request[1:] for request in launcher.requests] == [(5, 0, 4)]
        assert data.read(room, 96, cached=True)
        assert data.missing(0, len(CONTENT)) == [4]
        assert data.read(memoryview(bytearray(len(CONTENT))), 0, cached=False)
        assert [request[1:] for request in launcher.requests] == [(5, 0, 4), (5, 4, 1)]


def test_a_copy_fetches_what_it_needs() -> None:
    with launched() as (data, launcher):
        target = memory_file()
        data.copy(100, 51, target, 9)
        assert os.pread(target, 100, 9) == CONTENT[100:151]
        assert [request[2:] for request in launcher.requests] == [(1, 2)]
        with pytest.raises(OSError, match="shorter"):
            data.copy(len(CONTENT) - 1, 2, target, 0)
        os.close(target)


def test_contents_with_holes_need_the_chunks_of_their_data_alone() -> None:
    with launched() as (data, launcher):
        contents = ArchivedContents(data, 10_000, 100, ((10, 1), (5000, 50)))
        assert contents.pending(0, 10) is None
        assert contents.pending(6000, 4000) is None
        fetch = contents.pending(0, 5001)
        assert fetch is not None
        assert contents.read(100, 0) == bytes(10) + CONTENT[100:101] + bytes(89)
        assert contents.pending(0, 100) is None
        assert [request[2:] for request in launcher.requests] == [(1, 1)]


def test_many_waiters_for_one_chunk_make_one_request_and_none_is_forgotten() -> None:
    with launched(answers=False) as (data, launcher):
        found: list[int] = []
        for _ in range(20):
            data.fetch([3], found.append)
        data.fetch([2, 3], found.append)
        wait_for(lambda: len(launcher.requests) == 2)
        assert found == []
        for number, *_ in launcher.requests:
            launcher.channel.send(FETCHED.pack(number, 0))
        wait_for(lambda: len(found) == 21)
        assert found == [0] * 21


def test_nothing_to_fetch_is_done_at_once() -> None:
    with launched() as (data, launcher):
        found: list[int] = []
        data.fetch([], found.append)
        assert found == [0]
        data.read(memoryview(bytearray(10)), 0, cached=False)
        data.fetch([0], found.append)
        assert found == [0, 0]
        assert len(launcher.requests) == 1


def test_a_failure_is_an_error_and_the_next_read_tries_again() -> None:
    with launched(fails=errno.EIO) as (data, launcher):
        room = memoryview(bytearray(len(CONTENT)))
        with pytest.raises(OSError, match="Input/output error"):
            data.read(room, 0, cached=False)
        launcher.fails = 0
        assert data.read(room, 0, cached=False)
        assert room == CONTENT


def test_a_request_for_several_runs_fails_once() -> None:
    with launched(answers=False) as (data, launcher):
        found: list[int] = []
        data.fetch([0, 2, 4], found.append)
        wait_for(lambda: len(launcher.requests) == 3)
        for (number, *_), failure in zip(launcher.requests, (0, 5, 5), strict=True):
            launcher.channel.send(FETCHED.pack(number, failure))
        wait_for(lambda: not data._waiting)
        assert found == [5]
        assert data.missing(0, len(CONTENT)) == [1, 2, 3, 4]


@pytest.mark.parametrize("way", ["closed", "killed", "garbage"])
def test_the_end_of_the_process_fails_all_that_wait_and_all_that_come(way: str) -> None:
    with launched(answers=False) as (data, launcher):
        found: list[int] = []
        data.fetch([0], found.append)
        data.fetch([2], found.append)
        wait_for(lambda: len(launcher.requests) == 2)
        if way == "garbage":
            launcher.channel.send(b"x")
        launcher.channel.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: len(found) == 2)
        assert found == [errno.EIO] * 2
        with pytest.raises(OSError, match="Input/output error"):
            data.read(memoryview(bytearray(5)), 0, cached=False)


def test_a_process_that_does_not_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher_module, "LIMIT", 0.05)
    monkeypatch.setattr(fetcher_module, "_LOOK", 10)
    with launched(answers=False) as (data, launcher):
        with pytest.raises(OSError, match="Input/output error"):
            data.read(memoryview(bytearray(5)), 0, cached=False)
        # An answer that comes too late is ignored.
        launcher.channel.send(FETCHED.pack(launcher.requests[0][0], 0))
        launcher.answers = True
        assert data.read(memoryview(bytearray(5)), 0, cached=False)


def test_a_process_that_does_not_read_stops_no_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fetcher = Fetcher(ours)
    found: list[int] = []
    for number in range(2000):  # more than the buffer of the socket has room for
        fetcher.request(0, number, 1, found.append)
    seen = 0
    while seen < 2000:
        number, _, first, _ = FETCH.unpack(theirs.recv(FETCH.size))
        assert first == seen
        theirs.send(FETCHED.pack(number, 0))
        seen += 1
    wait_for(lambda: len(found) == 2000)
    assert found == [0] * 2000
    fetcher.close()
    theirs.close()


@given(st.lists(st.integers(1, 300), max_size=8), st.integers(0, 2000), st.integers(0, 2000))
def test_the_chunks_of_a_range_are_those_that_overlap_it(
    sizes: list[int], position: int, length: int
) -> None:
    table = ChunkTable(table_of(*sizes))
    assert (len(table), table.size) == (len(sizes), sum(sizes))
    overlapping = [
        number
        for number in range(len(table))
        if length
        and (one := table[number]).position < position + length
        and position < one.position + one.size
    ]
    assert list(table.within(position, length)) == overlapping


def test_a_damaged_table_is_refused() -> None:
    good = table_of(*SIZES)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x10
        with pytest.raises(DamagedError):
            ChunkTable(bytes(bad))
    for content in (b"", good[:-1], good + b"\0", good[:10]):
        with pytest.raises(DamagedError):
            ChunkTable(content)
    gap = encode_chunks([Chunk(0, 5, 0, 1, 1, bytes(32)), Chunk(6, 5, 0, 1, 1, bytes(32))])
    with pytest.raises(DamagedError, match="follow each other"):
        ChunkTable(gap)
    with pytest.raises(ValueError, match="format"):
        encode_chunks([Chunk(-1, 5, 0, 1, 1, bytes(32))])
