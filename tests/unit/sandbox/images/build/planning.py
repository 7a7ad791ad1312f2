"""Plan builds for tests, without images: each base has a small configuration. Write plans as text that is compared."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sandbox.images.build.config import ImageConfig, write_config
from sandbox.images.build.containerfile import parse
from sandbox.images.build.instructions import HealthTimes
from sandbox.images.build.options import BuildOptions
from sandbox.images.build.plan import BuildPlan, Origin, StageRef
from sandbox.images.build.stages import plan_build

BASE = ImageConfig(env=("PATH=/usr/bin:/bin", "X=base"), command=("base",), cwd="/home")

TRIGGERS = ("COPY site /site", "RUN <<EOF\nmake $X\nEOF", "ENV TRIGGERED=$X")


def read_config(source: str, _platform: str) -> ImageConfig:
    """Return the configuration of a made-up image; one with "onbuild" in its name has triggers."""
    return ImageConfig(env=BASE.env, triggers=TRIGGERS) if "onbuild" in source else BASE


def options(
    arguments: Mapping[str, str] | None = None, *, target: str = "", stored: tuple[str, ...] = ()
) -> BuildOptions:
    return BuildOptions(
        platform="linux/arm64/v8",
        build_platform="linux/amd64",
        is_stored=stored.__contains__,
        read_config=read_config,
        target=target,
        arguments=arguments or {},
    )


def plan(
    text: str,
    arguments: Mapping[str, str] | None = None,
    *,
    target: str = "",
    stored: tuple[str, ...] = (),
) -> BuildPlan:
    """Return the plan of the Containerfile *text*."""
    file = parse(text.encode(), "Containerfile")
    return plan_build(file, options(arguments, target=target, stored=stored))


def described(found: BuildPlan) -> str:
    """Return *found* as text, without what is as for every other step."""
    lines = []
    for number, stage in enumerate(found.stages):
        name = f" {stage.name}" if stage.name else ""
        lines.append(f"stage {number}{name} from {_origin(stage.base)} for {stage.platform}")
        for step in stage.steps:
            lines.append(f"  {step.place.line}:{step.place.column} {step.text}")
            if step.action is not None:
                fields = {key: getattr(step.action, key) for key in step.action.__dataclass_fields__}
                lines.append(f"    {type(step.action).__name__} {json.dumps(fields, default=_plain)}")
        lines.append(f"  config {json.dumps(write_config(stage.config, {}), default=_plain)}")
    lines += [f"proxy {text}" for text in found.proxy_env]
    lines += [f"unused {name}" for name in found.unused_arguments]
    return "\n".join(lines) + "\n"


def _origin(origin: Origin | None) -> str:
    if origin is None:
        return "the context"
    return (
        f"stage {origin.index}" if isinstance(origin, StageRef) else " + ".join(origin.sources) or "scratch"
    )


def _plain(value: object) -> object:
    if isinstance(value, StageRef) or hasattr(value, "sources"):
        return _origin(value)  # type: ignore[arg-type]
    assert not isinstance(value, HealthTimes)
    return {key: getattr(value, key) for key in value.__dataclass_fields__}  # type: ignore[attr-defined]
