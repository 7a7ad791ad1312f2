"""Test `sandbox.spec.document`: from bytes to a tree with positions. Syntax errors are in bad/."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.spec.document import parse_document


def test_values_and_places_come_together() -> None:
    tree, origins = parse_document(b"a = [1, 2]\r\nb.c = 'x'\r\n", file="f", directory="/")
    assert tree == {"a": [1, 2], "b": {"c": "x"}}
    assert origins.find("b.c") is not None
    place = origins.diagnose("b.c", "m")
    assert (place.line, place.column, place.source_line) == (2, 7, "b.c = 'x'")


@pytest.mark.parametrize("data", [b"[a]\r\r\nb = 'x'\n", b"a = 1\r\r\n", b"a = '''x\r\r\ny'''\n"])
def test_a_carriage_return_before_a_line_end_is_not_part_of_the_value(data: bytes) -> None:
    with pytest.raises(SpecError) as caught:
        parse_document(data, file="f", directory="/")
    assert caught.value.diagnostics[0].as_dict()["line"] == 1


def test_the_largest_and_smallest_integers_are_accepted() -> None:
    tree, _ = parse_document(b"a = 9223372036854775807\nb = -9223372036854775808", file="f", directory="/")
    assert tree == {"a": 2**63 - 1, "b": -(2**63)}


@pytest.mark.parametrize("data", [b"a = 1\n\n\xff", b"\xc3", b"a = '\xed\xa0\x80'", "a = 1".encode("utf-16")])
def test_invalid_utf8_is_one_diagnostic_at_the_byte(data: bytes) -> None:
    with pytest.raises(SpecError) as caught:
        parse_document(data, file="f", directory="/")
    assert len(caught.value.diagnostics) == 1
    assert "is not UTF-8: byte 0x" in str(caught.value)


def test_the_place_of_a_bad_byte_counts_characters() -> None:
    with pytest.raises(SpecError) as caught:
        parse_document("a = 1\r\nb = 'ä".encode() + b"\xff'", file="f", directory="/")
    found = caught.value.diagnostics[0].as_dict()
    assert (found["line"], found["column"]) == (2, 7)


@pytest.mark.parametrize(
    ("text", "key", "line", "first"),
    [
        ("a = 1\n[a.b]\n", "a", 2, 1),
        ("[a.b]\nc = 1\n[a]\nb.d = 2\n", "a.b", 4, 1),
        ("[[a]]\n[a]\n", "a", 2, 1),
        ("[a]\n[[a]]\n", "a", 2, 1),
        ("a = { b = 1, b.c = 2 }", "a.b", 1, 1),
        ("x = 1\na = { b = { c = 1 }, b = 2 }\n", "a.b", 2, 2),
        ("a.b = 1\na.c = 2\na.b = 3\n", "a.b", 3, 1),
        ("[a]\nb = 1\n[[c]]\nb = 1\n[[c]]\nb = 1\nb = 2\n", "c[1].b", 7, 6),
    ],
)
def test_a_second_definition_points_at_itself_and_names_the_first(
    text: str, key: str, line: int, first: int
) -> None:
    with pytest.raises(SpecError) as caught:
        parse_document(text.encode(), file="f", directory="/")
    found = caught.value.diagnostics[0].as_dict()
    assert (found["key"], found["line"], found["message"]) == (key, line, f"already defined on line {first}")
