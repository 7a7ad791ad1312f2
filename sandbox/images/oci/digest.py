"""Digests of contents (image-spec, descriptor.md, "Digests"), and their verification while data streams through."""

from __future__ import annotations

import re

from sandbox.errors import ImageError
from sandbox.images.names import printable
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Self

_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of some content. Both parts are safe in a path: they have only digits and lower-case letters."""

    algorithm: str  # "sha256" or "sha512"
    hex: str  # 64 or 128 lower-case digits

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the digest that *text* writes as `ALGORITHM:HEX`.

        Raises:
            ValueError: *text* is no digest, or of another algorithm than the two that the specification registers.
        """
        match = _DIGEST.fullmatch(text)
        if match is None:
            shown = printable(text.encode("utf-8", "backslashreplace"))
            raise ValueError(f"{shown!r} is not a sha256 or sha512 digest")
        return cls(match[1] or match[3], match[2] or match[4])

    @classmethod
    def of(cls, content: bytes | memoryview) -> Self:
        """Return the sha256 digest of *content*."""
        return cls("sha256", new_hash("sha256", content).hexdigest())

    def __str__(self) -> str:
        """Return the digest as the specification writes it."""
        return f"{self.algorithm}:{self.hex}"


def new_hash(algorithm: str, content: bytes | memoryview = b"") -> Any:
    """Return a hash object of `hashlib` for *algorithm* that has read *content*.

    OpenSSL computes it, with the processor's own instructions; `unionfs._stdlib.hashlib` starts faster, but hashes slower.
    """
    import hashlib

    return hashlib.new(algorithm, content, usedforsecurity=False)


class Verifier:
    """Compares data that streams through with the expected digest and size.

    The caller calls `update` with each piece before it uses the piece, and `finish` at the end. It must publish nothing before.
    """

    __slots__ = ("_digest", "_hash", "_name", "_size", "seen")

    def __init__(self, digest: Digest, size: int, name: str) -> None:
        """Expect *size* bytes with *digest*; *name*, the source of the data, is for messages."""
        self._digest = digest
        self._size = size
        self._name = name
        self._hash = new_hash(digest.algorithm)
        self.seen = 0
        """The number of bytes that have streamed through."""

    def update(self, data: bytes | memoryview) -> None:
        """Take the next piece of data.

        Raises:
            ImageError: there are more bytes than expected.
        """
        self.seen += memoryview(data).nbytes
        if self.seen > self._size:
            raise self._error(f"has more than its {self._size} bytes")
        self._hash.update(data)

    def finish(self) -> None:
        """Compare what has streamed through with what was expected.

        Raises:
            ImageError: there were fewer bytes than expected, or their digest is another.
        """
        if self.seen < self._size:
            raise self._error(f"has {self.seen} bytes instead of {self._size}")
        found = self._hash.hexdigest()
        if found != self._digest.hex:
            raise self._error(f"has the digest {self._digest.algorithm}:{found}")

    def _error(self, reason: str) -> ImageError:
        return ImageError(
            f"{self._name}: blob {self._digest} {reason}", hint="get the image again from its source"
        )
