"""Test `sandbox.spec.notation`: key paths, quoting, literals, suggestions."""

from __future__ import annotations

import datetime as dt
import tomllib

import pytest

from sandbox.spec.notation import (
    KeyPath,
    format_key_path,
    literal,
    nearest,
    parse_key_path,
    quote,
    shown,
    text_literal,
    type_name,
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("root",), "root"),
        (("root", "layers", 1), "root.layers[1]"),
        (("volumes", 0, "source"), "volumes[0].source"),
        (("a", 0, 12), "a[0][12]"),
        (("process", "env", "odd key"), 'process.env."odd key"'),
        (("a.b", 'quo"te', "back\\slash"), '"a.b"."quo\\"te"."back\\\\slash"'),
        (("", "\n", "\x7f"), '""."\\n"."\\u007F"'),
        (("cpu-weight", "日本"), 'cpu-weight."日本"'),
    ],
)
def test_a_key_path_is_written_and_read_back(path: KeyPath, text: str) -> None:
    assert format_key_path(path) == text
    assert parse_key_path(text) == path


@pytest.mark.parametrize("text", ["a..b", ".a", "a[", "a[x]", "a b", '"open', "a."])
def test_invalid_key_paths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a key path"):
        parse_key_path(text)


@pytest.mark.parametrize(
    "text", ["", "plain", 'a"b\\c', "\t\n\r\b\f", "\0\x1b\x7f\x85\u202e", "日本\U0001f40d", "\U000e0001"]
)
def test_a_quoted_string_is_toml_and_holds_no_control_character(text: str) -> None:
    quoted = quote(text)
    assert quoted.isprintable()
    assert tomllib.loads(f"k = {quoted}") == {"k": text}


def test_a_value_in_a_message_is_cut() -> None:
    assert shown("x" * 100) == '"' + "x" * 60 + '…"'
    assert shown("x" * 60) == '"' + "x" * 60 + '"'


@pytest.mark.parametrize(
    "value",
    [
        *(
            True,
            False,
            0,
            -5,
            1.5,
            1e-7,
            1e22,
            float("inf"),
            "a\nb",
            [],
            ["a", 1],
            {},
            {"a": [{"b c": "d"}], "e": False},
        ),
        *(
            dt.datetime(2024, 1, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            dt.datetime.fromisoformat("2024-01-01T01:02"),
            dt.date(2024, 1, 1),
            dt.time(1),
        ),
    ],
)
def test_a_literal_is_toml_on_one_line_for_the_value(value: object) -> None:
    assert "\n" not in literal(value)
    assert tomllib.loads(f"k = {literal(value)}") == {"k": value}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("one", '"one"'),
        ("one\n", '"one\\n"'),
        ("one\ntwo", "'''\none\ntwo'''"),
        ("\n\tone\\two\n", "'''\n\n\tone\\two\n'''"),
        ("it's\n'", '"""\nit\'s\n\'"""'),
        ("a '''\nb", '"""\na \'\'\'\nb"""'),
        ("'''\n\"\"\"", '"""\n\'\'\'\n\\"\\"\\""""'),
        ("a\r\nb", '"a\\r\\nb"'),
        ("a\nb\u202e", '"a\\nb\\u202E"'),
    ],
)
def test_a_text_of_several_lines_is_written_over_several(text: str, written: str) -> None:
    assert text_literal(text) == written
    assert tomllib.loads(f"k = {written}") == {"k": text}
    assert tomllib.loads(f"k = {literal({'a': [text]}, string=text_literal)}") == {"k": {"a": [text]}}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "boolean"),
        (1, "integer"),
        (1.0, "float"),
        ("", "string"),
        ([], "array"),
        ({}, "table"),
        (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "date-time"),
        (dt.date(2024, 1, 1), "date"),
        (dt.time(1), "time"),
    ],
)
def test_types_have_their_toml_names(value: object, name: str) -> None:
    assert type_name(value) == name


def test_the_nearest_name_ignores_case_and_hyphens() -> None:
    assert nearest("Read-Only", ["source", "read_only"]) == "read_only"
    assert nearest("memroy", ["memory", "memory_high"]) == "memory"


def test_a_short_name_is_taken_for_an_abbreviation_of_the_only_name_that_it_can_stand_for() -> None:
    assert nearest("cmd", ["cwd", "command"]) == "command"
    assert nearest("ro", ["source", "read_only"]) == "read_only"
    assert nearest("ro", ["root_only", "read_only"]) is None
    assert nearest("memry", ["memory", "memory_high"]) == "memory"
    assert nearest("r", ["read_only"]) is None


def test_a_dissimilar_or_very_long_name_has_no_nearest_name() -> None:
    assert nearest("zzz", ["memory"]) is None
    assert nearest("memory" * 100, ["memory"]) is None
    assert nearest("", ["memory"]) is None
