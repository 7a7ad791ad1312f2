"""Printed text: no text of a file, a path or the command line can send control sequences to a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from sandbox.cli.main import main

# A colour, a newline, a carriage return, a right-to-left override, a zero-width space, a C1 control, a Unicode line separator.
HOSTILE = "\x1b[31mE\nFAKE: line\r\u202e\u200b\x9b\u2028"
QUOTED = "".join(char if char.isprintable() else f"\\u{ord(char):04X}" for char in HOSTILE)
FILES = {
    "good.toml": f'[root]\nlayers = ["dir:/"]\n[process]\ncommand = ["a"]\nargs = ["{QUOTED}"]\n'
    f'[sandbox]\ndescription = "{QUOTED}"\n[process.env]\n"A" = "{QUOTED}"\n',
    "bad.toml": f'[root]\nlayers = ["dir:/{QUOTED}"]\n[process]\n"{QUOTED}" = 1\n[limits]\nmemory = "{QUOTED}"\n',
    "lists.toml": f'extends = "base.toml"\n[process]\nargs = {{ remove = ["{QUOTED}"], "{QUOTED}" = 1 }}\n',
    "base.toml": f'[root]\nlayers = ["dir:/"]\n[process]\nargs = ["{QUOTED}-"]\n[profile."{QUOTED}"]\n',
    "missing.toml": f'extends = "{QUOTED}.toml"\n',
    "extends.toml": f'extends = "b{QUOTED}.toml"\n',
    f"b{HOSTILE}.toml": f'extends = "b{QUOTED}.toml"\n',
    f"c{HOSTILE}.toml": '[root]\nlayers = ["dir:/"]\nbogus = 1\n',
    f"d{HOSTILE}.toml": '[root]\nlayers=["dir:/"]\n',
}
COMMANDS = [
    ["check"],
    ["config"],
    ["config", "--origins", "--defaults"],
    ["explain"],
    ["up", "--dry-run"],
    ["get"],
    ["get", "--json"],
    ["fmt", "--check"],
    ["check", "--profile", HOSTILE],
    ["check", "--set", HOSTILE],
    ["check", "--set", f'"{QUOTED}"=1'],
    ["config", "--origins", "--set", f'process.args=["{QUOTED}"]'],
    ["explain", "--set", f"sandbox.description={HOSTILE}"],
]
EDITS = [
    ["get", "{}", HOSTILE],
    ["get", "{}", "process.umask"],
    ["set", "{}", f'process.command."{QUOTED}"=1'],
    ["set", "{}", f"volumes[{HOSTILE}].read_only=true"],
    ["unset", "{}", f'process."{QUOTED}"'],
    ["add", "{}", HOSTILE, "x"],
    ["add", "{}", "volume", HOSTILE],
    ["add", "{}", "env", f"{HOSTILE}=1"],
    ["fmt", "{}"],
    ["init", "{}"],
    ["init", "--template", HOSTILE, "new.toml"],
]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def assert_harmless(text: str) -> None:
    assert [char for char in text if not char.isprintable() and char not in "\n\t"] == []
    assert not [line for line in text.split("\n") if line.lstrip().startswith("FAKE")]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: ascii(" ".join(words)))
@pytest.mark.parametrize("file", [*FILES, f"e{HOSTILE}.toml"], ids=ascii)
def test_no_report_obeys_a_file(file: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*words, file])
    out, err = capsys.readouterr()
    assert_harmless(out)
    assert_harmless(err)
    assert "internal error" not in err


@pytest.mark.parametrize("words", EDITS, ids=lambda words: ascii(" ".join(words)))
@pytest.mark.parametrize("file", ["good.toml", f"d{HOSTILE}.toml", f"e{HOSTILE}.toml"], ids=ascii)
def test_no_answer_of_an_editing_verb_obeys_its_words(
    file: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([file if word == "{}" else word for word in words])
    out, err = capsys.readouterr()
    assert_harmless(out)
    assert_harmless(err)
    assert "internal error" not in err


def test_a_value_is_as_it_is_for_a_program_and_escaped_for_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["get", "good.toml", "sandbox.description"]) == 0
    assert capsys.readouterr().out == f"{HOSTILE}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["get", "good.toml", "sandbox.description"]) == 0
    assert capsys.readouterr().out == "\\u001B[31mE\nFAKE: line\\u000D\\u202E\\u200B\\u009B\\u2028\n"


class Output(io.TextIOWrapper):
    """Standard output in an encoding that lacks most characters."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="latin-1", errors="strict")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def content(self) -> bytes:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


@pytest.mark.parametrize(
    ("terminal", "shown"), [(False, "é…\U0001f600\n".encode()), (True, b"\xe9\\u2026\\U0001F600\n")]
)
def test_toml_is_utf_8_for_a_program_and_what_a_terminal_lacks_is_escaped(
    directory: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: bytes
) -> None:
    (directory / "words.toml").write_text('sandbox.description = "é…\U0001f600"\n')
    output = Output(terminal=terminal)
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["get", "words.toml", "sandbox.description"]) == 0
    assert output.content() == shown


def test_what_json_lacks_is_a_string(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "dates.toml").write_text(
        "a = [1979-05-27T07:32:00Z, 1979-05-27, 07:32:00.5]\nb = { c = nan, d = -inf, e = 1.5 }\n"
    )
    assert main(["get", "--json", "dates.toml"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": ["1979-05-27T07:32:00+00:00", "1979-05-27", "07:32:00.500000"],
        "b": {"c": "nan", "d": "-inf", "e": 1.5},
    }
