"""What a moved object replaces is with its row: nothing else tells that these objects go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import Tree
from tests.unit.unionfs.changes.trees import below_of, check, compare, shown_by
from tests.unit.unionfs.client import Client
from unionfs.changes.rows import DELETED, MOVED
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat


@pytest.fixture(autouse=True)
def _no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def union_over(base: Path, lower: Tree) -> Client:
    return Client(base, [lower], WantedFormat(whiteouts=WhiteoutFormat.OVERLAY))


def replaced_by_moves(union: Client) -> dict[bytes, list[bytes]]:
    rows = compare(union)
    check(rows, below_of(union), shown_by(union))
    return {row.path: sorted(path for path, _ in row.replaced) for row in rows if row.kind == MOVED}


def test_a_moved_directory_replaces_a_directory_with_entries_of_the_same_names(tmp_path: Path) -> None:
    tree = {
        "new": {"same": b"1", "both": {"x": b"2"}},
        "old": {"same": b"3", "both": {"x": b"4", "y": b"5"}, "gone": b"6"},
    }
    union = union_over(tmp_path, tree)
    for path in ("same", "both/x", "both/y", "gone"):
        union.unlink(f"/old/{path}")
    for path in ("both", ""):
        union.rmdir(f"/old/{path}".rstrip("/"))
    union.rename("/new", "/old")
    assert replaced_by_moves(union) == {b"old": [b"old", b"old/both", b"old/both/x", b"old/same"]}
    assert {row.path for row in compare(union) if row.kind == DELETED} == {b"old/both/y", b"old/gone"}
    union.close()


def test_a_moved_file_replaces_a_file_and_two_that_swap_replace_none(tmp_path: Path) -> None:
    union = union_over(tmp_path, {"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    union.rename("/a", "/b")
    union.rename("/c", "/swap")
    union.rename("/d", "/c")
    union.rename("/swap", "/d")
    assert replaced_by_moves(union) == {b"b": [b"b"], b"c": [], b"d": []}
    union.close()
