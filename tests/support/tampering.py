"""Changes that other users may have made to a file of the state directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def open_to_others(path: Path) -> None:
    """Make the file writable for every user."""
    path.chmod(0o666)


def link(path: Path) -> None:
    """Replace the file by a symbolic link to it."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def fifo(path: Path) -> None:
    """Replace the file by a FIFO without a writer."""
    path.unlink()
    os.mkfifo(path, 0o600)
