""".dockerignore: patterns that moby's patternmatcher was observed to match, and properties."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.images.build import dockerignore
from sandbox.images.build.dockerignore import MAX_PATTERNS, ignore_files, parse


def excluded(text: str, paths: str) -> str:
    rules = parse(text.encode(), ".dockerignore")
    return " ".join(path for path in paths.split() if rules.excludes(path))


@pytest.mark.parametrize(
    ("text", "paths", "expected"),
    [
        ("", "a a/b", ""),
        ("# a\n\n  \n", "a #", ""),
        (" #a\n", "#a", "#a"),
        ("a", "a a/b ab b/a A", "a a/b"),
        ("/a", "a a/b b/a", "a a/b"),
        ("./a/", "a a/b", "a a/b"),
        ("a//b/../c", "a/c a/b a", "a/c"),
        ("*.log", "x.log a/x.log x.log/y .log", "x.log x.log/y .log"),
        ("*/*.log", "x.log a/x.log a/b/x.log", "a/x.log"),
        ("a?", "ab a a/ abc", "ab"),
        ("a?b", "a/b axb", "axb"),
        ("[a-c]x", "ax bx dx", "ax bx"),
        ("[^a-c]x", "ax dx", "dx"),
        ("\\*", "* a", "*"),
        ("\\!a", "!a a", "!a"),
        ("**", "a a/b .c", "a a/b .c"),
        ("**/a", "a b/a b/c/a b/a/c xa", "a b/a b/c/a b/a/c"),
        ("**a", "a b/xa ab", "a b/xa"),
        ("**/*.py", "a.py b/c.py b.pyc", "a.py b/c.py"),
        ("a/**", "a a/b a/b/c ab", "a/b a/b/c"),
        ("a**", "a ab ab/c b", "a ab ab/c"),
        ("a/**/b", "a/b a/x/b a/x/y/b ab a/bc", "a/b a/x/b a/x/y/b"),
        ("**/a/**", "a x/a x/a/b a/b", "x/a/b a/b"),
        ("*\n!b", "a b b/c c", "a c"),
        ("*\n!a/b", "a a/b a/b/c a/c", "a a/c"),
        ("!a\na", "a", "a"),
        ("a\n!a\na/x", "a a/x a/y", "a/x"),
        ("**\n!**/*.c\n**/gen*", "a.c b/a.c b/gen.c b/h", "b/gen.c b/h"),
        ("a\n! a/b ", "a/b a/c", "a/c"),
        (".", "a . b", "."),
        ("..", "a ..", ".."),
        ("/", "a b", ""),
        ("a.b", "a.b axb", "a.b"),
        ("a+(b)|{c}$*", "a+(b)|{c}$ a+(b)|{c}$x ab", "a+(b)|{c}$ a+(b)|{c}$x"),
    ],
)
def test_patterns_exclude_the_paths(text: str, paths: str, expected: str) -> None:
    assert excluded(text, paths) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n[b", '.dockerignore:2:1: malformed pattern: "[" is not closed'),
        ("  []a]", '.dockerignore:1:3: malformed pattern: "]" is not allowed there in [...]: write "\\]"'),
        ("[a-]", 'malformed pattern: "]" is not allowed there'),
        ("a\\", 'malformed pattern: it ends with "\\"'),
        ("!", ".dockerignore:1:1: an exception without pattern"),
        ("a" * 5000, "malformed pattern: it is longer than 4096 characters"),
    ],
)
def test_a_malformed_pattern_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        parse(text.encode(), ".dockerignore")


def test_too_many_patterns_are_refused() -> None:
    parse(b"a\n" * MAX_PATTERNS, "f")
    with pytest.raises(SpecError, match="f:1001:1: more than 1000 patterns"):
        parse(b"a\n" * (MAX_PATTERNS + 1), "f")


def test_the_file_beside_the_containerfile_has_precedence() -> None:
    assert ignore_files("/p/docker/app.Dockerfile", "/p") == (
        "/p/docker/app.Dockerfile.dockerignore",
        "/p/.dockerignore",
    )


def test_exceptions_are_announced() -> None:
    assert not parse(b"a\nb", "f").has_exceptions
    assert parse(b"a\n!b", "f").has_exceptions


SEGMENT = st.sampled_from(["a", "b", "ab", "a.b", ".x", "*", "a*", "*b", "?", "[ab]", "[^a]", "**", "a?b"])
PATH = st.lists(st.sampled_from(["a", "b", "ab", "a.b", ".x", "axb"]), min_size=1, max_size=4).map("/".join)


def _model(pattern: str, path: str) -> bool:
    """Return whether *pattern*, in which "**" is a whole segment, matches *path* or a directory above it."""
    expression = ""
    segments = pattern.split("/")
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if segment == "**":
            expression += ".+" if last and number else ".*" if last else "(?:.*/)?"
            continue
        expression += segment.replace(".", "\\.").replace("*", "[^/]*").replace("?", "[^/]") + (
            "" if last else "/"
        )
    parts = path.split("/")
    return any(re.fullmatch(expression, "/".join(parts[:end])) for end in range(1, len(parts) + 1))


@settings(deadline=None)  # the machine may be busy
@given(st.lists(SEGMENT, min_size=1, max_size=4).map("/".join), PATH)
def test_a_pattern_matches_as_a_regular_expression_does(pattern: str, path: str) -> None:
    assert (excluded(pattern, path) == path) is _model(pattern, path)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.tuples(st.booleans(), st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)), max_size=4),
    PATH,
)
def test_the_last_pattern_that_matches_decides(rules: list[tuple[bool, str]], path: str) -> None:
    expected = False
    for exception, pattern in rules:
        if _model(pattern, path):
            expected = not exception
    text = "\n".join(f"{'!' if exception else ''}{pattern}" for exception, pattern in rules)
    assert parse(text.encode(), "f").excludes(path) is expected


@pytest.mark.parametrize(
    "pattern", ["**/a*" * 200 + "b", "*a" * 1000 + "b", "**/" * 1300 + "?b", "[ab]**/" * 500 + "c?"]
)
def test_matching_takes_linear_time(pattern: str) -> None:
    rules = parse(pattern.encode(), "f")
    path = "/".join(["a" * 50] * 80)
    start = time.process_time()
    assert not rules.excludes(path)
    assert time.process_time() - start < 2


def test_a_directory_that_is_excluded_excludes_what_is_below() -> None:
    for pattern in ("a*", "*/b", "**/c", "[x]"):
        rules = parse(pattern.encode(), "f")
        for path in ("ab", "q/b", "q/r/c", "x"):
            if rules.excludes(path):
                assert rules.excludes(f"{path}/deep/er")
    assert dockerignore.NAME == ".dockerignore"
