"""Plan the build of an environment file: `[root]` is the base, `[[build]]` has the steps, `[process]` the image's defaults.

The result is the same kind of plan as that of a Containerfile, with one stage.
"""

from __future__ import annotations

from sandbox.errors import SpecError
from sandbox.images.build.config import SCRATCH, ImageConfig
from sandbox.images.build.copy_paths import PathError, copy_source
from sandbox.images.build.options import PROXY_ARGUMENTS, BuildOptions
from sandbox.images.build.plan import BuildPlan, CopyFiles, MakeDirectory, RunCommand, Sources, Stage, Step
from sandbox.images.build.references import UnknownImageError, image_source
from sandbox.spec.codecs import ListOf, Text
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.notation import literal, shown
from sandbox.spec.origin import Place
from sandbox.spec.values.program import CommandCodec
from unionfs._stdlib.dataclasses import replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.build.plan import Action
    from sandbox.spec.model import Spec
    from sandbox.spec.tables.parts import BuildCopy, BuildStep
    from sandbox.spec.values.accounts import User

_WITHOUT_CONFIG = ("dir", "tar")
"""Kinds of layers that have files only."""


def plan_build(spec: Spec, options: BuildOptions) -> BuildPlan:
    """Return the plan for the build of the environment file *spec*.

    Raises:
        SpecError: a layer cannot be part of an image, an image of `copy.from` is unknown, or `options.target` names a stage.
        ImageError: from `options.read_config`.
    """
    if options.target:
        message = f"there is no stage {shown(options.target)}: an environment file has one stage"
        raise SpecError([Diagnostic(file=spec.file, message=message, hint="remove --target")])
    return _Planner(spec, options).plan()


class _Planner:
    """Makes the plan for one file. `plan_build` creates it; there is nothing to close."""

    def __init__(self, spec: Spec, options: BuildOptions) -> None:
        self._spec = spec
        self._options = options
        self._mistakes: list[Diagnostic] = []
        self._arguments: dict[str, str] = {}
        self._steps: list[Step] = []
        self._config = ImageConfig()

    def plan(self) -> BuildPlan:
        base = self._base()
        self._raise_mistakes()
        start = self._config
        for index, step in enumerate(self._spec.build):
            self._add(step, index)
        self._add_process()
        self._raise_mistakes()
        platform = self._options.platform
        stage = Stage(name="", base=base, platform=platform, start=start, steps=tuple(self._steps))
        given = self._options.arguments
        known = {*PROXY_ARGUMENTS, *(name for step in self._spec.build for name in step.arg)}
        return BuildPlan(
            stages=(stage,),
            proxy_env=tuple(f"{name}={given[name]}" for name in PROXY_ARGUMENTS if name in given),
            unused_arguments=tuple(sorted(name for name in given if name not in known)),
        )

    def _base(self) -> Sources:
        """Return the layers, and set the configuration of the topmost image, or that of an image without base."""
        topmost = ""
        sources = []
        for index, layer in enumerate(self._spec.root.layers):
            source = layer.shown()  # a build unpacks its base, also if the file has it mounted
            sources.append(source)
            if layer.kind == "dir":
                hint = f"pack it with `tar -C {layer.path} -cf base.tar .`, and write tar:base.tar"
                self._report(f"root.layers[{index}]", "a directory is no layer of an image", hint)
            elif layer.kind not in _WITHOUT_CONFIG:
                topmost = source
        self._raise_mistakes()
        config = self._options.read_config(topmost, self._options.platform) if topmost else SCRATCH
        if config.triggers:
            hint = f"build it from a Containerfile that begins with FROM {topmost}"
            self._report(
                "root.layers",
                f"{topmost} has ONBUILD instructions, which steps of [[build]] do not run",
                hint,
            )
        self._config = config.as_base()
        return Sources(tuple(sources))

    def _add(self, step: BuildStep, index: int) -> None:
        """Add what one table is: the new settings, the working directory, and the command or the copy, in this order."""
        for name, default in step.arg.items():
            self._arguments[name] = self._options.arguments.get(name, default)
        config = self._config.with_env(step.env.items()).with_labels(step.labels.items())
        if step.user is not None:
            config = replace(config, user=_account(step.user))
        if config != self._config:
            self._config = config
            self._append(index, None, self._settings_text(step))
        if step.cwd is not None:
            self._config = replace(self._config, cwd=step.cwd)
            self._append(index, MakeDirectory(step.cwd, self._config.user), f"cwd = {literal(step.cwd)}")
        if step.run is not None:
            command = RunCommand(
                command=step.run,
                env=self._config.command_env(self._arguments),
                user=self._config.user,
                cwd=self._config.cwd or "/",
                network="host" if step.network else "default",
            )
            written = CommandCodec(ListOf(Text())).encode(step.run)
            self._append(index, command, f"run = {literal(written)}")
        if step.copy is not None:
            self._append(index, self._copy(step.copy, index), _copy_text(step.copy))

    def _copy(self, copy: BuildCopy, index: int) -> CopyFiles:
        origin = None
        if copy.from_ is not None:
            try:
                origin = Sources((image_source(copy.from_, self._options.is_stored),))
            except UnknownImageError as error:
                self._report(f"build[{index}].copy.from", error.message, error.hint)
        source = copy.source
        try:
            source = copy_source(copy.source)
        except PathError as error:
            self._report(f"build[{index}].copy.source", error.message, error.hint)
        return CopyFiles(
            sources=(source,),
            target=copy.target,
            origin=origin,
            owner="" if copy.owner is None else _account(copy.owner),
            mode=copy.mode,
        )

    def _add_process(self) -> None:
        """Add the settings of [process] that are part of an image."""
        process, config = self._spec.process, self._config
        if process.command is not None:
            # The entrypoint of the base image was made for another command.
            config = replace(config, entrypoint=None, command=(*process.command, *process.args))
        elif process.args:
            config = replace(config, command=(*(config.command or ()), *process.args))
        config = config.with_env(process.env.items())
        if self._spec.is_set("process.user"):
            config = replace(config, user=_account(process.user))
        if self._spec.is_set("process.cwd"):
            config = replace(config, cwd=process.cwd)
        if self._spec.is_set("process.stop_signal"):
            config = replace(config, stop_signal=process.stop_signal)
        if config != self._config:
            self._config = config
            place = self._spec.origin("process") or Place(self._spec.file, 1, 1)
            self._steps.append(Step(action=None, config=config, text="[process]", place=place))

    def _append(self, index: int, action: Action | None, text: str) -> None:
        place = self._spec.origin(f"build[{index}]") or Place(self._spec.file, 1, 1)
        self._steps.append(Step(action=action, config=self._config, text=text, place=place))

    def _settings_text(self, step: BuildStep) -> str:
        user = None if step.user is None else _account(step.user)
        found = {"env": dict(step.env), "labels": dict(step.labels), "user": user}
        return ", ".join(f"{key} = {literal(value)}" for key, value in found.items() if value)

    def _report(self, key: str, message: str, hint: str) -> None:
        self._mistakes.append(self._spec.diagnose(key, message, hint))

    def _raise_mistakes(self) -> None:
        if self._mistakes:
            raise SpecError(self._mistakes)


def _account(user: User) -> str:
    return str(user.user) if user.group is None else f"{user.user}:{user.group}"


def _copy_text(copy: BuildCopy) -> str:
    owner = None if copy.owner is None else _account(copy.owner)
    mode = None if copy.mode is None else f"{copy.mode:04o}"
    found = {"source": copy.source, "target": copy.target, "from": copy.from_, "owner": owner, "mode": mode}
    return f"copy = {literal({key: value for key, value in found.items() if value is not None})}"
