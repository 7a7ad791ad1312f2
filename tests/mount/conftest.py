"""Fixtures of the mount tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mount.support import scratch


@pytest.fixture
def base() -> Iterator[str]:
    """Yield an empty directory for one union. It is removed with everything that the test puts into it."""
    with scratch() as path:
        yield path
