"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.support import Launcher


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    """Return a launcher whose state directory goes with the test."""
    return Launcher(tmp_path)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory of the host with a file, where everybody may write."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "file").write_text("of the host\n")
    return directory
