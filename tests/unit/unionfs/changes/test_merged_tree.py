"""The merged trees that `unionfs changes` reads without a mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.tree import HardLink
from tests.unit.unionfs.changes.trees import compare

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion


def test_a_copy_counts_only_for_the_lower_file_that_was_copied(make_union: MakeUnion) -> None:
    union = make_union({"a": b"old", "b": HardLink("a")})
    union.write("a", b"new")
    assert [(row.kind, row.path) for row in compare(union)] == [("C", b"a"), ("C", b"b")]
    index = union.work / "unionfs" / "index"
    (entry,) = os.listdir(index)
    number, count, born = entry.split(".")
    # As if the owner of the layer had replaced the file, and the new one had got its inode number.
    os.rename(index / entry, index / f"{number}.{count}.{int(born, 16) + 1:x}")
    assert [(row.kind, row.path) for row in compare(union)] == [("C", b"a")]
