"""Compute the SHA-256 of files by OpenSSL, which uses the processor's SHA instructions."""

from __future__ import annotations

import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CHUNK = 1 << 20
"""Bytes per read(2)."""


def new_sha256() -> Any:
    """Return a new hash object for SHA-256."""
    import hashlib  # OpenSSL costs milliseconds of each start

    return hashlib.sha256(usedforsecurity=False)


def sha256_of(fd: int, meanwhile: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of the file *fd* from its current offset, in hexadecimal; *meanwhile* is called after each chunk.

    Raises:
        OSError: the file cannot be read.
    """
    digest = new_sha256()
    while data := os.read(fd, CHUNK):
        digest.update(data)
        meanwhile()
    return str(digest.hexdigest())
