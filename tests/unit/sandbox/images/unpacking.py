"""Helpers: unpack archives, and return the errors of refused ones."""

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
    """Unpack the archive of *parts*, which must be refused, and return the message."""
    with pytest.raises(ImageError) as caught:
        extract(tar(*parts), root)
    assert caught.value.hint
    return caught.value.message
