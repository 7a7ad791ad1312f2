"""A path of the sandbox that something is laid over, for good."""

from __future__ import annotations

from sandbox.spec.codecs import SandboxPath
from sandbox.spec.settings import Cursor, Invalid


class CoveredPath(SandboxPath):
    """An absolute path in the sandbox below its root; *instead* completes "use ..." for the root itself."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def decode(self, value: object, cursor: Cursor, /) -> str:
        path = super().decode(value, cursor)
        if path == "/":
            raise Invalid('"/" cannot be covered', f"use {self._instead}")
        return path

    def describe(self) -> str:
        return "sandbox path, not /"
