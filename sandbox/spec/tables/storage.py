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
        doc="A path of the host; memory that is gone after exit; a directory that is kept under a name; a file with content.",
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
        doc="Where it appears: an absolute path in the sandbox.",
        example="/src",
        required=True,
    )
    read_only: bool | None = setting(
        Boolean(),
        doc="Whether writing is refused, also in what is mounted below the source: not without it, but in a file always.",
        example=True,
    )
    size: int | None = setting(
        # tmpfs(5) takes 0 as "no limit", the opposite of what a reader of the file expects.
        Size(1),
        doc="For tmpfs: most that it may hold.",
        example="64M",
        unit="bytes",
    )
    mode: int | None = setting(
        Octal(0o7777),
        doc="Permission bits: of a file (0644 without it), of the top directory of a tmpfs (1777), and of a named volume when it "
        "is made (0755). All of these belong to process.user and its group; a named volume to that of the sandbox that "
        "first writes to it, and what is in use already is never given away.",
        example="1777",
        unit="octal",
    )
    options: tuple[str, ...] = setting(
        ListOf(MountOptionCodec(), distinct=True),
        doc="Mount options, see mount(8); nosuid and nodev hold always.",
        example=["nosuid", "noexec"],
        default=(),
    )
    propagation: str = setting(
        Choice("private", "slave"),
        doc="For bind: whether what the host mounts in the source later stays out, or (slave) appears, as it is mounted there; "
        "see mount_namespaces(7).",
        example="slave",
        default="private",
    )
    content: str | None = setting(
        Text(),
        doc="For file: the text that it holds. It is kept in memory, belongs to process.user, and is in no layer.",
        example="hello\n",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """[[devices]]: a device of the host that the program may use."""

    path: str = setting(
        HostPath(),
        doc="The device node of the host, or a directory: each device node in it. Who may open it is as on the host.",
        example="/dev/kvm",
        required=True,
    )
    target: str | None = setting(
        DeviceTargetCodec(), doc="Where in /dev it appears, if elsewhere.", example="/dev/accel"
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
