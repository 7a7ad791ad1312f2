"""Fixture: a directory to unpack into, with files around it that must not change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import make_tree, snapshot

CANARY = b"nobody may change me"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Return a destination directory with files around it that must not change."""
    outside = tmp_path / "outside"
    make_tree(outside, {"canary": CANARY, "dir": {"inner": CANARY}})
    before = snapshot(outside, nlink=True, mtime=True)
    place = tmp_path / "around" / "root"
    place.mkdir(parents=True)
    yield place
    assert snapshot(outside, nlink=True, mtime=True) == before
    assert os.listdir(tmp_path / "around") == ["root"]
    assert sorted(os.listdir(tmp_path)) == ["around", "outside"]
