"""The output of results to a terminal or a program: colour, columns, JSON, characters, pipes."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandbox.cli.output import print_json, print_table, print_warnings, styled, use_colour, warn
from sandbox.spec.diagnostic import Diagnostic
from tests.conftest import PROJECT

ROWS = [("minimal", "The least."), ("shell", "A shell."), ("x", "")]
WARNING = Diagnostic(file="a.toml", key="limits.memory", message="not enforced", severity="warning")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm"}, True),
    ],
)
def test_a_terminal_is_coloured_unless_somebody_switched_it_off(
    environ: Mapping[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert use_colour(Terminal()) is coloured
    assert use_colour(io.StringIO()) is False


def test_style_is_of_text_that_there_is() -> None:
    assert styled("x", "red", colour=True) == "\x1b[31mx\x1b[0m"
    assert styled("x", "red", colour=False) == "x"
    assert styled("", "red", colour=True) == ""


def test_a_table_for_a_program_has_tabs_and_no_header() -> None:
    stream = io.StringIO()
    print_table(ROWS, header=("TEMPLATE", "FOR"), stream=stream)
    assert stream.getvalue() == "minimal\tThe least.\nshell\tA shell.\nx\t\n"


def test_a_table_for_a_terminal_has_columns_and_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(ROWS, header=("TEMPLATE", "FOR"), stream=stream)
    assert stream.getvalue() == "TEMPLATE  FOR\nminimal   The least.\nshell     A shell.\nx\n"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    print_table(ROWS, header=("TEMPLATE", "FOR"), stream=stream)
    assert stream.getvalue().splitlines()[:2] == ["\x1b[1mTEMPLATE  FOR\x1b[0m", "minimal   The least."]


def test_a_table_may_be_empty_or_without_header() -> None:
    stream = Terminal()
    print_table([], stream=stream)
    print_table([("a", "b"), ("ab", "c", "d")], stream=stream)
    assert stream.getvalue() == "a   b\nab  c  d\n"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": "/\udcff\u65e5"})
    text = capsys.readouterr().out
    assert text.isascii()
    assert text.endswith("}\n")
    assert json.loads(text) == {"path": "/\udcff\u65e5"}


def test_warnings_go_to_standard_error_and_as_json_to_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_warnings([WARNING])
    assert capsys.readouterr() == ("", f"{WARNING.render()}\n")
    print_warnings([WARNING], as_json=True)
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"warnings": [WARNING.as_dict()]}, "")
    warn("it is so")
    assert capsys.readouterr() == ("", "sandbox: warning: it is so\n")


# --- the whole command ---


def run(
    *words: str, environ: Mapping[str, str], stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
        env={"PYTHONPATH": PROJECT, "HOME": "/nowhere", **environ},
    )


#: Python makes C.UTF-8 of the locale C unless it is told not to; a locale such as ISO-8859-1 may not be installed.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "a.toml"
    path.write_text('[root]\nlayers = ["dir:/"]\n[process]\ncommand = ["\u00e9\u65e5"]\n', encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("environ", [ASCII, {"LC_ALL": "C.UTF-8"}], ids=["ASCII", "UTF-8"])
def test_a_program_gets_utf_8_whatever_the_locale(environ: Mapping[str, str], file: str) -> None:
    for words in (["config", file], ["get", file], ["explain", file], ["reference"], ["fmt", "--diff", file]):
        done = run(*words, environ=environ)
        assert (done.stderr, done.returncode in (0, 1)) == (b"", True), words
        done.stdout.decode()
    assert 'command = ["\u00e9\u65e5"]' in run("config", file, environ=environ).stdout.decode()


def test_a_mistake_is_shown_whatever_the_locale(file: str) -> None:
    done = run("check", file, "--set", "process.user=\u65e5", environ=ASCII)
    assert done.returncode == 1
    assert b"is not a user" in done.stdout


def test_bytes_of_a_path_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.toml"
    with open(path, "wb") as stream:
        stream.write(b'a = 1\n[root]\nlayers = ["dir:/"]\n')
    done = run("fmt", "--diff", os.fsdecode(path), environ={"LC_ALL": "C.UTF-8"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"/\uDCFF.toml" in done.stdout.splitlines()[0]


def test_a_terminal_gets_escapes_for_what_its_locale_lacks(file: str) -> None:
    ours, theirs = pty.openpty()
    try:
        done = run("config", file, environ=ASCII, stdout=theirs)
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb'command = ["\u00E9\u65E5"]' in shown


@pytest.mark.parametrize("words", [["reference"], ["schema"], ["init", "--list"]], ids=" ".join)
def test_a_full_disk_is_said(words: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = run(*words, environ={}, stdout=full)
    finally:
        os.close(full)
    assert done.returncode == 125
    assert done.stderr.decode() == (
        "sandbox: cannot write: no space left on device\n"
        "      hint: free space on the file system of standard output and of the state directory (see `df`)\n"
    )


@pytest.mark.parametrize(
    "words", [["reference", "--markdown"], ["schema"], ["--help"], ["get", "/absent", "--json"]], ids=" ".join
)
def test_a_reader_that_has_gone_is_no_failure(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(*words, environ={}, stdout=writer)
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141
