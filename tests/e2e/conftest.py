"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.support import Launcher


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    """Return a launcher whose state directory goes with the test."""
    return Launcher(tmp_path)
