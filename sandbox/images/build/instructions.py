"""Define the instructions of a Containerfile as values, as written: variables are not expanded yet.

`containerfile` parses a file to these values, and `evaluate` turns them into the steps of a build. The meaning of each is
that of the Dockerfile reference.
"""

from __future__ import annotations

from sandbox.images.build.here_documents import Heredoc
from sandbox.spec.locate import Span
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal


@dataclass(frozen=True, slots=True)
class Word:
    """A part of an instruction that may have variables and quotes, and its place in the file."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Command:
    """A command in the exec form (the words of `argv`) or in the shell form (the text of `shell`).

    `shell` may open here-documents, which `heredocs` has in their order. Exactly one of `argv` and `shell` is not None.
    """

    argv: tuple[str, ...] | None = None
    shell: str | None = None
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """The base of all instructions: the text as one line, without here-documents, and the place of the whole line."""

    text: str
    span: Span


@dataclass(frozen=True, kw_only=True, slots=True)
class From(Instruction):
    """FROM: begins a stage. `name` is in lower case, or empty; names of stages are the same in upper and lower case."""

    image: Word
    name: str = ""
    name_span: Span | None = None
    platform: Word | None = None


Network = Literal["default", "none", "host"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Instruction):
    """RUN: runs a command. `network` is that of --network; "default" is what the whole build has."""

    command: Command
    network: Network = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy(Instruction):
    """COPY, or ADD with `unpack`: copies files and here-documents. ADD unpacks archives.

    `origin` is the stage or image of --from, or None for the build context.
    """

    sources: tuple[Word | Heredoc, ...]
    target: Word
    origin: Word | None = None
    owner: Word | None = None
    mode: Word | None = None
    unpack: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Env(Instruction):
    """ENV: sets environment variables of the image."""

    pairs: tuple[tuple[Word, Word], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Label(Instruction):
    """LABEL: sets labels of the image."""

    pairs: tuple[tuple[Word, Word], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arg(Instruction):
    """ARG: declares arguments of the build, each with its default or None."""

    pairs: tuple[tuple[str, Word | None], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workdir(Instruction):
    """WORKDIR: sets the working directory, and creates it."""

    path: Word


@dataclass(frozen=True, kw_only=True, slots=True)
class User(Instruction):
    """USER: sets the user, and optionally the group, of later commands and of the image's program."""

    user: Word


@dataclass(frozen=True, kw_only=True, slots=True)
class Cmd(Instruction):
    """CMD: sets the default command of the image."""

    command: Command


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrypoint(Instruction):
    """ENTRYPOINT: sets the program of the image, which gets the default command as arguments."""

    command: Command


@dataclass(frozen=True, kw_only=True, slots=True)
class Expose(Instruction):
    """EXPOSE: records ports: PORT, FIRST-LAST, each with /tcp or /udp."""

    ports: tuple[Word, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume(Instruction):
    """VOLUME: records paths that are mount points of volumes."""

    paths: tuple[Word, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StopSignal(Instruction):
    """STOPSIGNAL: records the signal that ends the image's program."""

    signal: Word


@dataclass(frozen=True, kw_only=True, slots=True)
class Shell(Instruction):
    """SHELL: sets the shell of later commands in the shell form."""

    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Onbuild(Instruction):
    """ONBUILD: records an instruction for builds that start from the image. `trigger` has its here-documents, too."""

    trigger: str


@dataclass(frozen=True, slots=True)
class HealthTimes:
    """The times of a health check in nanoseconds, and its number of retries; 0 is the default of the runtime."""

    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Healthcheck(Instruction):
    """HEALTHCHECK: records the command that checks the program; without a command, none does."""

    command: Command | None
    times: HealthTimes = HealthTimes()
