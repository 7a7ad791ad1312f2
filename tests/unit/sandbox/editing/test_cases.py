"""Run the command line of each directory in cases/ on its file, and compare the results with the expected ones.

`before.toml` is the content of `file.toml` before. `command` has one command line per line; \\n in a word is a line break. The
expected results are `after.toml` (absent: unchanged), `stdout`, `stderr` (absent: empty) and `status`, the exit status of the
last command (absent: 0).
"""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest

from sandbox.cli.main import main

HERE = Path(__file__).parent / "cases"
CASES = sorted(path.name for path in HERE.iterdir())
FILES = {"before.toml", "command", "after.toml", "stdout", "stderr", "status"}


def run_case(case: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bytes]:
    """Run the commands of *case* on its file in *directory*; return the last exit status, and the content of the file afterwards."""
    before = (case / "before.toml").read_bytes()
    (directory / "file.toml").write_bytes(before)
    monkeypatch.chdir(directory)
    monkeypatch.setenv("HOME", "/home/alice")
    status = 0
    for line in (case / "command").read_text().splitlines():
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(before)))
        try:
            status = main([word.replace("\\n", "\n") for word in shlex.split(line)])
        except SystemExit as end:  # argparse refused the command line
            status = int(end.code or 0)
    return status, (directory / "file.toml").read_bytes()


def expected(case: Path, name: str) -> str:
    """Return the content of the file *name* of *case*; "" if there is none."""
    path = case / name
    return path.read_bytes().decode() if path.exists() else ""


@pytest.mark.parametrize("name", CASES)
def test_a_command_changes_a_file_exactly_as_expected(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = HERE / name
    status, after = run_case(case, tmp_path, monkeypatch)
    printed = capsys.readouterr()
    assert printed.err == expected(case, "stderr")
    assert printed.out == expected(case, "stdout")
    assert status == int(expected(case, "status") or 0)
    wanted = case / ("after.toml" if (case / "after.toml").exists() else "before.toml")
    assert after == wanted.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["file.toml"]


def test_cases_consist_of_known_files() -> None:
    assert len(CASES) > 100
    for name in CASES:
        present = {path.name for path in (HERE / name).iterdir()}
        assert {"before.toml", "command"} <= present <= FILES, name
