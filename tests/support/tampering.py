"""What others may have done to a file that was kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def open_to_others(path: Path) -> None:
    """Let everybody write it."""
    path.chmod(0o666)


def link(path: Path) -> None:
    """Put a symbolic link to it in its place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def fifo(path: Path) -> None:
    """Put a FIFO in its place, for which nobody writes."""
    path.unlink()
    os.mkfifo(path, 0o600)
