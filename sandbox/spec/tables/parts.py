"""[sandboxes.NAME] and [[build]]: sandboxes that are started together, and the steps that build a layer."""

from __future__ import annotations

from sandbox.spec.codecs import Boolean, HostPath, ListOf, SandboxPath, Text
from sandbox.spec.settings import setting
from sandbox.spec.values.namespaces import SANDBOX_NAME, SANDBOX_NAME_RULE
from sandbox.spec.values.program import CommandCodec
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """[sandboxes.NAME]: one of several sandboxes that are started together."""

    file: str = setting(HostPath(), doc="Its environment file.", example="db.toml", required=True)
    profiles: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True), doc="Profiles of that file to apply.", example=["debug"], default=()
    )
    depends_on: tuple[str, ...] = setting(
        ListOf(Text(SANDBOX_NAME, SANDBOX_NAME_RULE), distinct=True),
        doc="Sandboxes that must be started and healthy before this one.",
        example=["db"],
        default=(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildStep:
    """[[build]]: one step that builds a layer: a command that runs in it, or a file or directory that is copied into it."""

    run: tuple[str, ...] | None = setting(
        CommandCodec(ListOf(Text())),
        doc="A command that runs on the layers built so far.",
        example=["make", "install"],
    )
    copy: str | None = setting(
        HostPath(), doc="A file or directory of the host that is copied.", example="./src"
    )
    target: str | None = setting(SandboxPath(), doc="The path of the copy in the layer.", example="/src")
    network: bool = setting(
        Boolean(), doc="Whether the command uses the network of the host.", example=True, default=False
    )
