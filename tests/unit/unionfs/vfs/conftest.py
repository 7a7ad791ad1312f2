"""Fixtures for unions that are frozen while they are open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.freezing import LOWER, FreezingClient
from unionfs.upper.format import ANY_FORMAT, WantedFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.tree import Tree


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Callable[..., FreezingClient]]:
    """Return a function that opens a union of trees, top first, which can be frozen."""
    made: list[FreezingClient] = []

    def make(*lowers: Tree, form: WantedFormat = ANY_FORMAT) -> FreezingClient:
        base = tmp_path / str(len(made))
        base.mkdir()
        made.append(FreezingClient(base, lowers or (LOWER,), form))
        return made[-1]

    yield make
    for each in made:
        each.close()
        each.check_frozen()


@pytest.fixture
def client(make_client: Callable[..., FreezingClient]) -> FreezingClient:
    return make_client()
