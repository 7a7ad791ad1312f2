"""Codec of a directory of the root that is bind-mounted directly from a layer."""

from __future__ import annotations

from sandbox.spec.codecs import SandboxPath
from sandbox.spec.notation import joined, shown
from sandbox.spec.settings import Cursor, Invalid
from sandbox.spec.values.volumes import MANAGED


class DirectBindPathCodec(SandboxPath):
    """A path in the sandbox, except "/" and the paths in MANAGED, where the launcher mounts file systems itself."""

    def decode(self, value: object, cursor: Cursor, /) -> str:
        path = super().decode(value, cursor)
        if path == "/":
            raise Invalid(
                '"/" cannot be a path of root.native',
                'list directories below it, such as "/usr"',
            )
        for managed in MANAGED:
            if path == managed or path.startswith(managed + "/"):
                raise Invalid(
                    f"{shown(path)} is under {managed}, which the sandbox sets up itself", "remove it"
                )
        return path

    def describe(self) -> str:
        return f"sandbox path, not / nor under {joined(MANAGED)}"
