"""Mounts with an index of their lower layers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.support import make_union, run_unionfs, wait_until
from tests.support.tree import Symlink, snapshot

TREE = {"f": b"data", "d": {"g": b"1", "l": Symlink(target=b"g")}, "bin": {"sh": b"#!/bin/echo\n"}}


@pytest.fixture
def indexes(base: str) -> str:
    """Return a directory for indexes."""
    path = os.path.join(base, "own-indexes")
    os.mkdir(path, 0o700)
    return path


def _made(indexes: str) -> list[str]:
    return sorted(name for name in os.listdir(indexes) if name.endswith(".index"))


@pytest.mark.fuse
def test_a_missing_index_is_built_in_the_background_and_used_by_the_next_mount(
    base: str, indexes: str
) -> None:
    union = make_union(base, TREE, {"low": b""}, options=f"index_dir={indexes},immutable")
    with union:
        before = snapshot(os.path.join(union.path, "d"))
        wait_until(lambda: bool(_made(indexes)), "the index is made")
    made = _made(indexes)
    # The new mode is not in the index, so a lookup shows whether the server uses the layer or the index.
    os.chmod(os.path.join(base, "lower0", "f"), 0o600)
    with union:
        assert os.lstat(os.path.join(union.path, "f")).st_mode & 0o777 == 0o644
        assert snapshot(os.path.join(union.path, "d")) == before
        with open(os.path.join(union.path, "f"), "rb") as file:
            assert file.read() == b"data"
    assert _made(indexes) == []  # opening the file has shown that the index is outdated
    with union:
        wait_until(lambda: _made(indexes) == made, "the index is made anew")
    with union:
        assert os.lstat(os.path.join(union.path, "f")).st_mode & 0o777 == 0o600


@pytest.mark.fuse
def test_a_mount_that_ends_at_once_leaves_an_index_and_no_process(base: str, indexes: str) -> None:
    with make_union(base, TREE, options=f"index_dir={indexes}"):
        pass
    assert len(_made(indexes)) == 1
    assert not [name for name in os.listdir(indexes) if name.startswith(".new")]


@pytest.mark.fuse
def test_a_program_of_an_indexed_layer_runs(base: str, indexes: str) -> None:
    union = make_union(base, TREE, options=f"index_dir={indexes},index_build=first")
    os.chmod(os.path.join(base, "lower0", "bin", "sh"), 0o755)
    with union:
        done = subprocess.run(
            [os.path.join(union.path, "bin/sh")], capture_output=True, timeout=30, check=True
        )
    assert done.stdout.strip() == os.path.join(union.path, "bin/sh").encode()


@pytest.mark.parametrize("problem", ["missing", "inside a layer", "open to others"])
def test_an_unusable_directory_for_indexes_is_refused(base: str, indexes: str, problem: str) -> None:
    Path(base, "lower", "inside").mkdir(parents=True, mode=0o700)
    Path(base, "mnt").mkdir()
    where, said = {
        "missing": (f"{base}/nowhere", "No such file"),
        "inside a layer": (f"{base}/lower/inside", "is inside layer"),
        "open to others": (indexes, "can be written by other users"),
    }[problem]
    os.chmod(indexes, 0o777)
    done = run_unionfs("-f", "-o", f"lowerdir={base}/lower,index_dir={where}", f"{base}/mnt")
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.fuse
def test_a_lower_file_that_was_written_between_two_mounts_is_read_completely(base: str, indexes: str) -> None:
    union = make_union(
        base, {"d": {"longer": b"1\n", "shorter": b"0123456789"}}, options=f"index_dir={indexes}"
    )
    with union:
        wait_until(lambda: bool(_made(indexes)), "the index is made")
    below = Path(base, "lower0", "d")
    (below / "longer").write_bytes(b"more than before\n")
    (below / "shorter").write_bytes(b"less")
    with union:
        inside = Path(union.path, "d")
        assert inside.joinpath("longer").read_bytes() == b"more than before\n"
        assert inside.joinpath("longer").stat().st_size == 17
        assert inside.joinpath("shorter").read_bytes() == b"less"
