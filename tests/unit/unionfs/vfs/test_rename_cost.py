"""The cost of renaming a directory does not depend on its contents. It adds one directory to the writable layer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.calls import calls_of
from tests.support.tree import Tree
from unionfs import _libc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union
    from unionfs.formats.whiteout import WhiteoutFormat

pytestmark = pytest.mark.once

#: Calls that may differ at random, such as callbacks of weak references.
CHANCE = 10


def tree(entries: int, depth: int) -> Tree:
    """Return a directory with this many entries, and this many nested directories."""
    deep: Tree = {"end": b""}
    for _ in range(depth):
        deep = {"deep": deep}
    return {**{f"file{number}": b"" for number in range(entries)}, "deep": deep}


def merge(union: Union) -> None:
    """Copy up the directories."""
    union.create("dir/mine")
    union.create("other/mine")


RENAMES: dict[str, Callable[[Union], None]] = {
    "in-its-place": lambda union: union.rename("dir", "new"),
    "into-another": lambda union: union.rename("dir", "home/new"),
    "over-a-whiteout": lambda union: union.rename("dir", "gone"),
    "over-an-empty-one": lambda union: union.rename("dir", "home/empty"),
    "exchanged": lambda union: union.rename("dir", "other", _libc.RENAME_EXCHANGE),
    "without-replacing": lambda union: union.rename("dir", "new", _libc.RENAME_NOREPLACE),
}


@pytest.mark.parametrize("prepare", [lambda _: None, merge], ids=["lower", "merged"])
@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
def test_renaming_a_directory_costs_the_same_whatever_is_in_it(
    make_union: MakeUnion,
    whiteouts: WhiteoutFormat,
    rename: Callable[[Union], None],
    prepare: Callable[[Union], None],
) -> None:
    def cost(entries: int, depth: int) -> int:
        layer = {
            "dir": tree(entries, depth),
            "other": tree(entries, depth),
            "home": {"empty": {}},
            "gone": b"",
        }
        union = make_union(layer, layer, whiteouts=whiteouts)
        prepare(union)
        union.unlink("gone")
        union.reopen()
        for path in ("dir", "other", "home", "home/empty"):  # as the kernel does before a rename
            union.inode(path)
        return calls_of(lambda: rename(union))

    small, large = cost(5, 2), cost(400, 40)
    assert abs(large - small) <= CHANCE


@pytest.mark.whiteouts
def test_a_renamed_directory_is_one_new_directory_in_the_writable_layer(make_union: MakeUnion) -> None:
    union = make_union({"a": {"dir": tree(2000, 40)}, "b": {}})
    union.rename("a/dir", "b/new")
    found = {os.path.relpath(at, union.upper): sorted(names) for at, names, _ in os.walk(union.upper)}
    assert found == {".": ["a", "b"], "a": [], "b": ["new"], "b/new": []}
    assert os.listdir(union.upper / "a") == ["dir"]  # the whiteout
    union.reopen()
    assert union.exists("b/new/file1999")
    assert union.exists("b/new" + 41 * "/deep" + "/end")
