"""Codec of a path in the sandbox that is masked or made read-only."""

from __future__ import annotations

from sandbox.spec.codecs import SandboxPath
from sandbox.spec.settings import Cursor, Invalid


class ProtectedPath(SandboxPath):
    """An absolute path in the sandbox, except "/". *instead* completes the hint "use ..." for "/"."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def decode(self, value: object, cursor: Cursor, /) -> str:
        path = super().decode(value, cursor)
        if path == "/":
            raise Invalid('"/" is not allowed here', f"use {self._instead}")
        return path

    def describe(self) -> str:
        return "sandbox path, not /"
