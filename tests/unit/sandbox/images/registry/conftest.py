"""Fixtures of the tests of the registry client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], FaultyServer]]:
    """Return a function that starts a server with the given responses."""
    with ExitStack() as servers:
        yield lambda handle: servers.enter_context(FaultyServer(handle))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    """Return an empty file, open for reading and writing without a buffer."""
    with open(tmp_path / "blob", "w+b", buffering=0) as opened:
        yield opened
