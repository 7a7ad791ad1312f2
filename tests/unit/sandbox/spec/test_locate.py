"""Test `sandbox.spec.locate`: positions of keys and values. tests/property/test_locate.py compares it with tomllib."""

from __future__ import annotations

import tomllib

import pytest

from sandbox.spec.locate import MAX_DEPTH, locate
from sandbox.spec.notation import format_key_path


def places(text: str) -> dict[str, tuple[str, str]]:
    """Return the texts of each key and value, by key path."""
    tomllib.loads(text)
    located = locate(text)
    assert located.stopped is None
    return {
        format_key_path(path): (
            text[entry.key.start : entry.key.end],
            text[entry.value.start : entry.value.end],
        )
        for path, entry in located.entries.items()
    }


def test_a_key_and_its_value_are_found() -> None:
    assert places("a = 1 # one\n") == {"a": ("a", "1")}


def test_a_table_is_located_at_its_header() -> None:
    assert places("[ a . b ]\nc = 1") == {"a": ("a", "a"), "a.b": ("b", "b"), "a.b.c": ("c", "1")}


def test_dotted_keys_make_tables() -> None:
    assert places("a . 'b.c' . d = 1\na.e = 2") == {
        "a": ("a", "a"),
        'a."b.c"': ("'b.c'", "'b.c'"),
        'a."b.c".d': ("d", "1"),
        "a.e": ("e", "2"),
    }


def test_inline_tables_and_arrays_nest() -> None:
    assert places('a = [ 1, { b = [ "]", [] ], c.d = {} }, ]') == {
        "a": ("a", '[ 1, { b = [ "]", [] ], c.d = {} }, ]'),
        "a[0]": ("1", "1"),
        "a[1]": ('{ b = [ "]", [] ], c.d = {} }', '{ b = [ "]", [] ], c.d = {} }'),
        "a[1].b": ("b", '[ "]", [] ]'),
        "a[1].b[0]": ('"]"', '"]"'),
        "a[1].b[1]": ("[]", "[]"),
        "a[1].c": ("c", "c"),
        "a[1].c.d": ("d", "{}"),
    }


def test_arrays_over_several_lines_may_hold_comments() -> None:
    assert places("a = [ # ]\n  1, # ,\n\n  2\n  # end\n]\nb = 3") == {
        "a": ("a", "[ # ]\n  1, # ,\n\n  2\n  # end\n]"),
        "a[0]": ("1", "1"),
        "a[1]": ("2", "2"),
        "b": ("b", "3"),
    }


def test_a_header_below_an_array_of_tables_means_its_last_element() -> None:
    found = places("[[a]]\n[a.b]\nx = 1\n[[a.c]]\n[[a]]\n[[a.c]]\n[[a.c]]\ny = 2\n[a.c.z]")
    assert list(found) == [
        *("a", "a[0]", "a[0].b", "a[0].b.x", "a[0].c", "a[0].c[0]"),
        *("a[1]", "a[1].c", "a[1].c[0]", "a[1].c[1]", "a[1].c[1].y", "a[1].c[1].z"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        '""',
        "''",
        '"""\n"quoted" \\""" ]\n"""',
        '""""""',
        '"""a"""""',
        '""""a"""',
        "'''\n'a' ''b''\n'''",
        "''''a'''''",
        '"a # no comment \\" , ] }"',
        "'C:\\'",
        '"\\\\"',
        "1979-05-27 07:32:00.5-08:00",
        "1979-05-27T07:32:00Z",
        "1979-05-27",
        "07:32:00",
        "+1_000",
        "0xdead_beef",
        "-inf",
        "6.26e-34",
        "true",
    ],
)
def test_the_extent_of_every_form_of_value_is_known(value: str) -> None:
    assert places(f"a = {value} # x\nb = [{value}, {value}]\nc = {{ d = {value} }}") == {
        "a": ("a", value),
        "b": ("b", f"[{value}, {value}]"),
        "b[0]": (value, value),
        "b[1]": (value, value),
        "c": ("c", f"{{ d = {value} }}"),
        "c.d": ("d", value),
    }


def test_escapes_in_keys_are_resolved() -> None:
    assert list(places('"\\u0061\\t" = 1\n"" = 2\n\'\\u0061\' = 3')) == ['"a\\t"', '""', '"\\\\u0061"']


def test_newlines_and_trailing_commas_in_inline_tables_are_accepted_as_in_toml_1_1() -> None:
    text = "a = {\n  b = 1, # one\n  c = 2,\n}\nd = 3\n"
    assert [format_key_path(path) for path in locate(text).entries] == ["a.b", "a.c", "a", "d"]


def test_the_first_of_two_definitions_is_kept_and_both_are_statements() -> None:
    text = "a = 1\na = 2\n"
    located = locate(text)
    assert located.entries[("a",)].key.start == 0
    assert [(statement.key.start, statement.end) for statement in located.statements] == [(0, 5), (6, 11)]


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ('a = 1\nb = "x\n', 10),
        ("a = 1\n= 2", 6),
        ("a b", 2),
        ("[a", 2),
        ("[[a]\n", 3),
        ("a = [1", 6),
        ("a = {b}", 6),
        ("a = \n", 4),
    ],
)
def test_a_scan_stops_at_the_first_mistake(text: str, stopped: int) -> None:
    located = locate(text)
    assert (located.stopped, located.too_deep) == (stopped, False)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a=" * 100_000,
        ".".join(["a"] * 100_000) + " = 1",
        "[" + ".".join(["a"] * 100_000) + "]",
        "[" + ".".join(["a"] * 40) + "]\n" + ".".join(["b"] * 40) + " = 1",
    ],
)
def test_a_document_that_is_too_deep_is_distinguished(text: str) -> None:
    assert locate(text).too_deep


def test_the_deepest_document_that_is_accepted_can_be_parsed() -> None:
    text = "a = " + "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)
    assert len(places(text)) == MAX_DEPTH


def test_a_long_string_is_scanned_at_once() -> None:
    text = 'a = """' + "x\\n\n" * 200_000 + '"""\nb = 1'
    assert locate(text).entries[("b",)].value.end == len(text)
