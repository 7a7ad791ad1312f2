"""Test that a fault of tomlkit or of our own code causes an error or another layout, and never a wrong file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomlkit
import tomlkit.items

from sandbox.editing import insertion, replacement, style
from sandbox.editing.arrays import changed_array
from sandbox.editing.document import Document
from sandbox.editing.values import same
from sandbox.errors import EditError

TEXT = """\
[root]
layers = [
  "dir:/", # the host
  # ours
  "dir:/opt",
]
"""
UNSAFE = (
    "x.toml: the result of the change would differ from the request\n"
    "      hint: make the change with `sandbox edit x.toml`, and report this error"
)


def test_commas_at_the_beginning_of_lines_give_the_usual_layout() -> None:
    # tomlkit 0.15 writes the new element into the comment
    text = '[\n  "a"\n  , "b" # of b\n]'
    assert changed_array(text, ["a", "b"], ["a", "b", "c"]) == ('[\n    "a",\n    "b", # of b\n    "c",\n]')


@pytest.mark.parametrize("fault", ["wrong value", "lost comment", "exception", "no TOML"])
def test_a_fault_of_tomlkit_in_an_array_gives_the_usual_layout(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(self: Any) -> str:
        if fault == "exception":
            raise KeyError("x")
        return {
            "wrong value": '["dir:/"]',
            "lost comment": '["dir:/", "dir:/opt", "dir:/new"]',
            "no TOML": '["dir:/',
        }[fault]

    document = Document(TEXT.encode(), "x.toml")
    monkeypatch.setattr(tomlkit.items.Array, "as_string", faulty)
    document.append(("root", "layers"), "dir:/new")
    assert document.text == (
        '[root]\nlayers = [\n    "dir:/", # the host\n    # ours\n    "dir:/opt",\n    "dir:/new",\n]\n'
    )


@pytest.mark.parametrize("written", ['"2G"', '"1G"\ncore = 0', '"1G', "'''"])
def test_a_value_that_is_written_wrong_is_refused_and_the_document_stays(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = Document(b'[limits]\nmemory = "512M"\n', "x.toml")
    monkeypatch.setattr(replacement, "written", lambda _value, before: written)
    with pytest.raises(EditError) as caught:
        document.put(("limits", "memory"), "1G")
    assert caught.value.render() == UNSAFE
    assert document.text == '[limits]\nmemory = "512M"\n'
    assert document.tree == {"limits": {"memory": "512M"}}


@pytest.mark.parametrize("fault", ["value", "comment", "no TOML"])
def test_a_wrong_layout_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"value": "a = 2 # c\n", "comment": "a = 1\n", "no TOML": "a = \n"}[fault]
    monkeypatch.setattr(style._Formatter, "text", lambda _self: wrong)
    with pytest.raises(EditError) as caught:
        style.formatted(b"a=1 # c\n", "x.toml")
    assert caught.value.render() == UNSAFE


def test_a_refused_change_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.editing.change import change_file

    file = tmp_path / "x.toml"
    file.write_text('[root]\nlayers = ["dir:/"]\n')
    monkeypatch.setattr(insertion, "literal", lambda _value: "0")
    monkeypatch.setattr(insertion, "written", lambda _value, before: "0")
    with pytest.raises(EditError):
        change_file(str(file), lambda one: one.put(("limits", "core"), 1), {})
    assert file.read_text() == '[root]\nlayers = ["dir:/"]\n'


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (1, 1.0), (0.0, -0.0), ("1", 1), ([1], [True]), ({"a": 1}, {"a": 1.0})],
)
def test_values_that_are_equal_in_python_but_not_in_toml_differ(one: object, other: object) -> None:
    assert not same(one, other)
    assert same(one, one)


def test_nan_equals_nan() -> None:
    assert same(float("nan"), float("nan"))


def test_a_value_that_is_not_valid_unicode_is_refused() -> None:
    document = Document(b"a = 1\n", "x.toml")
    with pytest.raises(EditError) as caught:
        document.put(("b",), "\udcff")  # the byte 0xFF of a command line
    assert caught.value.render() == "x.toml: the value is not UTF-8, which TOML requires"
    assert document.text == "a = 1\n"
