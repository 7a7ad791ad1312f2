"""A union that is used through FUSE requests, and whose worker threads a test can block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.fsapi.direct import DirectClient
from tests.unit.unionfs.fuse.async_server import LARGE, PATIENCE, Server
from unionfs.copyup import background_copy, copy_data
from unionfs.fuse.direct.async_io import AsyncIo

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion


@pytest.fixture
def server(make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server with a small and a large lower file, and a file of the upper layer."""
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
