"""The work directory: removal of what it holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionfs.upper.workdir import OPEN_DIR, remove_tree

if TYPE_CHECKING:
    from pathlib import Path


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    depth = 1100  # more than a process may open, and more than Python may call itself
    at = os.open(tmp_path, OPEN_DIR)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        os.mkdir("-0", dir_fd=at)
        os.mknod("f", dir_fd=at)
        below = os.open("d", OPEN_DIR, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    top = os.open(tmp_path, OPEN_DIR)
    try:
        assert remove_tree(top) == 3 * depth
    finally:
        os.close(top)
    assert list(tmp_path.iterdir()) == []


def test_directories_that_their_owner_may_not_use_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for path in ("a/b/c", "a/b", "a"):
        (tmp_path / path).chmod(0)
    top = os.open(tmp_path, OPEN_DIR)
    try:
        assert remove_tree(top) == 3
    finally:
        os.close(top)
