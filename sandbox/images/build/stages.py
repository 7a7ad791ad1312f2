"""Plan the build of a Containerfile: find the stages that the result needs, and evaluate their instructions.

Nothing is read here except through the functions of `BuildOptions`.
"""

from __future__ import annotations

from sandbox.errors import SpecError
from sandbox.images.build.config import SCRATCH, ImageConfig
from sandbox.images.build.containerfile import Containerfile, parse_trigger
from sandbox.images.build.evaluate import StageState, expansion_mistake
from sandbox.images.build.instruction_parsers import MistakeError
from sandbox.images.build.instructions import Arg, Copy, From, Instruction, Onbuild, Word
from sandbox.images.build.options import PROXY_ARGUMENTS, BuildOptions
from sandbox.images.build.plan import BuildPlan, Origin, Sources, Stage, StageRef
from sandbox.images.build.platforms import PLATFORM_RULE, is_platform, platform_arguments
from sandbox.images.build.references import SCRATCH as SCRATCH_NAME
from sandbox.images.build.references import UnknownImageError, image_source
from sandbox.images.build.variables import Expander, ExpansionError
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.notation import nearest, shown
from sandbox.spec.origin import MAX_DIAGNOSTICS
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.images.build.plan import Step


def plan_build(file: Containerfile, options: BuildOptions) -> BuildPlan:
    """Return the plan for the build of *file*.

    Raises:
        SpecError: the file has mistakes that only the values of variables and the names of images reveal; or there is no stage
            of the name that the options have.
        ImageError: from `options.read_config`.
    """
    return _Planner(file, options).plan()


@dataclass(frozen=True, slots=True)
class _Section:
    """The instructions of one stage, and their position among the stages."""

    index: int
    start: From
    items: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class _Base:
    """What a stage starts from. `triggers` are the parsed ONBUILD instructions of the image or stage. `config` is for an image."""

    origin: Origin
    platform: str
    config: ImageConfig
    triggers: tuple[Containerfile, ...] = ()


class _Planner:
    """Makes the plan for one file. `plan_build` creates it; there is nothing to close."""

    def __init__(self, file: Containerfile, options: BuildOptions) -> None:
        self._file = file
        self._options = options
        self._expander = Expander(file.escape)
        self._mistakes: list[Diagnostic] = []
        self._heads, self._sections = _sections(file)
        self._by_name: dict[str, int] = {}
        self._globals: dict[str, str] = {}

    def plan(self) -> BuildPlan:
        self._name_stages()
        self._set_globals()
        self._raise_mistakes()
        target = self._target()
        bases = self._needed_bases(target)
        self._raise_mistakes()
        stages = self._evaluate(bases)
        self._raise_mistakes()
        given = self._options.arguments
        proxies = [name for name in PROXY_ARGUMENTS if name in given]
        known = {*self._declared(bases), *platform_arguments("", ""), *PROXY_ARGUMENTS}
        return BuildPlan(
            stages=stages,
            proxy_env=tuple(f"{name}={given[name]}" for name in proxies),
            unused_arguments=tuple(sorted(name for name in given if name not in known)),
        )

    def _name_stages(self) -> None:
        for section in self._sections:
            name = section.start.name
            if not name:
                continue
            if name in self._by_name:
                first = self._file.source.place(self._sections[self._by_name[name]].start.span).line
                self._report(
                    MistakeError(
                        section.start.name_span or section.start.span,
                        f"the stage {shown(name)} is already defined on line {first}",
                        "give each stage a name of its own",
                    )
                )
            else:
                self._by_name[name] = section.index

    def _set_globals(self) -> None:
        given = self._options.arguments
        found = platform_arguments(self._options.platform, self._options.build_platform)
        self._globals = {name: given.get(name, value) for name, value in found.items()}
        for item in self._heads:
            for name, default in item.pairs:
                if name in given:
                    self._globals[name] = given[name]
                elif default is not None:
                    try:
                        self._globals[name] = self._global_word(default)
                    except MistakeError as mistake:
                        self._report(mistake)

    def _global_word(self, word: Word) -> str:
        try:
            return self._expander.word(word.text, self._globals)
        except ExpansionError as error:
            raise expansion_mistake(word, error) from None

    def _target(self) -> int:
        target = self._options.target
        if not target:
            return len(self._sections) - 1
        found = self._stage_index(target)
        if found is None:
            meant = nearest(target.lower(), self._by_name)
            names = ", ".join(self._by_name) or "none; they have the numbers from 0"
            hint = f"did you mean {meant}?" if meant else f"names of stages: {names}"
            message = f"there is no stage {shown(target)}"
            raise SpecError([Diagnostic(file=self._file.source.file, message=message, hint=hint)])
        return found

    def _stage_index(self, name: str) -> int | None:
        """Return the position of the stage with the name or number *name*; None if there is none."""
        if name.isascii() and name.isdigit() and len(name) < 5:
            return int(name) if int(name) < len(self._sections) else None
        return self._by_name.get(name.lower())

    def _needed_bases(self, target: int) -> dict[int, _Base]:
        """Return the base of each stage that *target* needs, by its position; reports mistakes."""
        needed = {target}
        bases: dict[int, _Base] = {}
        # A stage refers to stages before it only, so one pass from the last to the first finds all.
        for section in reversed(self._sections[: target + 1]):
            if section.index not in needed:
                continue
            try:
                base = bases[section.index] = self._base(section)
                if isinstance(base.origin, StageRef):
                    needed.add(base.origin.index)
            except MistakeError as mistake:
                self._report(mistake)
                continue
            triggers = [item for trigger in base.triggers for item in trigger.instructions]
            for item in (*triggers, *section.items):
                if isinstance(item, Copy) and item.origin is not None:
                    index = self._stage_index(item.origin.text)
                    if index is not None and index < section.index:
                        needed.add(index)
        return bases

    def _base(self, section: _Section) -> _Base:
        """Return what *section* starts from.

        Raises:
            MistakeError: the name of the image or the platform is wrong.
        """
        start = section.start
        platform = self._options.platform
        if start.platform is not None:
            platform = self._global_word(start.platform)
            if not is_platform(platform):
                message = f"{shown(platform)} is not a platform"
                raise MistakeError(start.platform.span, message, PLATFORM_RULE)
        name = self._global_word(start.image)
        if not name:
            hint = "give the variable a default: ARG NAME=VALUE before the first FROM"
            raise MistakeError(start.image.span, "the name of the image is empty", hint)
        if name == SCRATCH_NAME:
            return _Base(Sources(), platform, SCRATCH)
        index = self._by_name.get(name.lower())
        if index is not None and index < section.index:
            recorded = (item for item in self._sections[index].items if isinstance(item, Onbuild))
            triggers = tuple(parse_trigger(item.trigger, f"the stage {name}") for item in recorded)
            return _Base(StageRef(index), platform, ImageConfig(), triggers)
        source = self._image(name, start.image, section)
        config = self._options.read_config(source, platform)
        triggers = tuple(parse_trigger(text, source) for text in config.triggers)
        return _Base(Sources((source,)), platform, config.as_base(), triggers)

    def _image(self, name: str, word: Word, section: _Section) -> str:
        try:
            return image_source(name, self._options.is_stored)
        except UnknownImageError as error:
            index = self._by_name.get(name.lower())
            if index is not None:
                line = self._file.source.place(self._sections[index].start.span).line
                where = "this stage itself" if index == section.index else f"a later stage, on line {line}"
                message = f"{shown(name)} is {where}"
                raise MistakeError(word.span, message, "a stage can use those before it only") from None
            before = [known for known, number in self._by_name.items() if number < section.index]
            meant = nearest(name, before)
            hint = f"did you mean the stage {meant}? else {error.hint}" if meant else error.hint
            raise MistakeError(word.span, error.message, hint) from None

    def _evaluate(self, bases: Mapping[int, _Base]) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        position: dict[int, int] = {}  # of a stage of the file among those of the plan
        arguments: dict[int, dict[str, str]] = {}
        for section in self._sections:
            base = bases.get(section.index)
            if base is None:
                continue
            config, inherited = base.config, {}
            origin, platform = base.origin, base.platform
            if isinstance(origin, StageRef):
                inherited = arguments[origin.index]
                origin = StageRef(position[origin.index])
                config = stages[origin.index].config.as_base()
                if section.start.platform is None:
                    platform = stages[origin.index].platform
            state = StageState(
                config,
                expander=self._expander,
                given=self._options.arguments,
                global_arguments=self._globals,
                inherited=inherited,
                find_origin=self._origin_finder(section, position),
            )
            steps = self._steps(state, base.triggers, section)
            arguments[section.index] = state.arguments
            position[section.index] = len(stages)
            name = section.start.name
            stages.append(Stage(name=name, base=origin, platform=platform, start=config, steps=steps))
        return tuple(stages)

    def _steps(
        self, state: StageState, triggers: tuple[Containerfile, ...], section: _Section
    ) -> tuple[Step, ...]:
        steps = []
        for file, items in (
            *((trigger, trigger.instructions) for trigger in triggers),
            (self._file, section.items),
        ):
            for item in items:
                try:
                    step = state.step(item, file.source)
                except MistakeError as mistake:
                    self._report(mistake, file)
                    continue
                if step is not None:
                    steps.append(step)
        return tuple(steps)

    def _origin_finder(self, section: _Section, position: Mapping[int, int]) -> Callable[[Word], Origin]:
        def find(word: Word) -> Origin:
            name = word.text
            index = self._stage_index(name)
            if index is not None and index in position:
                return StageRef(position[index])
            if index is not None or name.isdigit():
                where = "is not before this one" if index is not None else "does not exist"
                message = f"the stage {shown(name)} {where}"
                raise MistakeError(
                    word.span, message, "--from can name the stages before this one, and images"
                )
            if name == SCRATCH_NAME:
                raise MistakeError(word.span, "scratch has no files", "name a stage or an image")
            return Sources((self._image(name, word, section),))

        return find

    def _declared(self, bases: Mapping[int, _Base]) -> set[str]:
        """Return the names of all arguments that the file, or a trigger of a base, declares."""
        files = [self._file, *(trigger for base in bases.values() for trigger in base.triggers)]
        found = [item for file in files for item in file.instructions if isinstance(item, Arg)]
        return {name for item in found for name, _ in item.pairs}

    def _report(self, mistake: MistakeError, file: Containerfile | None = None) -> None:
        source = (file or self._file).source
        self._mistakes.append(source.diagnostic(mistake.span, mistake.message, mistake.hint))

    def _raise_mistakes(self) -> None:
        if self._mistakes:
            raise SpecError(sorted(self._mistakes, key=Diagnostic.sort_key)[:MAX_DIAGNOSTICS])


def _sections(file: Containerfile) -> tuple[list[Arg], list[_Section]]:
    """Return the ARG instructions before the first FROM, and the stages."""
    heads: list[Arg] = []
    starts: list[tuple[From, list[Instruction]]] = []
    for item in file.instructions:
        if isinstance(item, From):
            starts.append((item, []))
        elif starts:
            starts[-1][1].append(item)
        elif isinstance(item, Arg):
            heads.append(item)
    return heads, [_Section(index, start, tuple(items)) for index, (start, items) in enumerate(starts)]
