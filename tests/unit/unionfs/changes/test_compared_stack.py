"""Opening a stack to compare it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.unionfs.changes.trees import source_of
from unionfs.changes import compared_stack
from unionfs.changes.comparison import Comparison

if TYPE_CHECKING:
    import pytest

    from tests.unit.unionfs.conftest import MakeUnion


def test_a_comparison_of_many_directories_keeps_few_open(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"d{number}" for number in range(100)]
    union = make_union({name: {"f": b"old", "g": b"g"} for name in names})
    for name in names:
        union.write(f"{name}/f", b"new")
    monkeypatch.setattr(compared_stack, "_MOST_FDS", 16)
    stack = compared_stack.open_stack_to_compare(source_of(union))
    try:
        assert len(Comparison(stack).rows()) == len(names)
        assert len(stack.layers[0].fds) < 30
    finally:
        stack.close()
