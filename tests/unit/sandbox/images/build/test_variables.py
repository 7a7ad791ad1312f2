"""Expansion of variables: tables, and the shell as an oracle for what both define alike."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.images.build.variables import MAX_DEPTH, MAX_TOTAL, MAX_VALUE, Expander, ExpansionError

VARIABLES = {"X": "va lue", "E": "", "long_NAME9": "v"}


def expand(text: str, escape: str = "\\") -> str:
    return Expander(escape).word(text, VARIABLES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("$X", "va lue"),
        ("${X}y", "va luey"),
        ("$Xy", ""),
        ("$X.y", "va lue.y"),
        ("$long_NAME9-", "v-"),
        ("$", "$"),
        ("a$", "a$"),
        ("$.", "$."),
        ("$1x", "x"),
        ("$$", ""),
        ("${1}", ""),
        ("'$X'", "$X"),
        ('"$X"', "va lue"),
        ("\"'$X'\"", "'va lue'"),
        ("\\$X", "$X"),
        ('"\\$X \\" \\\\ \\a"', '$X " \\ \\a'),
        ("'\\'", "\\"),
        ("a\\", "a"),
        ("\\a\\\\", "a\\"),
        ("${U:-$X}", "va lue"),
        ("${U:-${E:-${X}}}", "va lue"),
        ("${E:-d}${E-d}", "d"),
        ("${U-d}", "d"),
        ("${X:+a}${E:+a}${E+b}${U:+a}${U+a}", "ab"),
        ("${U:-\\}}}", "}}"),
        ("${U:-'}'}", "}"),
        ("${U:-a b}", "a b"),
        ("${X:?m}${E?m}", "va lue"),
        ("é$X", "éva lue"),
    ],
)
def test_a_word_expands_to(text: str, expected: str) -> None:
    assert expand(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("`$X", "$X"), ("\\$X", "\\va lue"), ('"`" \\"', '" \\'), ("a``b", "a`b"), ("'`'", "`")],
)
def test_the_escape_character_is_the_one_of_the_file(text: str, expected: str) -> None:
    assert expand(text, "`") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$X", ["va", "lue"]),
        ('"$X"', ["va lue"]),
        ("a$X", ["ava", "lue"]),
        ("a\\ b c", ["a b", "c"]),
        ("$E", []),
        (" a  b ", ["a", "b"]),
        ("${U:-a b}'c d'", ["a", "bc d"]),
    ],
)
def test_blanks_of_a_value_separate_words(text: str, expected: list[str]) -> None:
    assert Expander("\\").words(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("'$X' \"$X\"\n", "'va lue' \"va lue\"\n"), ("\\$X \\n \\\\ $", "$X n \\ $"), ("${U:-'a'}", "'a'")],
)
def test_a_document_keeps_its_quotes(text: str, expected: str) -> None:
    assert Expander("`").document(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("a${X", "${ is not closed", "${X"),
        ("${X:-${E}", "${ is not closed", "${X:-${E}"),
        ("${X y}", "${ is not closed", "${X y}"),
        ("a'b", "a single quote is not closed", "'b"),
        ('a"b', "a double quote is not closed", '"b'),
        ("${}", "${ without the name of a variable", "${}"),
        ("${X##*/}b", 'the operator "#" in ${X...} is not supported', "${X#"),
        ("${X:=b}", 'the operator ":=" in ${X...} is not supported', "${X:="),
        ("a${E:?why}b", "E: why", "${E:?why}"),
        ("${U?}", "U: is not set", "${U?}"),
        ("${E:?}", "E: is not set or empty", "${E:?}"),
    ],
)
def test_a_mistake_is_reported_with_its_characters(text: str, message: str, place: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(text)
    assert caught.value.message == message
    assert text[caught.value.start : caught.value.end] == place
    assert caught.value.hint


def test_a_value_that_no_program_could_get_is_refused() -> None:
    variables = {"X": "x" * (MAX_VALUE // 2)}
    assert len(Expander("\\").word("$X$X", variables)) == MAX_VALUE
    with pytest.raises(ExpansionError, match="longer than 131072 characters"):
        Expander("\\").word("a$X$X", variables)


def test_all_values_of_a_file_are_bounded_together() -> None:
    expander = Expander("\\")
    variables = {"X": "x" * MAX_VALUE}
    for _ in range(MAX_TOTAL // MAX_VALUE):
        expander.word("$X", variables)
    with pytest.raises(ExpansionError, match="expand to more than"):
        expander.word("$X", variables)


def test_deep_nesting_is_refused() -> None:
    def nested(depth: int) -> str:
        return "${U:-" * depth + "x" + "}" * depth

    assert expand(nested(MAX_DEPTH)) == "x"
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(ExpansionError, match="nested more than 50 levels"):
            expand(nested(depth))


# What follows means the same in POSIX (XCU 2.2, 2.6.2). Quotes inside of quoted expansions do not.
LITERAL = st.sampled_from(["a", "bc", ".", "/", "=", "é", "-"])
NAME = st.sampled_from(["X", "E", "U", "long_NAME9"])
OPERATOR = st.sampled_from([":-", "-", ":+", "+"])
PLAIN = st.one_of(
    LITERAL,
    NAME.map(lambda name: f"${{{name}}}"),
    NAME.map(lambda name: f"${name}."),
    st.sampled_from(["\\$", "\\\\"]),
)


def _operated(word: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(NAME, OPERATOR, word).map(lambda parts: f"${{{parts[0]}{parts[1]}{parts[2]}}}")


QUOTED = st.recursive(PLAIN, lambda inner: _operated(st.lists(inner, max_size=3).map("".join)), max_leaves=6)
DOUBLE = st.lists(st.one_of(QUOTED, st.just("'")), max_size=4).map(lambda parts: f'"{"".join(parts)}"')
SINGLE = st.lists(st.sampled_from(["a", "$X", "\\", '"', " "]), max_size=4).map(
    lambda parts: f"'{''.join(parts)}'"
)
WORD = st.lists(st.one_of(QUOTED, DOUBLE, SINGLE, st.sampled_from(["\\a", "\\'", '\\"'])), max_size=5).map(
    "".join
)


@settings(max_examples=200, deadline=None)
@given(WORD)
def test_the_shell_expands_a_word_to_the_same(word: str) -> None:
    # An assignment does not split words.
    done = subprocess.run(
        ["/bin/sh", "-c", f'v={word}\nprintf %s "$v"'],
        capture_output=True,
        check=True,
        env={**VARIABLES, "PATH": os.defpath},
        timeout=60,
    )
    assert done.stdout.decode() == expand(word)
