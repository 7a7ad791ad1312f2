"""Build indexes without waiting for older timestamps."""

from __future__ import annotations

import pytest

from unionfs.layer_index import build


@pytest.fixture(autouse=True)
def _no_waiting_for_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TICK_NS", 0)
