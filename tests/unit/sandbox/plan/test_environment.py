"""Environment variables: the syntax of env_file, the position of each mistake, and the precedence of values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.host.paths import MAX_CONTENT, PathFact, inspect_all
from sandbox.plan import parse_variables
from tests.unit.sandbox.facts import directory, plan

SPEC = '[root]\nlayers = ["dir:/"]\n[process]\nenv_file = "web.env"\n'


def content(data: bytes) -> dict[str, PathFact]:
    return {
        "/specs/web.env": PathFact(path="/specs/web.env", real="/specs/web.env", kind="file", content=data)
    }


def test_lines_are_names_with_values_as_they_are() -> None:
    data = b'# comment\n\n  A=1\nB= two words # no comment\nC="quoted"\nD=\nE=x=y\r\n\t# indented\nA=again'
    variables, mistakes = parse_variables(data, "web.env")
    assert mistakes == []
    assert [(item.name, item.value, item.line) for item in variables] == [
        ("A", "1", 3), ("B", " two words # no comment", 4), ("C", '"quoted"', 5), ("D", "", 6), ("E", "x=y", 7), ("A", "again", 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"hunter2", "expected NAME=VALUE"),
        (b"=value", '"" cannot name an environment variable'),
        (b"export A=1", '"export A" cannot name an environment variable'),
        (b"A =1", '"A " cannot name an environment variable'),
        (b"A=\0", "the value of A contains a NUL character"),
        (b"A=\xff", "the line is not UTF-8: byte 0xff"),
        (b"\xef\xbb\xbfA=1", "the file starts with a byte order mark"),
    ],
)
def test_line_that_sets_nothing_is_a_mistake_at_its_place(line: bytes, message: str) -> None:
    variables, mistakes = parse_variables(b"GOOD=1\n" + line + b"\nALSO=2\n", "web.env")
    assert [(item.file, item.line, item.message) for item in mistakes] == [("web.env", 2, message)]
    assert [item.name for item in variables] == ["GOOD", "ALSO"]


def test_mistake_does_not_show_what_may_be_a_secret() -> None:
    with pytest.raises(SpecError) as caught:
        plan(SPEC, paths=content(b"hunter2\nB\n"))
    assert str(caught.value) == (
        "/specs/web.env:1:1: expected NAME=VALUE\n      hint: write NAME=VALUE; to pass a variable on, name it in process.inherit_env\n"
        "/specs/web.env:2:1: expected NAME=VALUE\n      hint: write NAME=VALUE; to pass a variable on, name it in process.inherit_env"
    )


def test_file_wins_over_what_is_inherited_and_the_environment_file_over_both() -> None:
    spec = SPEC + 'inherit_env = ["A", "B", "C"]\nenv = { C = "env" }\n'
    environ = {"A": "outer", "B": "outer", "C": "outer"}
    env = plan(spec, paths=content(b"B=file\nC=file\nD=file\nPATH=/x\n"), environ=environ).process.env
    assert {name: env[name] for name in ("A", "B", "C", "D", "PATH")} == {
        "A": "outer", "B": "file", "C": "env", "D": "file", "PATH": "/x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (directory("/specs/web.env"), "is a directory, not a file"),
        (
            PathFact(path="", real="", kind="missing", reason="no such file or directory"),
            "no such file or directory",
        ),
        (PathFact(path="", real="", kind="file", reason="is not a regular file"), "is not a regular file"),
    ],
)
def test_file_that_cannot_be_read_is_refused_at_its_key(fact: PathFact, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(SPEC, paths={"/specs/web.env": fact})
    assert str(caught.value).startswith(
        f"/specs/test.toml:4:12: process.env_file: /specs/web.env: {reason}\n"
    )


def test_only_files_that_are_to_be_read_are(tmp_path: Path) -> None:
    one, other, large, fifo = (str(tmp_path / name) for name in ("one", "other", "large", "fifo"))
    Path(one).write_bytes(b"A=1")
    Path(other).write_bytes(b"B=2")
    Path(large).write_bytes(bytes(MAX_CONTENT + 1))
    os.mkfifo(fifo)
    facts = inspect_all(
        [one, other, large, fifo, "/dev/null", str(tmp_path)],
        read=[one, large, fifo, "/dev/null", str(tmp_path)],
    )
    assert {
        os.path.basename(path): fact.content for path, fact in facts.items() if fact.content is not None
    } == {"one": b"A=1"}
    assert facts[large].reason == "is larger than 1 MiB"
    assert facts[fifo].reason == facts["/dev/null"].reason == "is not a regular file"
    assert "A=1" not in repr(facts[one])
