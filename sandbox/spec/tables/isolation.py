"""[namespaces], [ids] and [security]: private namespaces, the id maps, and the rights of the program."""

from __future__ import annotations

from sandbox.spec.codecs import (
    ID_MAX,
    Boolean,
    Choice,
    HostPath,
    Integer,
    ListOf,
    SandboxPath,
    Text,
    capability,
    expect_text,
    mismatch,
    text_schema,
)
from sandbox.spec.decode import Record
from sandbox.spec.notation import joined, quote, shown
from sandbox.spec.settings import Codec, Cursor, Invalid, setting, settings_of
from sandbox.spec.values.addresses import PORT_MAX
from sandbox.spec.values.namespaces import NamespaceCodec, TimeCodec, TimeOffsets
from sandbox.spec.values.protected import ProtectedPath
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

_NO_HOST_IDS = (
    "a sandbox mounts its file systems as root of a user namespace of its own; [ids] sets the host ids"
)
_NO_OTHER_MOUNTS = "the root file system is mounted in a private mount namespace"


@dataclass(frozen=True, kw_only=True, slots=True)
class Namespaces:
    """[namespaces]: which namespaces are private to the sandbox and which it shares with the host; see namespaces(7)."""

    user: str = setting(
        NamespaceCodec("private", refused={"host": _NO_HOST_IDS}),
        doc="User and group ids, capabilities.",
        example="sandbox:db",
        default="private",
    )
    mount: str = setting(
        NamespaceCodec("private", refused={"host": _NO_OTHER_MOUNTS, "join": _NO_OTHER_MOUNTS}),
        doc="The tree of mounts.",
        example="private",
        default="private",
    )
    pid: str = setting(
        NamespaceCodec("private", "host"),
        doc="Process ids: which processes the program can see and, with permission, signal.",
        example="host",
        default="private",
    )
    net: str = setting(
        NamespaceCodec("private", "host"),
        doc='Network interfaces; "host" means the same as network.mode = "host".',
        example="sandbox:db",
        default="private",
    )
    ipc: str = setting(
        NamespaceCodec("private", "host"),
        doc="System V IPC and POSIX message queues.",
        example="host",
        default="private",
    )
    uts: str = setting(NamespaceCodec("private", "host"), doc="Host name.", example="host", default="private")
    cgroup: str = setting(
        NamespaceCodec("private", "host"), doc="View of the cgroup tree.", example="host", default="private"
    )
    time: str | TimeOffsets = setting(
        TimeCodec(),
        doc="Offsets of clocks: monotonic and boottime are added to the clocks of the host.",
        example={"boottime": "1d"},
        default="host",
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Keys of this table that are not required: if one cannot be enforced, the sandbox starts with a warning.",
        example=["cgroup"],
        default=(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class IdRange:
    """A range of consecutive ids of the sandbox, and the host ids that they are mapped to."""

    inside: int = setting(Integer(0, ID_MAX), doc="The first id in the sandbox.", example=0, required=True)
    outside: int = setting(
        Integer(0, ID_MAX), doc="The first id on the host.", example=100_000, required=True
    )
    count: int = setting(
        Integer(1, ID_MAX), doc="The number of ids.", example=65_536, unit="ids", required=True
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ids:
    """[ids]: which host ids the ids of the sandbox are mapped to; see user_namespaces(7)."""

    map: str = setting(
        Choice("auto", "single", "keep-id"),
        doc=(
            "auto: you are user 0, and your subordinate ids are the other users. single: you are user 0, and there is no "
            "other user. keep-id: you keep your own id, the default of process.user, and your subordinate ids are the other "
            "users. Started by root, auto and single use host ids that no user has."
        ),
        example="keep-id",
        default="auto",
    )
    uid_map: tuple[IdRange, ...] = setting(
        ListOf(Record(IdRange)),
        doc="Ranges of user ids, instead of map: outside, your own id or subordinate ids; inside, id 0 among them.",
        example=[{"inside": 0, "outside": 100000, "count": 65536}],
        default=(),
    )
    gid_map: tuple[IdRange, ...] = setting(
        ListOf(Record(IdRange)),
        doc="Ranges of group ids, instead of map: outside, your own id or subordinate ids; inside, id 0 among them.",
        example=[{"inside": 0, "outside": 100000, "count": 65536}],
        default=(),
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Keys of this table that are not required: if one cannot be enforced, the sandbox starts with a warning.",
        example=["map"],
        default=(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """security.capabilities: changes to the default set; see capabilities(7)."""

    drop: tuple[str, ...] = setting(
        ListOf(capability(), distinct=True),
        doc='Default capabilities that the program does not get; "all" for none of them.',
        example=["all"],
        default=(),
    )
    add: tuple[str, ...] = setting(
        ListOf(capability(), distinct=True),
        doc="Capabilities that the program gets in addition to the default ones, valid in its own namespaces only.",
        example=["NET_RAW"],
        default=(),
    )


class SeccompProfile(Codec[str]):
    """The word "default" or "unconfined", or the path of a profile. A string with a slash is a path."""

    expects = "string"
    toml_types = ("string",)
    choices = ("default", "unconfined")

    def __init__(self) -> None:
        self._path = HostPath()

    def decode(self, value: object, cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        if text in self.choices:
            return text
        if "/" not in text:
            raise Invalid(
                f"unknown profile {shown(text)}",
                f"did you mean {quote('./' + text)}?"
                if text.endswith(".json")
                else 'write "default", "unconfined" or the path of a profile, with a /',
            )
        return self._path.decode(text, cursor)

    def schema(self) -> dict[str, object]:
        return {"anyOf": [{"enum": list(self.choices)}, text_schema("/")]}

    def describe(self) -> str:
        return '"default", "unconfined", or the path of a profile'


@dataclass(frozen=True, kw_only=True, slots=True)
class Seccomp:
    """A seccomp filter: a profile, and changes to it; see seccomp(2)."""

    profile: str = setting(
        SeccompProfile(),
        doc='The profile: "default", "unconfined", or the path (with a /) of a JSON profile as for podman or docker.',
        example="./seccomp.json",
        default="default",
    )
    allow: tuple[str, ...] = setting(
        ListOf(Text(r"[a-z0-9_]+", 'write a name in lower case, such as "ptrace"'), distinct=True),
        doc="System calls that the filter allows, with any arguments, regardless of the profile.",
        example=["keyctl"],
        default=(),
    )
    deny: tuple[str, ...] = setting(
        ListOf(Text(r"[a-z0-9_]+", 'write a name in lower case, such as "ptrace"'), distinct=True),
        doc="System calls that fail with EPERM, regardless of the profile.",
        example=["ptrace"],
        default=(),
    )
    log: bool = setting(
        Boolean(),
        doc="Whether denied system calls are allowed and logged by the kernel: for finding out what a program needs, not for confinement.",
        example=True,
        default=False,
    )


class SeccompCodec(Codec["str | Seccomp"]):
    """The word "default" or "unconfined", the path of a profile, or a table."""

    expects = "string or table"
    toml_types = ("string", "table")
    choices = SeccompProfile.choices

    def __init__(self) -> None:
        self._table = Record(Seccomp)
        self._profile = SeccompProfile()

    def decode(self, value: object, cursor: Cursor, /) -> str | Seccomp:
        if isinstance(value, dict):
            return self._table.decode(value, cursor)
        if not isinstance(value, str):
            raise mismatch(self, value)
        return self._profile.decode(value, cursor)

    def encode(self, value: str | Seccomp, /) -> object:
        return value if isinstance(value, str) else self._table.encode(value)

    def schema(self) -> dict[str, object]:
        return {"anyOf": [*self._profile.schema()["anyOf"], self._table.schema()]}  # type: ignore[misc]

    def describe(self) -> str:
        keys = joined(settings_of(Seccomp))
        return f"{self._profile.describe()}; or a table of {keys}"

    def inside(self, key: str | int, /) -> Codec[Any] | None:
        return self._table.inside(key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Landlock:
    """security.landlock: Landlock rules, which apply in addition to permissions.

    An absent key restricts nothing; an empty list allows nothing. Paths are paths in the sandbox, and include everything
    below them. To start a program, its file and its dynamic loader must be in execute, and its libraries in read.
    """

    read: tuple[str, ...] | None = setting(
        ListOf(SandboxPath()),
        doc="Paths below which files may be read, including programs and their libraries.",
        example=["/usr", "/etc"],
    )
    write: tuple[str, ...] | None = setting(
        ListOf(SandboxPath()),
        doc="Paths below which files may be changed, created and removed, including devices such as /dev/null.",
        example=["/tmp"],
    )
    execute: tuple[str, ...] | None = setting(
        ListOf(SandboxPath()), doc="Paths below which programs may be executed.", example=["/usr"]
    )
    connect: tuple[int, ...] | None = setting(
        ListOf(Integer(1, PORT_MAX)), doc="TCP ports that may be connected to.", example=[443]
    )
    bind: tuple[int, ...] | None = setting(
        ListOf(Integer(1, PORT_MAX)), doc="TCP ports that may be listened on.", example=[8080]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Security:
    """[security]: the rights of the program. The defaults are the safe values."""

    capabilities: Capabilities = setting(
        Record(Capabilities),
        doc="Changes to the default set of capabilities.",
        example={"drop": ["all"], "add": ["CHOWN"]},
        default=Capabilities(),
    )
    no_new_privileges: bool = setting(
        Boolean(),
        doc="Whether set-user-id programs and file capabilities have no effect; see PR_SET_NO_NEW_PRIVS(2const).",
        example=False,
        default=True,
    )
    seccomp: str | Seccomp = setting(
        SeccompCodec(),
        doc="The filter of system calls: built-in, none, a JSON profile as for podman, or one of these with changes.",
        example="./seccomp.json",
        default="default",
    )
    landlock: Landlock | None = setting(
        Record(Landlock),
        doc="Landlock rules, see landlock(7); an absent key restricts nothing.",
        example={"read": ["/usr"]},
    )
    masked_paths: tuple[str, ...] = setting(
        ListOf(ProtectedPath("root.layers for the content of /"), distinct=True),
        doc="Paths that appear empty if they exist, in addition to the built-in ones in /proc and /sys; "
        "a * matches the rest of a name.",
        example=["/etc/ssh"],
        default=(),
    )
    readonly_paths: tuple[str, ...] = setting(
        ListOf(ProtectedPath('root.writable = "none" for all of it'), distinct=True),
        doc="Paths that are read-only with everything below them if they exist, in addition to /sys and the built-in ones in "
        "/proc; a * matches the rest of a name.",
        example=["/usr"],
        default=(),
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Keys of this table that are not required: if one cannot be enforced, the sandbox starts with a warning.",
        example=["seccomp"],
        default=(),
    )
