"""What README.md shows of the language is so: its files are valid, its commands run, its output is what is printed."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from sandbox.cli.main import main
from sandbox.cli.verbs import VERBS
from sandbox.spec.load import parse
from tests.conftest import PROJECT

TEXT = (Path(PROJECT) / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_the_files_are_valid() -> None:
    files = blocks("toml")
    assert files
    for text in files:
        assert parse(text.encode(), path="/srv/build.toml", environ={}).unenforced == ()


def test_the_mistakes_of_the_broken_file_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = (block for block in blocks("console") if block.startswith("$ cat broken.toml\n"))
    text, _, shown = block.removeprefix("$ cat broken.toml\n").partition("$ sandbox up broken.toml\n")
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text(text)
    assert main(["up", "broken.toml"]) == 125
    assert capsys.readouterr() == ("", shown)


def test_the_commands_on_environment_files_do_what_they_are_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = (block for block in blocks("console") if block.startswith("$ sandbox init "))
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line.removeprefix("$ sandbox "), comments=True) for line in block.splitlines()]
    for words in commands:
        if words[0] == "doctor":  # tries the machine: tests/e2e/test_doctor.py
            continue
        status = main(words)
        assert status == 0 or (words[0] == "explain" and status == 1), (words, capsys.readouterr())
    assert os.listdir() == ["mine.toml"]


def test_every_verb_is_in_the_table() -> None:
    rows = re.findall(r"^\| (`.+?) \|", TEXT, re.MULTILINE)
    named = {name.split()[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert set(VERBS) - named == set()
