"""Trees are removed at any depth, through closed directories, and never through a link."""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.kernel.trees import remove_contents


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    at = os.dup(top)
    for _ in range(3000):
        os.mkdir(b"deep", dir_fd=at)
        below = os.open(b"deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    remove_contents(top)
    os.close(top)
    assert os.listdir(tmp_path) == []


def test_removal_enters_closed_directories_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "closed" / "inner").mkdir(parents=True)
    (tree / "closed" / "file").touch()
    (tree / "link").symlink_to(outside)
    (tree / "closed" / "link").symlink_to(outside)
    (tree / "closed" / "inner").chmod(0)
    (tree / "closed").chmod(0)
    fd = os.open(tree, os.O_RDONLY)
    remove_contents(fd)
    os.close(fd)
    assert os.listdir(tree) == []
    assert os.listdir(outside) == ["kept"]
