"""SHA-256 of the content of files, with the processor's instructions for it where OpenSSL has them."""

from __future__ import annotations

import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CHUNK = 1 << 20
"""Bytes that are read at once."""


def new_sha256() -> Any:
    """Return an object that computes SHA-256."""
    import hashlib  # OpenSSL costs milliseconds of each start

    return hashlib.sha256(usedforsecurity=False)


def sha256_of(fd: int, meanwhile: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of the file *fd*, read from where it stands, in hexadecimal digits; *meanwhile* is called now and then.

    Raises:
        OSError: it cannot be read.
    """
    digest = new_sha256()
    while data := os.read(fd, CHUNK):
        digest.update(data)
        meanwhile()
    return str(digest.hexdigest())
