"""Test that changing the largest allowed files takes time linear in their size, not quadratic."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator

import pytest

from sandbox.editing.document import Document
from sandbox.editing.layout import changes_between

SECONDS = 20
"""Seconds of processor time: far more than needed, and less than half of that of a quadratic algorithm."""

BASE = '[process]\ncommand = ["sh"]\n'


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("between", ["", "\n"], ids=["on one line", "in lines"])
def test_an_element_is_added_to_many_equal_ones(between: str) -> None:
    elements = f'"a",{between}' * 12000
    document = Document(f"{BASE}args = [{between}{elements}]\n".encode(), "x.toml")
    document.append(("process", "args"), "b")
    assert tomllib.loads(document.text)["process"]["args"] == ["a"] * 12000 + ["b"]


def test_a_value_is_set_between_many_equal_lines_with_both_line_ends() -> None:
    document = Document((BASE + "#\n" * 12000 + "#\r\n" + "umask = 1\n" + "#\n" * 12000).encode(), "x.toml")
    document.put(("process", "umask"), 2)
    assert document.encode() == (BASE + "#\n" * 12000 + "#\r\n" + "umask = 2\n" + "#\n" * 12000).encode()


def test_distant_changes_are_merged_if_comparing_all_lines_would_take_too_long() -> None:
    before = ["x", *["a"] * 3000, "y"]
    after = ["a", *before, "a"]
    changes = changes_between(before, after)
    assert [before[change[1] : change[2]] for change in changes if change[0] == "equal"] == []
    assert changes == [("replace", 0, len(before), 0, len(after))]


def test_changes_equal_those_of_difflib_between_the_common_ends() -> None:
    assert changes_between(["a", "b", "c"], ["a", "x", "c"]) == [
        ("equal", 0, 1, 0, 1),
        ("replace", 1, 2, 1, 2),
        ("equal", 2, 3, 2, 3),
    ]
    assert changes_between(["a", "a"], ["a"]) == [("equal", 0, 1, 0, 1), ("delete", 1, 2, 1, 1)]
    assert changes_between([], ["a"]) == [("insert", 0, 0, 0, 1)]
    assert changes_between(["a"], ["a"]) == [("equal", 0, 1, 0, 1)]
