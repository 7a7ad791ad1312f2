"""Load the file of a build, a Containerfile or an environment file, and plan the build."""

from __future__ import annotations

import os

from sandbox.errors import SandboxError
from sandbox.images.build.dockerignore import IgnoreRules, ignore_files
from sandbox.images.build.options import BuildOptions
from sandbox.images.importing import host_platform

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.builder.bases import Bases
    from sandbox.images.build.plan import BuildPlan

_LARGEST = 1 << 20
"""Bytes of a file with patterns; a larger one is refused by its parser."""


def load_plan(
    file: str, bases: Bases, *, platform: str | None, target: str, arguments: Mapping[str, str]
) -> BuildPlan:
    """Return the plan for the build of *file*; images are fetched from *bases* for their configurations.

    *platform* is that of the image, None for that of this machine. *target* names the stage that becomes the image, "" the last.
    *arguments* are values of ARG.

    Raises:
        SpecError: the file has mistakes.
        SandboxError: it cannot be read.
        ImageError: an image cannot be found or fetched.
    """
    own = str(host_platform())
    if platform is not None:
        from sandbox.images.oci.platforms import Platform

        platform = str(Platform.parse(platform))
    options = BuildOptions(
        platform=platform or own,
        build_platform=own,
        is_stored=bases.is_stored,
        read_config=bases.read_config,
        target=target,
        arguments=arguments,
    )
    if file.endswith(".toml"):
        from sandbox.images.build.toml_build import plan_build as plan_toml
        from sandbox.spec.load import load

        return plan_toml(load(file, unenforced="keep"), options)
    from sandbox.images.build.containerfile import parse
    from sandbox.images.build.stages import plan_build

    return plan_build(parse(_read(file), file), options)


def fetch_sources(plan: BuildPlan, bases: Bases) -> None:
    """Fetch every image that *plan* starts from or copies from, so that *bases* has the digests of all.

    Raises:
        ImageError: one cannot be found or fetched.
    """
    from sandbox.images.build.plan import CopyFiles, Sources

    for stage in plan.stages:
        copied = [step.action.origin for step in stage.steps if isinstance(step.action, CopyFiles)]
        for origin in (stage.base, *copied):
            if isinstance(origin, Sources):
                bases.base(origin, stage.platform)


def load_ignore_rules(file: str, context: str) -> IgnoreRules:
    """Return the rules which files of *context* a build of *file* leaves out.

    Raises:
        SpecError: the file of the rules has mistakes.
        SandboxError: it cannot be read.
    """
    from sandbox.images.build.dockerignore import parse

    for path in ignore_files(file, context):
        if os.path.lexists(path):
            return parse(_read(path), path)
    return IgnoreRules()


def _read(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        raise SandboxError(f"{path}: {(error.strerror or str(error)).lower()}") from None
