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
        doc="User and group of the program: ids, or names that the sandbox's own /etc/passwd and /etc/group have.",
        example="1000:1000",
        default=User(0),
    )
    groups: tuple[int | str, ...] | None = setting(
        ListOf(GroupCodec(), distinct=True),
        doc="Supplementary groups: ids, or names that the sandbox's own /etc/group has. Without it, a user who is given by name alone "
        "has those that list it there, others have none.",
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
        doc="Variables taken from the environment that the sandbox is started in; env wins over them.",
        example=["TERM"],
        default=(),
    )
    terminal: bool | Literal["auto"] = setting(
        TerminalCodec(),
        doc="Whether the program gets a terminal of its own; auto gives it one when started in the foreground of one.",
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
    init: bool = setting(
        Boolean(planned=False),
        doc="Whether a small init runs as process 1 and reaps; the program itself would be process 1 otherwise.",
        example=True,
        default=True,
    )
    env_file: str | None = setting(
        HostPath(),
        doc="File with NAME=VALUE lines for the environment, as docker's --env-file; env wins over it, it over inherit_env.",
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
        doc="Runs in the sandbox; exit status 0 means well.",
        example=["curl", "-f", "http://localhost/"],
        required=True,
    )
    interval: float = setting(
        Duration(0.001), doc="From one run to the next.", example="10s", unit="seconds", default=30.0
    )
    timeout: float = setting(
        Duration(0.001), doc="A run that takes longer has failed.", example="5s", unit="seconds", default=30.0
    )
    retries: int = setting(
        Integer(1), doc="Failures in a row after which the program is not well.", example=5, default=3
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """[restart]: when the program is restarted."""

    policy: str = setting(
        Choice("no", "on-failure", "always"),
        doc="Never, after an exit status other than 0 or when it is not well, or after any end.",
        example="on-failure",
        default="no",
    )
    max: int | None = setting(
        Integer(1), doc="How often at most; without it, without end.", example=5, unit="times"
    )
    delay: float = setting(
        Duration(), doc="How long to wait before a start.", example="5s", unit="seconds", default=1.0
    )
