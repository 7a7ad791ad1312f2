"""[[volumes]] and [[devices]]: mounts and devices that bypass the layers."""

from __future__ import annotations

from sandbox.spec.codecs import Boolean, Choice, HostPath, ListOf, Octal, Size, Text, mismatch
from sandbox.spec.decode import Record, decode_table
from sandbox.spec.notation import literal
from sandbox.spec.settings import Cursor, Invalid, setting
from sandbox.spec.values.volumes import (
    VOLUME_NAME,
    VOLUME_NAME_RULE,
    DeviceTargetCodec,
    MountOptionCodec,
    VolumeTargetCodec,
)
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """[[volumes]]: a path that bypasses the layers."""

    type: str = setting(
        Choice("bind", "tmpfs", "named", "file"),
        doc="bind: a path of the host. tmpfs: memory, discarded at exit. named: a directory that is kept under a name. file: a file with the given content.",
        example="bind",
        required=True,
    )
    source: str | None = setting(
        HostPath(),
        doc="For bind: the directory or file of the host, relative to this file. For named: the name.",
        example="./src",
    )
    target: str = setting(
        VolumeTargetCodec(),
        doc="The mount point: an absolute path in the sandbox.",
        example="/src",
        required=True,
    )
    read_only: bool | None = setting(
        Boolean(),
        doc="Whether the volume is read-only, including mounts below its source. A file volume always is.",
        example=True,
    )
    size: int | None = setting(
        # tmpfs(5) takes 0 as "no limit", the opposite of what a reader of the file expects.
        Size(1),
        doc="For tmpfs: the largest size of its content.",
        example="64M",
        unit="bytes",
    )
    mode: int | None = setting(
        Octal(0o7777),
        doc="Permission bits of a file (default 0644), of the top directory of a tmpfs (1777), or of a new named volume (0755). "
        "They belong to process.user and its group; a named volume, to those of the first sandbox that may write to it. "
        "The owner of a volume in use does not change.",
        example="1777",
        unit="octal",
    )
    options: tuple[str, ...] = setting(
        ListOf(MountOptionCodec(), distinct=True),
        doc="Mount options, see mount(8); nosuid and nodev are always set.",
        example=["nosuid", "noexec"],
        default=(),
    )
    propagation: str = setting(
        Choice("private", "slave"),
        doc="For bind: whether later mounts of the host below the source appear. private: no. slave: yes, with the flags of the host; "
        "see mount_namespaces(7).",
        example="slave",
        default="private",
    )
    content: str | None = setting(
        Text(),
        doc="For file: its text. The file is kept in memory, belongs to process.user, and is in no layer.",
        example="hello\n",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """[[devices]]: a device of the host that the program may use."""

    path: str = setting(
        HostPath(),
        doc="A device node of the host, or a directory: all device nodes in it. Its permissions are those of the host.",
        example="/dev/kvm",
        required=True,
    )
    target: str | None = setting(
        DeviceTargetCodec(),
        doc="The path in the sandbox, below /dev, if it differs from path.",
        example="/dev/accel",
    )


class VolumeCodec(Record[Volume]):
    """A volume. If its `type` is "named", its `source` is a name instead of a path."""

    def __init__(self) -> None:
        super().__init__(Volume, key="target")

    def decode(self, value: object, cursor: Cursor, /) -> Volume:
        if not isinstance(value, dict):
            raise mismatch(self, value, _table_of(value) or self._hint())
        named = value.get("type") == "named"
        return decode_table(Volume, value, cursor, codecs={"source": _SOURCE_NAME} if named else {})


def _table_of(value: object) -> str | None:
    """Return the hint for a volume in the short form of container engines: the equivalent table. Else return None."""
    if not isinstance(value, str):
        return None
    from sandbox.spec.short_forms import parse_volume  # imported only after a mistake

    try:
        return f"a volume is a table: write {literal(parse_volume(value))}"
    except Invalid:
        return None


_SOURCE_NAME = Text(VOLUME_NAME, VOLUME_NAME_RULE)
