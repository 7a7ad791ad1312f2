"""Codecs of the targets and options of volumes and devices, and the syntax of names of named volumes."""

from __future__ import annotations

from sandbox.spec.codecs import Choice, check_sandbox_path, expect_text, text_schema
from sandbox.spec.notation import joined, shown
from sandbox.spec.settings import Codec, Cursor, Invalid

VOLUME_NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"
VOLUME_NAME_RULE = (
    "a name has 1 to 63 lower-case letters, digits, '_', '.' and '-', the first a letter or digit"
)

MANAGED = ("/proc", "/sys", "/dev")
"""Directories that every root has, whether or not a layer has them: the launcher mounts file systems on them."""

_STANDARD_DEVICES = frozenset(
    "console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
)


class VolumeTargetCodec(Codec[str]):
    """The mount point of a volume: a path in the sandbox, except "/" and the paths in MANAGED."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        path = check_sandbox_path(expect_text(self, value))
        if path == "/":
            raise Invalid('a volume cannot be the root "/"', "use root.layers for the content of /")
        for managed in MANAGED:
            if path == managed or path.startswith(managed + "/"):
                raise Invalid(
                    f"{shown(path)} is under {managed}, which the sandbox sets up itself",
                    "choose another target",
                )
        return path

    def schema(self) -> dict[str, object]:
        return text_schema("^/")

    def describe(self) -> str:
        return f"sandbox path, not / nor under {joined(MANAGED)}"


_ALWAYS_SET = "remove it: volumes are always mounted with nosuid and nodev"
_OTHER_OPTIONS = {
    "ro": "remove it, and set read_only = true in this table",
    "rw": "remove it: volumes are writable unless read_only = true",
    "suid": _ALWAYS_SET,
    "dev": _ALWAYS_SET,
    "exec": "remove it: programs can be executed unless noexec is set",
    "bind": 'remove it, and set type = "bind" in this table',
    "rbind": 'remove it, and set type = "bind" in this table; mounts below the source are included',
    "private": 'remove it, and set propagation = "private" in this table',
    "rprivate": 'remove it, and set propagation = "private" in this table',
    "slave": 'remove it, and set propagation = "slave" in this table',
    "rslave": 'remove it, and set propagation = "slave" in this table',
    "size": "remove it, and set size in this table",
    "mode": "remove it, and set mode in this table",
}
"""Options of mount(8) and of container engines that `options` does not accept, with the hint for each."""


class MountOptionCodec(Choice):
    """A mount option that is a single word."""

    def __init__(self) -> None:
        super().__init__("nosuid", "nodev", "noexec")

    def decode(self, value: object, cursor: Cursor, /) -> str:
        name = value.partition("=")[0] if isinstance(value, str) else ""
        if name in _OTHER_OPTIONS:
            raise Invalid(f"unknown value {shown(str(value))}", _OTHER_OPTIONS[name])
        return super().decode(value, cursor)


class DeviceTargetCodec(Codec[str]):
    """The path of a device in the sandbox: below /dev, except the standard names that every sandbox has there."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        path = check_sandbox_path(expect_text(self, value))
        if (problem := device_target_problem(path)) is not None:
            raise Invalid(*problem)
        return path

    def schema(self) -> dict[str, object]:
        return text_schema("^/")

    def describe(self) -> str:
        return "path below /dev"


def device_target_problem(path: str) -> tuple[str, str] | None:
    """Return the message and the hint if *path* cannot be the target of a device, else None."""
    below = path.removeprefix("/dev/")
    if below == path or ".." in path.split("/"):
        return f"{shown(path)} is not below /dev", 'write target = "/dev/NAME": devices appear below /dev'
    if below.partition("/")[0] in _STANDARD_DEVICES:
        return f"{shown(path)} is one of the standard devices of a sandbox", "choose another target"
    return None
