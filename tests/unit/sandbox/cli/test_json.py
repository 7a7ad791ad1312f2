"""The shapes of the output of --json, as docs/json.md describes them, and the streams of all output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli.main import main

DIAGNOSTIC = {
    *("severity", "file", "line", "column", "end_line", "end_column"),
    *("key", "message", "hint", "source_line"),
}
SPEC = """[root]
layers = ["dir:/"]
[process]
command = ["true"]
[network]
mode = "private"
hosts = { db = "10.0.0.2" }
networks = []
optional = ["networks"]
"""


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text(SPEC)
    Path("wrong.toml").write_text("a = 1\n")


def printed(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    assert main([*words, "--json"]) == status
    out, err = capsys.readouterr()
    assert out.isascii()
    assert err == "" or status == 1 or "--dry-run" in words  # notes
    return json.loads(out)


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(capsys, "check", "a.toml", "wrong.toml", status=1)
    assert result.keys() == {"ok", "here", "files"}
    assert [(one.keys(), one["ok"]) for one in result["files"]] == [
        ({"file", "ok", "diagnostics"}, True),
        ({"file", "ok", "diagnostics"}, False),
    ]
    assert all(found.keys() == DIAGNOSTIC for one in result["files"] for found in one["diagnostics"])
    assert result["files"][1]["diagnostics"][0]["severity"] == "error"


def test_check_of_a_file_of_somebody_else(capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(capsys, "check", "--untrusted", "a.toml", "wrong.toml", status=1)
    good, wrong = result["files"]
    place = {"file", "line", "column", "profile", "leads_to"}
    assert {frozenset(one) for one in good["requests"]} == {
        frozenset({"kind", "what", "text", "key"} | place)
    }
    assert wrong["requests"] is None


def test_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "config", "a.toml")["process"] == {"command": ["true"]}
    first = printed(capsys, "config", "a.toml", "--origins", "--set", "limits.pids=5")[0]
    assert first == {
        "key": "root.layers",
        "value": ["dir:/"],
        "origins": [{"file": "a.toml", "line": 2, "column": 10}],
    }
    everything = printed(capsys, "config", "a.toml", "--origins", "--defaults")
    assert {"key": "root.writable", "value": "ephemeral", "origins": [None]} in everything


def test_get(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "get", "a.toml")["network"]["hosts"] == {"db": "10.0.0.2"}
    assert printed(capsys, "get", "a.toml", "process.command") == ["true"]
    assert printed(capsys, "get", "a.toml", "process.user", status=1) is None
    assert printed(capsys, "get", "a.toml", "process.user", "root.layers", status=1) == {
        "process.user": None,
        "root.layers": ["dir:/"],
    }


@pytest.mark.parametrize(
    "words",
    [
        ["set", "a.toml", "limits.pids=5"],
        ["unset", "a.toml", "process.command"],
        ["add", "a.toml", "layer", "dir:/usr"],
    ],
)
def test_verbs_that_change(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(capsys, *words)
    assert result.keys() == {"warnings"}
    assert all(found.keys() == DIAGNOSTIC for found in result["warnings"])


def test_init(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "init", "new.toml", "--template", "shell") == {
        "file": "new.toml",
        "template": "shell",
    }
    assert {frozenset(one) for one in printed(capsys, "init", "--list")} == {
        frozenset({"name", "description"})
    }


def test_reference(capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = printed(capsys, "reference", "limits.memory")
    assert entry.keys() == {"key", "doc", "value", "default", "example", "required", "enforced"}


@pytest.mark.parametrize(
    "words",
    [
        ["config", "wrong.toml"],
        ["explain", "wrong.toml"],
        ["up", "--dry-run", "wrong.toml"],
        ["get", "absent.toml"],
        ["set", "a.toml", "root.writable=no"],
        ["unset", "a.toml", "root.layers"],
        ["add", "a.toml", "layer", "nothing"],
        ["init", "a.toml"],
        ["reference", "zzz"],
    ],
    ids=" ".join,
)
def test_failure(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(capsys, *words, status=125)
    assert result.keys() == {"error"}
    error = result["error"]
    assert error.keys() - {"diagnostics"} == {"message", "hint", "exit_code"}
    assert error["exit_code"] == 125
    assert all(found.keys() == DIAGNOSTIC for found in error.get("diagnostics", []))


def test_up_has_its_output_from_its_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "a.toml", "--json"]) == 125
    assert capsys.readouterr() == (
        "",
        (
            "sandbox: --json needs --dry-run or --report: otherwise standard output belongs to the program\n"
            "      hint: add --dry-run for the plan, or --report for the resources used\n"
        ),
    )
