"""The tables of an environment file: each is a frozen class, every key a field declared by `setting`.

The vocabulary is that of the field (OCI, compose, cgroups). This module only declares; codecs check single values,
`rules` checks what several settings say together.
"""

# ruff: noqa: RUF009 - setting() returns a dataclass field

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from sandbox.spec.codecs import (
    ID_MAX,
    Boolean,
    Choice,
    Duration,
    HostPath,
    Integer,
    ListOf,
    Number,
    Octal,
    OrUnlimited,
    Reserved,
    SandboxPath,
    Size,
    TableOf,
    Text,
    Unlimited,
    WholeSeconds,
    capability,
    check_env_name,
    env_name,
    signal_name,
)
from sandbox.spec.decode import Record
from sandbox.spec.settings import setting
from sandbox.spec.units import MIB
from sandbox.spec.values import (
    CommandCodec,
    HostnameCodec,
    Layer,
    LayerCodec,
    NamespaceCodec,
    TerminalCodec,
    User,
    UserCodec,
    VolumeTargetCodec,
)

_NO_STRINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandbox:
    """[sandbox]: what the sandbox is called."""

    name: str | None = setting(
        Text(
            r"[a-z0-9][a-z0-9_.-]{0,62}",
            "use 1 to 63 lower-case letters, digits, '_', '.' and '-', the first a letter or digit",
        ),
        doc="Name by which other commands refer to the sandbox.",
        example="web",
    )
    hostname: str | None = setting(
        HostnameCodec(),
        doc="Host name in the sandbox; needs a private uts namespace.",
        example="web.internal",
    )
    description: str | None = setting(
        Text(), doc="One line for people, shown in listings.", example="throw-away shell over the host"
    )
    labels: Mapping[str, str] = setting(
        TableOf(Text()), doc="Labels to select sandboxes by.", example={"team": "infra"}, default=_NO_STRINGS
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """[root]: the layers that make the root file system, and where changes to it go."""

    layers: tuple[Layer, ...] = setting(
        ListOf(LayerCodec(), minimum=1),
        doc="Layers of the root file system, bottom first: what a later one holds hides the same path of earlier ones.",
        example=["dir:/"],
        required=True,
    )
    writable: str = setting(
        Choice("ephemeral", "persistent", "none"),
        doc="Where changes go: gone after exit, kept for the next start of the same file, or refused.",
        example="persistent",
        default="ephemeral",
    )
    driver: str = setting(
        Choice("unionfs"), doc="What joins the layers.", example="unionfs", default="unionfs"
    )
    size: int | None = setting(
        Size(1),
        doc="Most that the writable layer may hold. Copies of what a program changes in other layers count, too.",
        example="2G",
        unit="bytes",
    )
    inodes: int | None = setting(
        Integer(1),
        doc="Most files, directories and other objects that the writable layer may hold.",
        example=100_000,
        unit="files",
    )
    native: bool | None = setting(
        Boolean(), doc="Bind a single read-only layer instead of serving it.", example=True, enforced=False
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """[process]: the program, and what it starts with."""

    command: tuple[str, ...] | None = setting(
        CommandCodec(ListOf(Text())),
        doc="The program and its first arguments, or one string that /bin/sh -c runs. Without it, /bin/sh.",
        example=["python3", "-m", "http.server"],
    )
    args: tuple[str, ...] = setting(
        ListOf(Text()), doc="Arguments after those of command.", example=["--verbose"], default=()
    )
    cwd: str = setting(SandboxPath(), doc="Working directory.", example="/srv", default="/")
    user: User = setting(
        UserCodec(),
        doc="User and group of the program: ids, or names that the sandbox's own /etc/passwd and /etc/group have.",
        example="1000:1000",
        default=User(0),
    )
    groups: tuple[int, ...] = setting(
        ListOf(Integer(0, ID_MAX), distinct=True),
        doc="Supplementary group ids.",
        example=[27, 100],
        default=(),
    )
    umask: int = setting(
        Octal(0o777),
        doc="Permission bits that new files do not get.",
        example="0027",
        unit="octal",
        default=0o022,
    )
    env: Mapping[str, str] = setting(
        TableOf(Text(), check_env_name),
        doc="Environment variables.",
        example={"LANG": "C.UTF-8"},
        default=_NO_STRINGS,
    )
    inherit_env: tuple[str, ...] = setting(
        ListOf(env_name(), distinct=True),
        doc="Variables taken from the environment that the sandbox is started in; env wins over them.",
        example=["TERM"],
        default=(),
    )
    terminal: bool | Literal["auto"] = setting(
        TerminalCodec(),
        doc="Whether the program gets a terminal of its own; auto gives it one when started from one.",
        example=False,
        default="auto",
    )
    stop_signal: str = setting(
        signal_name(), doc="Signal that asks the program to end.", example="SIGINT", default="SIGTERM"
    )
    stop_timeout: float = setting(
        Duration(),
        doc="How long the program has to end before it is killed.",
        example="30s",
        unit="seconds",
        default=10.0,
    )
    init: bool | None = setting(
        Boolean(), doc="Whether a small init runs as process 1 and reaps.", example=True, enforced=False
    )
    env_file: str | None = setting(
        HostPath(), doc="File with NAME=VALUE lines for the environment.", example="web.env", enforced=False
    )

    @property
    def argv(self) -> tuple[str, ...]:
        """The whole command line."""
        return (*(self.command or ("/bin/sh",)), *self.args)


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """[[volumes]]: a path that bypasses the layers."""

    type: str = setting(
        Choice("bind", "tmpfs", planned=("named", "file")),
        doc="A path of the host, or memory that is gone after exit.",
        example="bind",
        required=True,
    )
    source: str | None = setting(
        HostPath(), doc="For bind: the directory or file of the host, relative to this file.", example="./src"
    )
    target: str = setting(
        VolumeTargetCodec(),
        doc="Where it appears: an absolute path in the sandbox.",
        example="/src",
        required=True,
    )
    read_only: bool = setting(Boolean(), doc="Whether writing is refused.", example=True, default=False)
    size: int | None = setting(
        # tmpfs(5) takes 0 for "no limit", the opposite of what it says.
        Size(1),
        doc="For tmpfs: most that it may hold.",
        example="64M",
        unit="bytes",
    )
    mode: int | None = setting(
        Octal(0o7777), doc="For tmpfs: permission bits of its top directory.", example="1777", unit="octal"
    )
    options: tuple[str, ...] = setting(
        ListOf(Choice("nosuid", "nodev", "noexec"), distinct=True),
        doc="Mount options, see mount(8).",
        example=["nosuid", "noexec"],
        default=(),
    )
    content: str | None = setting(
        Text(), doc="For file: the text that it holds.", example="hello\n", enforced=False
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """[[devices]]: a device of the host that the program may use."""

    path: str = setting(HostPath(), doc="The device node of the host.", example="/dev/kvm", required=True)
    target: str | None = setting(SandboxPath(), doc="Where it appears, if elsewhere.", example="/dev/kvm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Namespaces:
    """[namespaces]: what the sandbox has for itself and what it shares with the host; see namespaces(7)."""

    user: str = setting(
        NamespaceCodec(host=False),
        doc="User and group ids, capabilities.",
        example="private",
        default="private",
    )
    mount: str = setting(
        NamespaceCodec(host=False), doc="The tree of mounts.", example="private", default="private"
    )
    pid: str = setting(NamespaceCodec(host=False), doc="Process ids.", example="private", default="private")
    net: str = setting(
        NamespaceCodec(host=True),
        doc="Network interfaces; follows network.mode.",
        example="private",
        default="private",
    )
    ipc: str = setting(
        NamespaceCodec(host=True),
        doc="System V IPC and POSIX message queues.",
        example="host",
        default="private",
    )
    uts: str = setting(NamespaceCodec(host=True), doc="Host name.", example="host", default="private")
    cgroup: str = setting(
        NamespaceCodec(host=True), doc="View of the cgroup tree.", example="host", default="private"
    )
    time: Any = setting(
        Reserved("table", "table", "string"),
        doc="Offsets of the monotonic and boot clocks.",
        example={"boottime": "1d"},
        enforced=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ids:
    """[ids]: which host ids stand behind the ids of the sandbox; see user_namespaces(7)."""

    map: str = setting(
        Choice("auto", "single", planned=("keep-id",)),
        doc="auto: all subordinate ids of the user, with the user as 0. single: only the user, as 0.",
        example="single",
        default="auto",
    )
    uid_map: Any = setting(
        Reserved("array of tables", "array"),
        doc="User ids, range by range.",
        example=[{"inside": 0, "outside": 100000, "count": 65536}],
        enforced=False,
    )
    gid_map: Any = setting(
        Reserved("array of tables", "array"),
        doc="Group ids, range by range.",
        example=[{"inside": 0, "outside": 100000, "count": 65536}],
        enforced=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """[network]: what the sandbox can reach."""

    mode: str = setting(
        Choice("none", "host", planned=("private",)),
        doc="none: only its own loopback. host: everything the host reaches, its loopback too.",
        example="host",
        default="none",
    )
    ports: tuple[str, ...] = setting(
        ListOf(Text()),
        doc="Ports of the host that lead into the sandbox.",
        example=["127.0.0.1:8080:80/tcp"],
        default=(),
        enforced=False,
    )
    dns: tuple[str, ...] = setting(
        ListOf(Text()), doc="Name servers.", example=["9.9.9.9"], default=(), enforced=False
    )
    search: tuple[str, ...] = setting(
        ListOf(Text()),
        doc="Domains in which names are looked up.",
        example=["example.org"],
        default=(),
        enforced=False,
    )
    hosts: Mapping[str, str] = setting(
        TableOf(Text()),
        doc="Names with their addresses, for /etc/hosts.",
        example={"db": "10.0.0.2"},
        default=_NO_STRINGS,
        enforced=False,
    )
    networks: tuple[str, ...] = setting(
        ListOf(Text()),
        doc="Networks shared with other sandboxes.",
        example=["backend"],
        default=(),
        enforced=False,
    )
    egress: Any = setting(
        Reserved("table", "table", "array", "string"),
        doc="Where connections may go.",
        example={"allow": ["example.org:443"]},
        enforced=False,
    )
    host_access: bool | None = setting(
        Boolean(), doc="Whether the host's own services can be reached.", example=False, enforced=False
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """[limits]: what the sandbox may use. Each is enforced, or an error, or named in optional."""

    memory: int | None = setting(
        # Below this not even the dynamic loader of a small program gets through.
        Size(4 * MIB),
        doc="Memory of all processes together, at least 4M.",
        example="512M",
        unit="bytes",
    )
    memory_high: int | None = setting(
        Size(4 * MIB),
        doc="Memory above which processes are slowed down.",
        example="400M",
        unit="bytes",
        enforced=False,
    )
    swap: int | None = setting(Size(), doc="Swap beside memory; 0 for none.", example="256M", unit="bytes")
    cpus: float | None = setting(
        # The kernel takes no quota below 1 ms (min_cfs_quota_period), of a period of 100 ms.
        Number(0.01, 100_000),
        doc="Processor time, in processors.",
        example=1.5,
        unit="processors",
    )
    cpu_weight: int | None = setting(
        Integer(1, 10_000),
        doc="Share of processor time when others want it too; 100 is what all have.",
        example=50,
    )
    cpuset: str | None = setting(Text(), doc="Processors that may be used.", example="0-3", enforced=False)
    pids: int | None = setting(
        Integer(1), doc="Processes and threads at once.", example=256, unit="processes"
    )
    io: Any = setting(
        Reserved("array of tables", "array", "table"),
        doc="Bandwidth of block devices.",
        example=[{"path": "/", "read": "10M"}],
        enforced=False,
    )
    open_files: int | Unlimited | None = setting(
        OrUnlimited(Integer(1)), doc="RLIMIT_NOFILE: open files of one process.", example=1024, unit="files"
    )
    processes: int | Unlimited | None = setting(
        OrUnlimited(Integer(1)), doc="RLIMIT_NPROC: processes of the user.", example=256, unit="processes"
    )
    file_size: int | Unlimited | None = setting(
        OrUnlimited(Size()), doc="RLIMIT_FSIZE: size of a file that is written.", example="1G", unit="bytes"
    )
    core: int | Unlimited | None = setting(
        OrUnlimited(Size()), doc="RLIMIT_CORE: size of a core dump; 0 for none.", example=0, unit="bytes"
    )
    stack: int | Unlimited | None = setting(
        OrUnlimited(Size(1)), doc="RLIMIT_STACK: stack of the main thread.", example="8M", unit="bytes"
    )
    cpu_time: int | Unlimited | None = setting(
        OrUnlimited(WholeSeconds(1)),
        doc="RLIMIT_CPU: processor time of one process.",
        example="10m",
        unit="seconds",
    )
    wall_time: float | None = setting(
        Duration(0.001),
        doc="How long the sandbox may run before it is stopped.",
        example="1h",
        unit="seconds",
    )
    oom_score_adj: int | None = setting(
        Integer(0, 1000),
        doc="How early the kernel kills here when memory runs out; see proc(5).",
        example=500,
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Limits that may go unenforced, with a warning, where the machine cannot enforce them.",
        example=["cpus", "pids"],
        default=(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """security.capabilities: changes to the default set; see capabilities(7)."""

    drop: tuple[str, ...] = setting(
        ListOf(capability(), distinct=True),
        doc='Capabilities that the program does not get; "all" for none of the default ones.',
        example=["all"],
        default=(),
    )
    add: tuple[str, ...] = setting(
        ListOf(capability(), distinct=True),
        doc="Capabilities that the program gets beside the default ones, over its own namespaces only.",
        example=["NET_RAW"],
        default=(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Security:
    """[security]: what the program may do. The defaults are the safe ones."""

    capabilities: Capabilities = setting(
        Record(Capabilities),
        doc="Changes to the default set of capabilities.",
        example={"drop": ["all"], "add": ["CHOWN"]},
        default=Capabilities(),
    )
    no_new_privileges: bool = setting(
        Boolean(),
        doc="Whether set-user-id programs and file capabilities are without effect; see PR_SET_NO_NEW_PRIVS(2const).",
        example=False,
        default=True,
    )
    seccomp: Any = setting(
        Reserved("string", "string", "table"),
        doc="Filter of system calls.",
        example="default",
        enforced=False,
    )
    landlock: Any = setting(
        Reserved("table", "table"), doc="Rules of Landlock.", example={"read": ["/usr"]}, enforced=False
    )
    masked_paths: tuple[str, ...] = setting(
        ListOf(SandboxPath()),
        doc="Paths that appear empty.",
        example=["/proc/kcore"],
        default=(),
        enforced=False,
    )
    readonly_paths: tuple[str, ...] = setting(
        ListOf(SandboxPath()),
        doc="Paths that cannot be written.",
        example=["/proc/sys"],
        default=(),
        enforced=False,
    )
