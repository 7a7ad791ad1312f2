"""The model of an environment file: its tables, and where in the file each thing is said."""

# ruff: noqa: RUF009 - setting() returns a dataclass field

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sandbox.spec.codecs import ListOf, Reserved
from sandbox.spec.decode import Record
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.notation import KeyPath
from sandbox.spec.origin import Origins, Part, Place, Source
from sandbox.spec.settings import setting
from sandbox.spec.tables import (
    Device,
    Ids,
    Limits,
    Namespaces,
    Network,
    Process,
    Root,
    Sandbox,
    Security,
    Volume,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One environment file: where it is, what it says, and where in it each thing is said.

    `file` is the absolute path, `directory` the directory that relative paths are relative to. Two specifications are
    equal when they say the same, wherever it stands in their files.
    """

    file: str
    directory: str
    origins: Origins = field(
        default=Origins(Source(file="", directory="/", text="")), repr=False, compare=False
    )

    sandbox: Sandbox = setting(
        Record(Sandbox), doc="What the sandbox is called.", example={"name": "web"}, default=Sandbox()
    )
    root: Root = setting(
        Record(Root), doc="The root file system.", example={"layers": ["dir:/"]}, required=True
    )
    process: Process = setting(
        Record(Process), doc="The program.", example={"command": ["make"]}, default=Process()
    )
    volumes: tuple[Volume, ...] = setting(
        ListOf(Record(Volume)),
        doc="Paths that bypass the layers.",
        example=[{"type": "tmpfs", "target": "/tmp"}],
        default=(),
    )
    devices: tuple[Device, ...] = setting(
        ListOf(Record(Device)),
        doc="Devices of the host.",
        example=[{"path": "/dev/kvm"}],
        default=(),
        enforced=False,
    )
    namespaces: Namespaces = setting(
        Record(Namespaces),
        doc="What is private and what shared.",
        example={"ipc": "host"},
        default=Namespaces(),
    )
    ids: Ids = setting(Record(Ids), doc="Which ids exist.", example={"map": "single"}, default=Ids())
    network: Network = setting(
        Record(Network), doc="What can be reached.", example={"mode": "host"}, default=Network()
    )
    limits: Limits = setting(
        Record(Limits), doc="What may be used.", example={"memory": "512M"}, default=Limits()
    )
    security: Security = setting(
        Record(Security), doc="What may be done.", example={"no_new_privileges": True}, default=Security()
    )

    extends: Any = setting(
        Reserved("string", "string", "array"),
        doc="Files that this one completes.",
        example="base.toml",
        enforced=False,
    )
    profile: Any = setting(
        Reserved("table", "table"),
        doc="Named changes to this file.",
        example={"debug": {"process": {"command": "sh"}}},
        enforced=False,
    )
    health: Any = setting(
        Reserved("table", "table"),
        doc="How to see whether the program is well.",
        example={"command": ["true"]},
        enforced=False,
    )
    restart: Any = setting(
        Reserved("table", "table"),
        doc="When to start the program again.",
        example={"policy": "on-failure"},
        enforced=False,
    )
    networks: Any = setting(
        Reserved("table", "table"), doc="Networks between sandboxes.", example={"backend": {}}, enforced=False
    )
    sandboxes: Any = setting(
        Reserved("table", "table"),
        doc="Several sandboxes that belong together.",
        example={"db": {}},
        enforced=False,
    )
    build: Any = setting(
        Reserved("array of tables", "array"),
        doc="Steps that make a layer.",
        example=[{"run": "make"}],
        enforced=False,
    )

    def origin(self, key: KeyPath | str) -> Place | None:
        """Return where the value of *key* ("root.layers[1]") is written; None when it is a default."""
        origin = self.origins.find(key)
        return None if origin is None else origin.source.place(origin.entry.value)

    def is_set(self, key: KeyPath | str) -> bool:
        """Return whether the file says something about *key*, rather than its default."""
        return self.origins.find(key) is not None

    def diagnose(
        self, key: KeyPath | str, message: str, hint: str | None = None, *, part: Part = "value"
    ) -> Diagnostic:
        """Return a diagnostic at the place of *key*, for a mistake that only the host can tell.

        Where *key* is a default, the place is the table around it, or the file as a whole.
        """
        return self.origins.diagnose(key, message, hint, part=part)
