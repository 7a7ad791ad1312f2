"""[sandboxes.NAME] and [[build]]: sandboxes that are started together, and the steps that build an image."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sandbox.spec.codecs import Boolean, HostPath, ListOf, Octal, SandboxPath, TableOf, Text, check_env_name
from sandbox.spec.decode import Record
from sandbox.spec.settings import setting
from sandbox.spec.values.accounts import User, UserCodec
from sandbox.spec.values.build import CopySourceCodec, CopyTargetCodec
from sandbox.spec.values.namespaces import SANDBOX_NAME, SANDBOX_NAME_RULE
from sandbox.spec.values.program import CommandCodec
from unionfs._stdlib.dataclasses import dataclass

_NO_STRINGS: Mapping[str, str] = MappingProxyType({})


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
class BuildCopy:
    """[build.copy]: files that a build step copies into the image."""

    source: str = setting(
        CopySourceCodec(),
        doc="A file or directory of the build context, or of the image that from names. It may have wildcards, as COPY has.",
        example="src",
        required=True,
    )
    target: str = setting(
        CopyTargetCodec(),
        doc="The path of the copy in the image. It is a directory if it ends with a slash.",
        example="/src",
        required=True,
    )
    from_: str | None = setting(
        Text(),
        doc="An image whose files are copied, in place of the build context.",
        example="image:tools:1",
    )
    owner: User | None = setting(
        UserCodec(),
        doc="User and group of the copies: ids, or names in the image's own /etc/passwd and /etc/group. Without it, root.",
        example="1000:1000",
    )
    mode: int | None = setting(
        Octal(0o7777),
        doc="Permission bits of the copies. Without it, those of the source.",
        example="0755",
        unit="octal",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildStep:
    """[[build]]: one step of a build: a command or a copy, and settings that it and later steps have."""

    run: tuple[str, ...] | None = setting(
        CommandCodec(ListOf(Text())),
        doc="A command that runs on the files of the steps before it.",
        example=["make", "install"],
    )
    copy: BuildCopy | None = setting(
        Record(BuildCopy),
        doc="Files that are copied into the image.",
        example={"source": "src", "target": "/src"},
    )
    env: Mapping[str, str] = setting(
        TableOf(Text(), check_env_name),
        doc="Environment variables of this step, of later ones and of the image.",
        example={"LANG": "C.UTF-8"},
        default=_NO_STRINGS,
    )
    user: User | None = setting(
        UserCodec(),
        doc="User and group of the commands of this step and of later ones, and of the image's program.",
        example="1000:1000",
    )
    cwd: str | None = setting(
        SandboxPath(),
        doc="Working directory of this step, of later ones and of the image's program. It is created if it is missing.",
        example="/src",
    )
    labels: Mapping[str, str] = setting(
        TableOf(Text()), doc="Labels of the image.", example={"version": "1.2"}, default=_NO_STRINGS
    )
    arg: Mapping[str, str] = setting(
        TableOf(Text(), check_env_name),
        doc="Arguments of the build and their defaults, which `build --build-arg` overrides. Commands of this step and of later "
        "ones have them as environment variables; the image does not.",
        example={"VERSION": "1.2"},
        default=_NO_STRINGS,
    )
    network: bool = setting(
        Boolean(), doc="Whether the command uses the network of the host.", example=True, default=False
    )
