"""`sandbox config`: the command. Its output is tested in test_dump.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.cli.main import main


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.toml").write_text('root.layers = ["dir:/"]\n')
    (tmp_path / "f.toml").write_text(
        'extends = "base.toml"\n[root]\nlayers = { append = ["tar:/x"] }\n[profile.p.limits]\npids = 7\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_profiles_and_values_of_the_command_line_are_part_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "f.toml", "--profile", "p", "--set", "limits.memory=1G", "--origins"]) == 0
    assert capsys.readouterr() == (
        """\
[root]
layers = [
    "dir:/",  # base.toml:1
    "tar:/x",  # f.toml:3
]

[limits]
memory = "1G"  # --set
pids = 7  # f.toml:5
""",
        "",
    )


def test_json_is_the_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "f.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"root": {"layers": ["dir:/", "tar:/x"]}}


def test_json_with_origins_is_a_list_of_values_with_their_places(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "f.toml", "--json", "--origins", "--defaults", "--set", "limits.pids=1"]) == 0
    values = {item["key"]: item for item in json.loads(capsys.readouterr().out)}
    assert values["root.layers"] == {
        "key": "root.layers",
        "value": ["dir:/", "tar:/x"],
        "origins": [
            {"file": "base.toml", "line": 1, "column": 16},
            {"file": "f.toml", "line": 3, "column": 22},
        ],
    }
    assert values["limits.pids"]["origins"] == [{"file": "--set", "line": 1, "column": 13}]
    assert values["process.cwd"] == {"key": "process.cwd", "value": "/", "origins": [None]}


def test_a_mistake_is_reported_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "f.toml", "--set", "limits.pids=none"]) == 125
    assert capsys.readouterr() == (
        "",
        (
            "--set:1:13: limits.pids: expected integer, found string\n"
            "    1 | limits.pids=none\n"
            "      |             ^~~~ for example: pids = 256\n"
        ),
    )


def test_a_mistake_is_json_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "f.toml", "--set", "limits.pids=none", "--json"]) == 125
    out, err = capsys.readouterr()
    assert err == ""
    error = json.loads(out)["error"]
    assert error["message"] == "1 mistake"
    assert error["diagnostics"][0]["key"] == "limits.pids"
