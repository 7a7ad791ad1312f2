"""Fixtures of the kernel modules' unit tests."""

from __future__ import annotations

import os

import pytest

from tests.unit.sandbox.kernel.simulated_cgroups import SimulatedCgroups


@pytest.fixture
def simulated(tmp_path: os.PathLike[str]) -> SimulatedCgroups:
    return SimulatedCgroups(str(tmp_path))


@pytest.fixture
def own_pid() -> int:
    return os.getpid()
