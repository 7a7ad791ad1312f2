"""The parser for command lines that do not need argparse."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.cli import parser, simple_parser

_WORDS = st.sampled_from(
    (
        "a.toml true - -- --debug --report --timings --json --dry-run --trace-denials --set --profile a=1 b --set=a=1 --deb --unknown -h "
        "--help -d -1 -v -e -w -p a:/b -va:/b -eA A"
    ).split(" ")
)
_MAYBE_EMPTY = st.just("") | _WORDS


def by_argparse(argv: Sequence[str]) -> dict[str, object] | None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return vars(parser.parse(argv))
        except SystemExit:
            return None


@given(st.lists(_MAYBE_EMPTY, max_size=8))
@example(["--set", "a=1", "a.toml", "--", "true", "--", "--set"])
@example(["a.toml", "true", "--debug"])
@example(["a.toml", "--debug", "true"])
def test_what_is_plain_means_what_argparse_makes_of_it(words: list[str]) -> None:
    argv = ["up", *words]
    found = simple_parser.read(argv)
    if found is not None:
        assert vars(found) == by_argparse(argv)


@pytest.mark.parametrize(
    "line",
    [
        "up a.toml",
        "up a.toml -- true --help",
        "up a.toml true",
        "up --timings a.toml",
        "up a.toml --report --json -- true",
        "up --set limits.memory=1G --profile fast --set a=b -",
        "up",
        "up -- true",
        "up -v a:/b:ro -e A=1 -e B -w /x -p 8080:80 a.toml -- true",
    ],
)
def test_the_usual_lines_are_plain(line: str) -> None:
    assert simple_parser.read(line.split()) is not None


@pytest.mark.parametrize(
    "line",
    [
        "up -w",
        "up -va:/b a",
        "up -v -w a",
        "up --help",
        "up -h a",
        "up --repor a",
        "up a --set",
        "up --set=a=b a",
        "up a --debug b",
        "up --what a",
    ],
)
def test_what_is_not_is_left_to_argparse(line: str) -> None:
    assert simple_parser.read(line.split()) is None


def test_an_argument_of_another_kind_makes_no_line_plain() -> None:
    for names, given_ in [
        (("--count",), {"type": int}),
        (("--level",), {"choices": ["a"]}),
        (("-x",), {"action": "store_true"}),
        (("--name",), {}),
    ]:
        declared = simple_parser.Declared()
        declared.add_argument("file")
        declared.add_argument(*names, **given_)  # type: ignore[arg-type]
        assert declared.read(["a.toml"]) is None
