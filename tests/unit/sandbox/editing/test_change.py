"""Test `sandbox.editing.change`, beyond the directories in cases/."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.cli.main import main

SPEC = '[root]\nlayers = ["dir:/"]\n[limits]\npids = 5\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.toml"
    path.write_text(SPEC)
    return path


def test_a_change_that_changes_nothing_writes_nothing(file: Path) -> None:
    before = file.stat()
    assert main(["set", "x.toml", "limits.pids=5"]) == 0
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_cannot_be_replaced_is_reported_before_mistakes_of_the_change(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.link(file, "second")
    assert main(["set", "x.toml", "limits.pids=none"]) == 125
    assert capsys.readouterr().err.startswith("sandbox: x.toml: has 2 names (hard links)")
    assert file.read_text() == SPEC
