"""What an archive unpacks to, and the errors of refused archives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from tests.support.tree import snapshot
from tests.unit.sandbox.images.tars import (
    extract,
    tar,
)


def paths(root: Path) -> dict[str, str]:
    """Return types by path."""
    return {os.fsdecode(path): entry.type for path, entry in snapshot(root).items() if path != b"."}


def refused(root: Path, *parts: bytes) -> str:
    """Return the message with which the archive of *parts* is refused."""
    with pytest.raises(ImageError) as caught:
        extract(tar(*parts), root)
    assert caught.value.hint
    return caught.value.message
