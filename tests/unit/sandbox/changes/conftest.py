"""A directory of the host to write to, between files that must not change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.changes.host_tree import HostTree
from tests.support.tree import make_tree, snapshot
from tests.unit.sandbox.changes.applying import LOWER, Sandbox, sandbox_over

CANARY = b"nobody may change me"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory to write to. Everything around it must stay as it is."""
    outside = tmp_path / "outside"
    make_tree(outside, {"canary": CANARY, "dir": {"inner": CANARY}})
    before = snapshot(outside, nlink=True, mtime=True)
    place = tmp_path / "around" / "root"
    place.mkdir(parents=True)
    yield place
    assert snapshot(outside, nlink=True, mtime=True) == before
    assert os.listdir(tmp_path / "around") == ["root"]
    assert sorted(os.listdir(tmp_path)) == ["around", "outside"]


@pytest.fixture
def tree(root: Path) -> Iterator[HostTree]:
    """The tree below `root`."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield HostTree(fd, "/shown")
    os.close(fd)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox over a directory with `LOWER`."""
    with sandbox_over(LOWER) as made:
        yield made
