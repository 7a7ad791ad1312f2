"""Execute the plan of a build: its stages in their order, and the steps of each over the layers so far."""

from __future__ import annotations

from contextlib import contextmanager

from sandbox.builder.cache import BuildCache
from sandbox.builder.context import BuildContext
from sandbox.builder.copy_step import LATEST, Output, copy_from_context, copy_from_layers, make_directory
from sandbox.builder.failed_step import FailedStep, keep
from sandbox.builder.inputs import scan
from sandbox.builder.run_step import discard_kept, layer_of, run_command
from sandbox.builder.stage import StageState
from sandbox.errors import SandboxError
from sandbox.images.build.cache_key import step_key
from sandbox.images.build.plan import CopyFiles, MakeDirectory, RunCommand, StageRef
from sandbox.images.stored_content import add_image, source_date_epoch
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import Literal

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.builder.bases import Bases
    from sandbox.builder.inputs import Inputs
    from sandbox.builder.machine import Machine
    from sandbox.images.build.dockerignore import IgnoreRules
    from sandbox.images.build.plan import BuildPlan, Origin, Stage, Step
    from sandbox.images.stored_images import ImageRecord
    from sandbox.plan.image_values import ImageLayer

_INTERRUPTED = (128 + 1, 128 + 2, 128 + 3, 128 + 15)
"""The exit statuses of a sandbox that SIGHUP, SIGINT, SIGQUIT or SIGTERM ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a build is executed. `file` is the real path of its file, and `context` the directory that files are copied from.

    `network` is what commands have that leave it open, "none" or "host". `report` receives a line for each step.
    """

    file: str
    context: str
    rules: IgnoreRules
    network: Literal["none", "host"]
    compression: str
    use_cache: bool
    report: Callable[[str], None]
    debug: bool = False


def execute(
    machine: Machine, plan: BuildPlan, bases: Bases, settings: Settings, names: tuple[str, ...]
) -> ImageRecord:
    """Build the image of *plan*, and add it to the store under *names*, normalized ones; return its record.

    The caller holds the lock of `sandbox.images.collection.importing` on the image directory: the layers have no name meanwhile.

    Raises:
        SandboxError: a step failed, with its place in the file; its exit status is that of the command of RUN.
        StateError: the image directory cannot be written.
    """
    build = _Build(machine, plan, bases, settings)
    try:
        return build.run(names)
    finally:
        build.close()


class _Build:
    """One build. `execute` creates and closes it."""

    def __init__(self, machine: Machine, plan: BuildPlan, bases: Bases, settings: Settings) -> None:
        self._machine = machine
        self._plan = plan
        self._bases = bases
        self._settings = settings
        self._context: BuildContext | None = None
        #: What the steps copy from the context, by the positions of the stage and of the step.
        self._inputs: dict[tuple[int, int], Inputs] = {}
        self._stages: list[StageState] = []
        self._count = sum(len(stage.steps) for stage in plan.stages)
        self._number = 0
        self._output: Output
        self._cache: BuildCache

    def close(self) -> None:
        """Close the context."""
        if self._context is not None:
            self._context.close()

    def run(self, names: tuple[str, ...]) -> ImageRecord:
        """Execute all stages and add the image."""
        plan, settings = self._plan, self._settings
        for number, stage in enumerate(plan.stages):
            for position, step in enumerate(stage.steps):
                if isinstance(step.action, CopyFiles) and step.action.origin is None:
                    with _at(step):
                        self._inputs[(number, position)] = scan(self._opened_context(), step.action)
        given = source_date_epoch()
        latest = self._newest() if given is None else given
        self._output = Output(compression=settings.compression, latest=latest)
        # Layers of equal steps differ by their compression, and by the times that SOURCE_DATE_EPOCH allows.
        variant = settings.compression if given is None else f"{settings.compression} {given}"
        self._cache = BuildCache(self._machine.where.images, variant=variant)
        for number, stage in enumerate(plan.stages):
            self._stages.append(self._stage(number, stage))
        result, state = plan.result, self._stages[-1]
        config = state.image_config(result.config, result.platform, latest)
        images = self._machine.where.images
        for name in names[1:]:
            add_image(images, config, state.descriptors(), name)
        return add_image(images, config, state.descriptors(), names[0] if names else None)

    def _opened_context(self) -> BuildContext:
        if self._context is None:
            self._context = BuildContext(self._settings.context, self._settings.rules)
        return self._context

    def _newest(self) -> int:
        """Return the time of the newest input, in seconds after the epoch: of the files of the context and of the base images."""
        times = [inputs.newest for inputs in self._inputs.values()]
        for stage in self._plan.stages:
            origins = [stage.base, *(_origin(step) for step in stage.steps)]
            times += [
                self._bases.base(origin, stage.platform).created
                for origin in origins
                if origin is not None and not isinstance(origin, StageRef)
            ]
        return min(max([0, *times]), LATEST)

    def _stage(self, number: int, stage: Stage) -> StageState:
        if isinstance(stage.base, StageRef):
            state = self._stages[stage.base.index]
        else:
            base = self._bases.base(stage.base, stage.platform)
            state = StageState(layers=base.layers, history=base.history, key=base.key, document=base.document)
        for position, planned in enumerate(stage.steps):
            self._number += 1
            step = self._with_network(planned)
            with _at(step):
                state = self._with_working_directory(state, step)
                state = self._step(state, stage, step, self._inputs.get((number, position)))
            if isinstance(step.action, MakeDirectory):
                state = state.with_directory(step.action.path)
        return state

    def _with_working_directory(self, state: StageState, step: Step) -> StageState:
        """Return *state* with the working directory of the command *step*, which the base image may name without having it.

        It is created as WORKDIR creates it, in a layer of its own. Docker and buildah create it in the layer of the command.
        """
        action = step.action
        if not isinstance(action, RunCommand) or not state.layers or action.cwd == "/":
            return state
        if action.cwd in state.directories:
            return state
        making = MakeDirectory(action.cwd, action.user)
        key = step_key(state.key, replace(step, action=making))
        known, layer = self._cache.find(key) if self._settings.use_cache else (False, None)
        if not known:
            layer = make_directory(self._machine, state.layers, making, self._output)
            self._cache.add(key, layer)
        if layer is not None:
            state = state.after(f"WORKDIR {action.cwd}", key, layer, self._output.latest)
        return state.with_directory(action.cwd)

    def _with_network(self, step: Step) -> Step:
        """Return *step* with the network of the build if it leaves that open: its files may depend on it, so the key has to."""
        if not isinstance(step.action, RunCommand) or step.action.network != "default":
            return step
        return replace(step, action=replace(step.action, network=self._settings.network))

    def _step(self, state: StageState, stage: Stage, step: Step, inputs: Inputs | None) -> StageState:
        latest = self._output.latest
        if step.action is None:
            self._report(step)
            return state.after(step.text, state.key, None, latest)
        origin = self._layers_of(step.action.origin, stage) if isinstance(step.action, CopyFiles) else None
        used = "" if origin is None else origin[1]
        key = step_key(state.key, step, inputs.digest if inputs is not None else used)
        if self._settings.use_cache:
            known, layer = self._cache.find(key)
            if known:
                self._report(step, "cached")
                return state.after(step.text, key, layer, latest)
        self._report(step)
        layer = self._execute(state, step.action, step, inputs, None if origin is None else origin[0])
        self._cache.add(key, layer)
        return state.after(step.text, key, layer, latest)

    def _execute(
        self,
        state: StageState,
        action: RunCommand | CopyFiles | MakeDirectory,
        step: Step,
        inputs: Inputs | None,
        origin: tuple[ImageLayer, ...] | None,
    ) -> ImageLayer | None:
        if isinstance(action, RunCommand):
            return self._run(state, action, step)
        if isinstance(action, MakeDirectory):
            return make_directory(self._machine, state.layers, action, self._output)
        if origin is not None:
            return copy_from_layers(self._machine, state.layers, action, origin, self._output)
        assert inputs is not None
        return copy_from_context(
            self._machine, state.layers, action, self._opened_context(), inputs, self._output
        )

    def _run(self, state: StageState, action: RunCommand, step: Step) -> ImageLayer | None:
        settings = self._settings
        ended = run_command(
            self._machine,
            state.layers,
            action,
            file=settings.file,
            more_env=self._plan.proxy_env,
            debug=settings.debug,
        )
        failed = False
        try:
            if ended.status == 0 and ended.error is None:
                return layer_of(self._machine, ended.kept, self._output) if ended.kept else None
            failed = bool(ended.kept) and ended.error is None and ended.status not in _INTERRUPTED
            if failed:
                keep(
                    self._machine.state.path,
                    FailedStep(kept=ended.kept, layers=state.layers, command=action, text=step.text),
                )
        finally:
            if not failed:
                discard_kept(ended.kept)
        if ended.error is not None:
            raise ended.error
        if not failed:
            raise SandboxError("the command was interrupted", exit_code=ended.status)
        raise SandboxError(
            f"the command ended with status {ended.status}",
            hint=f"for a shell in the state that it left: sandbox build {settings.file} --shell",
            exit_code=ended.status,
        )

    def _layers_of(self, origin: Origin | None, stage: Stage) -> tuple[tuple[ImageLayer, ...], str] | None:
        """Return the layers that *origin* of a copy means, and their key; None for the context."""
        if origin is None:
            return None
        if isinstance(origin, StageRef):
            state = self._stages[origin.index]
            return state.layers, state.key
        base = self._bases.base(origin, stage.platform)
        return base.layers, base.key

    def _report(self, step: Step, note: str = "") -> None:
        note = f": {note}" if note else ""
        self._settings.report(f"step {self._number}/{self._count}: {step.text}{note}")


@contextmanager
def _at(step: Step) -> Iterator[None]:
    """Begin the messages of errors with the place and the text of *step*."""
    try:
        yield
    except SandboxError as error:
        place = step.place
        error.message = f"{place.file}:{place.line}:{place.column}: {step.text}: {error.message}"
        raise


def _origin(step: Step) -> Origin | None:
    return step.action.origin if isinstance(step.action, CopyFiles) else None
