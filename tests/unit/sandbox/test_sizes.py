"""`sandbox.sizes`: sizes for people."""

from __future__ import annotations

import pytest

from sandbox.sizes import human_size


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_size_for_people(size: int | None, shown: str) -> None:
    assert human_size(size) == shown
