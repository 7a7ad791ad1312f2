"""Test the templates: each is valid, has a comment for each line and the usual layout, and sets only enforced keys."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from sandbox.cli.main import main
from sandbox.editing.style import formatted
from sandbox.editing.template_files import template, templates
from sandbox.spec import parse

NAMES = sorted(templates())
_FAR = 5  # lines; a reader does not relate a line further down to the comment


def test_there_are_templates_for_the_usual_cases() -> None:
    assert {"minimal", "shell", "build", "service", "untrusted", "debian"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_valid_and_enforced(name: str) -> None:
    spec = parse(template(name), path=f"/srv/{name}.toml", environ={"HOME": "/home/alice"})
    assert spec.unenforced == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_the_usual_layout(name: str) -> None:
    assert formatted(template(name), name) == template(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_begins_with_its_purpose(name: str) -> None:
    first = template(name).decode().partition("\n")[0]
    assert re.fullmatch(r"# [A-Z].{20,118}[.]", first)
    assert templates()[name] == first[2:]


@pytest.mark.parametrize("name", NAMES)
def test_every_line_of_a_template_has_a_comment_above_it(name: str) -> None:
    distance = _FAR
    unexplained = []
    text = re.sub(r"'''.*?'''", "''", template(name).decode(), flags=re.DOTALL)
    for line in text.splitlines():
        if line.startswith("#"):
            distance = 0
        elif not line:
            distance = _FAR
        elif not line.startswith("["):
            distance += 1
            if distance > _FAR:
                unexplained.append(line)
    assert unexplained == []


def test_templates_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--list"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, templates()[name]] for name in NAMES]
    assert main(["init", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == [{"name": name, "description": templates()[name]} for name in NAMES]


def test_a_template_is_written_under_the_name_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert capsys.readouterr() == ("", "sandbox.toml was written; start it with `sandbox up sandbox.toml`\n")
    assert Path("sandbox.toml").read_bytes() == template("minimal")
    assert main(["init", "web.toml", "--template", "service"]) == 0
    assert Path("web.toml").read_bytes() == template("service")
    assert sorted(os.listdir()) == ["sandbox.toml", "web.toml"]


def test_force_replaces_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sandbox.toml").write_text("old")
    Path("sandbox.toml").chmod(0o600)
    assert main(["init"]) == 125
    assert main(["init", "--force"]) == 0
    assert Path("sandbox.toml").read_bytes() == template("minimal")
    assert Path("sandbox.toml").stat().st_mode & 0o777 == 0o600
    assert main(["init", "--force", "new.toml"]) == 0
    assert Path("new.toml").read_bytes() == template("minimal")
