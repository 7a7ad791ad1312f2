"""Fixtures of the tests of commands on a state directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.state.directory import StateDirectory


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDirectory]:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDBOX_RUN_DIR", str(tmp_path / "run"))
    directory = StateDirectory(str(tmp_path / "state"), str(tmp_path / "run"))
    yield directory
    directory.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.toml"
    path.touch()
    return path
