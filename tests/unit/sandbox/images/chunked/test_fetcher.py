"""The process that fetches chunks, in this process: what it writes is verified, and a registry that is gone is not asked in vain."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.images.chunked import fetcher
from sandbox.images.chunked.fetcher import Chunks, Layer, serve
from sandbox.images.chunked.pieces import extractor
from sandbox.images.chunked.table_archive import TableArchive
from sandbox.images.chunked.toc import place_of
from sandbox.images.registry.settings import Limits
from tests.support.archives import memory_file
from tests.support.chunked import content_of, write_zstd_chunked
from tests.support.images import digest_of, tar_of
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Reply, Request
from unionfs.layer_index.archive_chunks import FETCH, FETCHED, ChunkTable, encode_chunks

LARGE = content_of(1, 300_000)
LAYER = write_zstd_chunked(tar_of({"large": LARGE, "zeros": bytes(5000), "small": b"small"}), 10_000)
EXPECTED = LARGE + bytes(5000) + b"small"


class Registry:
    """Serves the blob by ranges. A test may change it."""

    def __init__(self) -> None:
        self.blob = LAYER.blob
        self.ranges: list[tuple[int, int]] = []
        self.reply: Reply | None = None

    def handle(self, request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        if self.reply is not None:
            return self.reply
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"])
        assert found is not None
        start, end = int(found[1]), int(found[2]) + 1
        self.ranges.append((start, end))
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(self.blob)}"}
        return Reply(206, headers, self.blob[start:end])


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the connections and the data that a test has opened."""
    made: list[Chunks] = []
    init = Chunks.__init__

    def noted(self: Chunks, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Chunks, "__init__", noted)
    yield
    for chunks in made:
        chunks.close()
    for fd in {layer.data_fd for chunks in made for layer in chunks._layers}:
        os.close(fd)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Registry, FaultyServer]]:
    made = Registry()
    limits = Limits(connect=2.0, stall=1.0, attempts=2, pause=0.01, patience=0.1)
    monkeypatch.setattr(fetcher, "LIMITS", limits)
    with FaultyServer(made.handle) as server:
        conf = tmp_path / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{server.host}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        (tmp_path / "auth.json").write_text("{}")
        yield made, server


def layer_of(server: FaultyServer) -> Layer:
    place = place_of(LAYER.annotations, len(LAYER.blob))
    assert place is not None
    content = LAYER.blob[place.offset : place.offset + place.length]
    archive = TableArchive(content, place, "layer")
    for _ in archive:
        pass
    table = ChunkTable(encode_chunks(archive.chunks))
    data_fd = memory_file()
    os.ftruncate(data_fd, table.size)
    source = f"docker://{server.host}/team/app:1"
    return Layer(source, digest_of(LAYER.blob), data_fd, table, extractor("zstd"))


def content(layer: Layer, first: int, count: int) -> bytes:
    chunks = [layer.table[at] for at in range(first, first + count)]
    return b"".join(os.pread(layer.data_fd, one.size, one.position) for one in chunks)


def test_chunks_are_brought_together_and_not_again(registry: tuple[Registry, FaultyServer]) -> None:
    made, server = registry
    layer, said = layer_of(server), []
    chunks = Chunks([layer], said.append)
    assert chunks.bring(0, 3, 4) == 0
    assert content(layer, 3, 4) == LARGE[30_000:70_000]
    assert len(made.ranges) == 1
    assert chunks.bring(0, 2, 6) == 0  # one before, and one after
    assert len(made.ranges) == 3
    assert (
        Chunks([layer], said.append).bring(0, 0, len(layer.table)) == 0
    )  # a new process trusts only digests
    assert content(layer, 0, len(layer.table)) == EXPECTED
    made.reply = Reply(500)
    assert Chunks([layer], said.append).bring(0, 0, len(layer.table)) == 0
    assert said == []


def test_a_half_written_chunk_counts_as_missing(registry: tuple[Registry, FaultyServer]) -> None:
    made, server = registry
    layer = layer_of(server)
    os.pwrite(layer.data_fd, LARGE[:5000], 0)
    os.pwrite(layer.data_fd, LARGE[10_000:20_000], 10_000)
    assert Chunks([layer], print).bring(0, 0, 2) == 0
    assert made.ranges == [(layer.table[0].stored, layer.table[0].stored + layer.table[0].stored_size)]
    assert content(layer, 0, 2) == LARGE[:20_000]


@pytest.mark.parametrize("request_", [(1, 0, 1), (0, 99_999, 1), (0, 0, 0), (0, 30, 99)])
def test_a_request_for_chunks_that_do_not_exist_is_refused(
    registry: tuple[Registry, FaultyServer], request_: tuple[int, int, int]
) -> None:
    layer = layer_of(registry[1])
    assert Chunks([layer], print).bring(*request_) == errno.EINVAL


def test_a_wrong_chunk_is_not_written_and_those_before_it_are_kept(
    registry: tuple[Registry, FaultyServer],
) -> None:
    made, server = registry
    layer, said = layer_of(server), []
    bad = layer.table[2].stored + 20
    made.blob = LAYER.blob[:bad] + bytes([LAYER.blob[bad] ^ 1]) + LAYER.blob[bad + 1 :]
    chunks = Chunks([layer], said.append)
    assert chunks.bring(0, 0, 4) == errno.EIO
    assert content(layer, 0, 2) == LARGE[:20_000]
    assert content(layer, 2, 1) == bytes(10_000)
    assert len(said) == 1
    made.blob = LAYER.blob
    assert chunks.bring(0, 0, 4) == 0
    assert content(layer, 0, 4) == LARGE[:40_000]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(404), "not found"),
        (Reply(200, {}, LAYER.blob), "does not serve ranges"),
        (Reply(206, {"Content-Range": "bytes 0-9/10"}, bytes(10)), "responds with another range"),
        (Reply(206, {}, bytes(10)), "responds with another range"),
        (Reply(503), "503"),
        (Reply(raw=b"garbage\r\n\r\n"), "cut"),
        (Reply(206, {}, b"", stall=True), "another range|no progress"),
    ],
)
def test_a_registry_that_fails_is_an_error_with_its_reason(
    registry: tuple[Registry, FaultyServer], reply: Reply, message: str
) -> None:
    made, server = registry
    layer, said = layer_of(server), []
    made.reply = reply
    assert Chunks([layer], said.append).bring(0, 0, 1) == errno.EIO
    assert re.search(message, said[0]), said
    assert server.host in said[0]


def test_a_registry_that_is_gone_is_not_asked_for_each_chunk(
    registry: tuple[Registry, FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, server = registry
    layer, said = layer_of(server), []
    chunks = Chunks([layer], said.append)
    made.reply = Reply(raw=b"")
    assert chunks.bring(0, 0, 1) == errno.EIO
    asked = len(server.requests)
    assert [chunks.bring(0, at, 1) for at in range(20)] == [errno.EIO] * 20
    assert len(server.requests) == asked
    assert len(set(said)) == 1
    made.reply = None
    monkeypatch.setattr(fetcher, "_REST", 0.0)
    assert chunks.bring(0, 0, 1) == 0


def test_requests_are_answered_until_the_launcher_is_gone(registry: tuple[Registry, FaultyServer]) -> None:
    layer = layer_of(registry[1])
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=serve, args=(theirs, requests, Chunks([layer], print)))
    thread.start()
    for number in range(8):
        server.send(FETCH.pack(number, 0, number, 1))
    found = sorted(FETCHED.unpack(server.recv(FETCHED.size)) for _ in range(8))
    assert found == [(number, 0) for number in range(8)]
    server.close()
    thread.join(0.2)
    assert thread.is_alive()
    control.close()
    thread.join(60)
    assert not thread.is_alive()
    for each in (theirs, requests):
        each.close()
