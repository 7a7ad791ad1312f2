"""Define the plan of a build: stages with their steps, as values that need no variables and no file of instructions.

`stages` makes it from a Containerfile and `toml_build` from an environment file. Whoever executes the steps reads nothing else.
"""

from __future__ import annotations

from sandbox.images.build.config import ImageConfig
from sandbox.images.build.instructions import Network
from sandbox.spec.origin import Place
from unionfs._stdlib.dataclasses import dataclass

SCRIPT_PATH = "/dev/pipes/script"
"""Where the program of `RUN <<EOF` that begins with "#!" is while it runs. BuildKit uses that directory."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Images or archives as layers, bottom first: "docker://...", "image:...", "oci:...", "tar:..."; none for scratch."""

    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageRef:
    """An earlier stage of the same plan: its position among the stages."""

    index: int


Origin = Sources | StageRef
"""What a stage starts from, or what files are copied from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCommand:
    """Run `command` on the files of the stage: as `user` in `cwd`, with the NAME=VALUE strings `env` and no others.

    `script` is the content of an executable file at SCRIPT_PATH that exists only meanwhile; None if there is none.
    """

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    cwd: str = "/"
    network: Network = "default"
    script: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A new file with the given content: a here-document of COPY."""

    name: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyFiles:
    """Copy files to `target`, an absolute path, which is a directory if it ends with a slash.

    `sources` are paths from the top of `origin`, or of the build context if that is None. They may have the wildcards of
    `patterns.glob`, have no leading slash and no ".." part; "" is the top. `documents` are new files.
    The mode is that of the source, and the owner root, unless `mode` (bits) or `owner` (USER[:GROUP]) is given. Files of a stage
    or of an image keep their owners.
    With `unpack`, archives of the build context are unpacked into the target.
    """

    sources: tuple[str, ...]
    target: str
    documents: tuple[Document, ...] = ()
    origin: Origin | None = None
    owner: str = ""
    mode: int | None = None
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Create the directory `path`, and those above it, if it does not exist. `owner` is the user in effect; "" is root."""

    path: str
    owner: str = ""


Action = RunCommand | CopyFiles | MakeDirectory
"""What changes the files of a stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step. `action` is None if only the configuration changes; `config` is the configuration after the step.

    `text` is the step as it was written, for output and for the history of the image; variables in it are not expanded, so
    that it has no value of an argument. `place` is where it was written.
    """

    action: Action | None
    config: ImageConfig
    text: str
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage. `start` is the configuration before the first step. `name` is empty if it has none.

    `platform` is that of the base and of the result: OS/ARCHITECTURE[/VARIANT].
    """

    name: str
    base: Origin
    platform: str
    start: ImageConfig
    steps: tuple[Step, ...]

    @property
    def config(self) -> ImageConfig:
        """The configuration after the last step."""
        return self.steps[-1].config if self.steps else self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """The stages that the result needs; the last one is the result. A stage refers only to stages before it.

    `proxy_env` are NAME=VALUE strings of the proxies that commands use. They are neither part of the image nor of a cache key.
    `unused_arguments` are names of given arguments that the file does not declare, for a warning.
    """

    stages: tuple[Stage, ...]
    proxy_env: tuple[str, ...] = ()
    unused_arguments: tuple[str, ...] = ()

    @property
    def result(self) -> Stage:
        """The stage that becomes the image."""
        return self.stages[-1]
