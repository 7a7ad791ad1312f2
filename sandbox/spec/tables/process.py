"""[process], [health] and [restart]: the program, the command that checks its health, and when to restart it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sandbox.spec.codecs import (
    Boolean,
    Choice,
    Duration,
    HostPath,
    Integer,
    ListOf,
    Octal,
    SandboxPath,
    TableOf,
    Text,
    check_env_name,
    env_name,
    signal_name,
)
from sandbox.spec.settings import setting
from sandbox.spec.values.accounts import GroupCodec, User, UserCodec
from sandbox.spec.values.program import CommandCodec, TerminalCodec
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

_NO_STRINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """[process]: the program, its arguments, its user and its environment."""

    command: tuple[str, ...] | None = setting(
        CommandCodec(ListOf(Text()), otherwise="a shell"),
        doc="The program and its first arguments, or one string that /bin/sh -c runs. Without it, /bin/sh.",
        example=["python3", "-m", "http.server"],
    )
    args: tuple[str, ...] = setting(
        ListOf(Text()), doc="Arguments after those of command.", example=["--verbose"], default=()
    )
    cwd: str = setting(SandboxPath(), doc="Working directory.", example="/srv", default="/")
    user: User = setting(
        UserCodec(),
        doc="User and group of the program: ids, or names in the sandbox's own /etc/passwd and /etc/group.",
        example="1000:1000",
        default=User(0),
    )
    groups: tuple[int | str, ...] | None = setting(
        ListOf(GroupCodec(), distinct=True),
        doc="Supplementary groups: ids, or names in the sandbox's own /etc/group. Without it, a user that is a name alone has the "
        "groups that list it there; other users have none.",
        example=["render", 27],
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
        doc="Variables taken from the environment of `sandbox up`; env overrides them.",
        example=["TERM"],
        default=(),
    )
    terminal: bool | Literal["auto"] = setting(
        TerminalCodec(),
        doc="Whether the program gets a terminal of its own; auto: if the sandbox is started in the foreground of a terminal.",
        example=False,
        default="auto",
    )
    stop_signal: str = setting(
        signal_name(), doc="Signal that requests the program to end.", example="SIGINT", default="SIGTERM"
    )
    stop_timeout: float = setting(
        Duration(),
        doc="How long the program has to end before it is killed.",
        example="30s",
        unit="seconds",
        default=10.0,
    )
    init: bool = setting(
        Boolean(planned=False),
        doc="Whether an init runs as process 1 and reaps orphaned processes; otherwise the program is process 1.",
        example=True,
        default=True,
    )
    env_file: str | None = setting(
        HostPath(),
        doc="File with NAME=VALUE lines, as for --env-file of docker; env overrides it, and it overrides inherit_env.",
        example="web.env",
    )

    @property
    def argv(self) -> tuple[str, ...]:
        """Return the whole command line: `command`, or /bin/sh without it, followed by `args`."""
        return (*(self.command or ("/bin/sh",)), *self.args)


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """[health]: a command that checks whether the program is healthy."""

    command: tuple[str, ...] = setting(
        CommandCodec(ListOf(Text())),
        doc="Command that runs in the sandbox; exit status 0 means healthy.",
        example=["curl", "-f", "http://localhost/"],
        required=True,
    )
    interval: float = setting(
        Duration(0.001), doc="Time from one run to the next.", example="10s", unit="seconds", default=30.0
    )
    timeout: float = setting(
        Duration(0.001), doc="A run that takes longer has failed.", example="5s", unit="seconds", default=30.0
    )
    retries: int = setting(
        Integer(1), doc="Consecutive failures after which the program is unhealthy.", example=5, default=3
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """[restart]: when the program is restarted."""

    policy: str = setting(
        Choice("no", "on-failure", "always"),
        doc="no: never. on-failure: after an exit status other than 0, or when it is unhealthy. always: after every end.",
        example="on-failure",
        default="no",
    )
    max: int | None = setting(
        Integer(1),
        doc="The largest number of restarts; without it, there is no limit.",
        example=5,
        unit="times",
    )
    delay: float = setting(
        Duration(), doc="How long to wait before a restart.", example="5s", unit="seconds", default=1.0
    )
