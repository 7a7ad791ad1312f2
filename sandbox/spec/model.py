"""Define the model of an environment file: its tables, and the position of each setting in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from sandbox.spec.codecs import ListOf, TableOf, expect_text, mismatch, text_schema
from sandbox.spec.decode import Record, check_partial
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.notation import KeyPath, format_key, shown, type_name
from sandbox.spec.origin import Origins, Part, Place, Problem, Source
from sandbox.spec.settings import Codec, Cursor, Invalid, setting
from sandbox.spec.tables import (
    BuildStep,
    Device,
    Health,
    Ids,
    Limits,
    Member,
    Namespaces,
    Network,
    NetworkDefinition,
    Process,
    Restart,
    Root,
    Sandbox,
    Security,
    Volume,
    VolumeCodec,
)
from sandbox.spec.tables.network import NETWORK_NAME, NETWORK_NAME_RULE
from sandbox.spec.values.namespaces import SANDBOX_NAME, SANDBOX_NAME_RULE
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any

_NO_PROFILES: Mapping[str, Any] = MappingProxyType({})

NOT_IN_PROFILES = ("extends", "profile")
"""Settings that define how files are merged; a profile cannot change them."""

MAX_PROFILES = 64
"""How many profiles a file may have: each one is checked as a complete file."""


class ExtendsCodec(Codec["tuple[str, ...]"]):
    """The path of a file, or several. `compose` reads the files; this codec checks only the form of the value."""

    expects = "string or array of strings"
    toml_types = ("string", "array")

    def decode(self, value: object, cursor: Cursor, /) -> tuple[str, ...]:
        if isinstance(value, list):
            return tuple(_path(item, cursor.child(index)) for index, item in enumerate(value))
        if not isinstance(value, str):
            raise mismatch(self, value)
        return (_path(value, cursor),)

    def schema(self) -> dict[str, object]:
        return {"anyOf": [text_schema(), {"type": "array", "items": text_schema()}]}


def _path(value: object, cursor: Cursor) -> str:
    try:
        text = expect_text(_PATH, value)
        if not text:
            raise Invalid("the path is empty", "give the path of an environment file, relative to this file")
    except Invalid as error:
        cursor.report(error.message, error.hint, fragment=error.fragment)
        return ""
    return text


class _Path(Codec[str]):
    expects = "string"


_PATH = _Path()


class ProfilesCodec(Codec["Mapping[str, Any]"]):
    """Tables that change the file. They have the same keys as the file itself, but none is required."""

    expects = "table of tables"
    toml_types = ("table",)

    def decode(self, value: object, cursor: Cursor, /) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(self, value)
        if len(value) > MAX_PROFILES:
            cursor.report(
                f"more than {MAX_PROFILES} profiles",
                "move some profiles to files that extend this one",
                part="key",
            )
        for name, changes in value.items():
            here = cursor.child(name)
            if not isinstance(changes, dict):
                message = f"expected table, found {type_name(changes)}"
                here.report(message, f"write [profile.{format_key(name)}.limits], for example")
                continue
            for key in NOT_IN_PROFILES:
                if key in changes:
                    here.child(key).report(
                        "cannot be part of a profile", "write it at the top of the file", part="key"
                    )
            check_partial(
                Spec, {key: item for key, item in changes.items() if key not in NOT_IN_PROFILES}, here
            )
        return MappingProxyType(value)

    def schema(self) -> dict[str, object]:
        return {"type": "object", "additionalProperties": {"$ref": "#/$defs/changes"}}


def _check_network_name(name: str) -> None:
    if not re.fullmatch(NETWORK_NAME, name):
        raise Invalid(f"{shown(name)} cannot name a network", NETWORK_NAME_RULE)


def _check_sandbox_name(name: str) -> None:
    if not re.fullmatch(SANDBOX_NAME, name):
        raise Invalid(f"{shown(name)} cannot name a sandbox", SANDBOX_NAME_RULE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One environment file: its path, its settings, and the position of each setting.

    `file` is the absolute path. Relative paths are relative to `directory`. `files` are all merged files, as they were
    named; `read_from` are their absolute paths, without standard input. `variables` are the environment variables that
    its strings refer to, each with the key of one such string. Two specifications are equal when their settings are
    equal, regardless of the positions in their files.
    """

    file: str
    directory: str
    files: tuple[str, ...] = field(default=(), compare=False)
    read_from: tuple[str, ...] = field(default=(), compare=False)
    variables: Mapping[str, str] = field(default_factory=dict, compare=False)
    origins: Origins = field(
        default=Origins(Source(file="", directory="/", text="")), repr=False, compare=False
    )
    problems: tuple[Problem, ...] = field(default=(), repr=False, compare=False)
    suspicious: tuple[Problem, ...] = field(default=(), repr=False, compare=False)
    #: The settings whose values come from an image, each with the image's name, and the variables of that image.
    image_values: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    image_env: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    sandbox: Sandbox = setting(
        Record(Sandbox),
        doc="The name, host name and labels of the sandbox.",
        example={"name": "web"},
        default=Sandbox(),
    )
    root: Root = setting(
        Record(Root), doc="The root file system.", example={"layers": ["dir:/"]}, required=True
    )
    process: Process = setting(
        Record(Process),
        doc="The program and its environment.",
        example={"command": ["make"]},
        default=Process(),
    )
    volumes: tuple[Volume, ...] = setting(
        ListOf(VolumeCodec()),
        doc="Mounts over the root file system.",
        example=[{"type": "tmpfs", "target": "/tmp"}],
        default=(),
    )
    devices: tuple[Device, ...] = setting(
        ListOf(Record(Device, key="path")),
        doc="Devices of the host.",
        example=[{"path": "/dev/kvm"}],
        default=(),
    )
    namespaces: Namespaces = setting(
        Record(Namespaces),
        doc="Which namespaces are private, shared with the host, or joined.",
        example={"ipc": "host"},
        default=Namespaces(),
    )
    ids: Ids = setting(
        Record(Ids), doc="The user and group ids of the sandbox.", example={"map": "single"}, default=Ids()
    )
    network: Network = setting(
        Record(Network), doc="The network of the sandbox.", example={"mode": "host"}, default=Network()
    )
    limits: Limits = setting(
        Record(Limits), doc="Limits of resources.", example={"memory": "512M"}, default=Limits()
    )
    security: Security = setting(
        Record(Security),
        doc="Capabilities, seccomp, Landlock and protected paths.",
        example={"no_new_privileges": True},
        default=Security(),
    )

    extends: tuple[str, ...] = setting(
        ExtendsCodec(),
        doc="Environment files that this file extends, relative to it; later ones override earlier ones.",
        example="base.toml",
        default=(),
    )
    profile: Mapping[str, Any] = setting(
        ProfilesCodec(),
        doc="Changes to this file that --profile NAME applies: [profile.NAME.limits], and so on.",
        example={"debug": {"process": {"command": "sh"}}},
        default=_NO_PROFILES,
    )
    health: Health | None = setting(
        Record(Health),
        doc="A command that checks whether the program is healthy.",
        example={"command": ["true"]},
        enforced=False,
    )
    restart: Restart | None = setting(
        Record(Restart),
        doc="When the program is restarted.",
        example={"policy": "on-failure"},
        enforced=False,
    )
    networks: Mapping[str, NetworkDefinition] = setting(
        TableOf(Record(NetworkDefinition), _check_network_name),
        doc="Networks between sandboxes.",
        example={"backend": {}},
        default=MappingProxyType({}),
    )
    sandboxes: Mapping[str, Member] = setting(
        TableOf(Record(Member), _check_sandbox_name),
        doc="Sandboxes that are started together.",
        example={"db": {"file": "db.toml"}},
        default=MappingProxyType({}),
        enforced=False,
    )
    build: tuple[BuildStep, ...] = setting(
        ListOf(Record(BuildStep)),
        doc="Steps that build an image from the root file system.",
        example=[{"run": "make"}],
        default=(),
        enforced=False,
    )

    @property
    def unenforced(self) -> tuple[Diagnostic, ...]:
        """The settings of the file that this version does not enforce; empty unless loaded with `unenforced="keep"`."""
        return tuple(self.origins.diagnose_all(self.problems))

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """Settings that are valid but probably not intended."""
        return tuple(self.origins.diagnose_all(self.suspicious))

    def origin(self, key: KeyPath | str) -> Place | None:
        """Return the place where the value of *key* ("root.layers[1]") is written; None for a default."""
        origin = self.origins.find(key)
        return None if origin is None else origin.source.place(origin.entry.value)

    def is_set(self, key: KeyPath | str) -> bool:
        """Return whether the file sets *key*, rather than leaving it at its default."""
        return self.origins.find(key) is not None

    def diagnose(
        self, key: KeyPath | str, message: str, hint: str | None = None, *, part: Part = "value"
    ) -> Diagnostic:
        """Return a diagnostic at the place of *key*, for a mistake that only the host reveals.

        If *key* is a default, the place is the table around it, or the file as a whole.
        """
        return self.origins.diagnose(key, message, hint, part=part)
