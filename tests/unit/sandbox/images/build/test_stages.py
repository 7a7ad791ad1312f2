"""Which stages are planned, which images are read, and how arguments and variables pass between them."""

from __future__ import annotations

import pytest

from sandbox.errors import ImageError, SpecError
from sandbox.images.build.config import ImageConfig
from sandbox.images.build.containerfile import parse
from sandbox.images.build.plan import CopyFiles, RunCommand, Sources, StageRef
from sandbox.images.build.stages import plan_build
from tests.unit.sandbox.images.build.planning import options, plan
from unionfs._stdlib.dataclasses import replace

THREE = """\
FROM docker.io/a/one AS one
RUN one
FROM docker.io/a/two AS two
RUN two
FROM docker.io/a/three AS Three
COPY --from=one /a /b
"""


def names(text: str, **given: str) -> list[str]:
    return [stage.name for stage in plan(text, **given).stages]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("", ["one", "three"]),
        ("three", ["one", "three"]),
        ("THREE", ["one", "three"]),
        ("2", ["one", "three"]),
        ("two", ["two"]),
        ("0", ["one"]),
    ],
)
def test_only_the_stages_that_the_target_needs_are_planned(target: str, expected: list[str]) -> None:
    assert names(THREE, target=target) == expected


@pytest.mark.parametrize(
    ("target", "hint"), [("thre", "did you mean three?"), ("3", "one, two, three"), ("x", "names of stages")]
)
def test_an_unknown_target_is_refused(target: str, hint: str) -> None:
    with pytest.raises(SpecError, match=f'there is no stage "{target}"') as caught:
        plan(THREE, target=target)
    assert hint in str(caught.value)


def test_images_of_other_stages_are_not_read() -> None:
    read = []

    def read_config(source: str, platform: str) -> ImageConfig:
        read.append((source, platform))
        return ImageConfig()

    file = parse(THREE.encode(), "f")
    plan_build(file, replace(options(target="two"), read_config=read_config))
    assert read == [("docker://docker.io/a/two", "linux/arm64/v8")]


def test_an_error_of_an_image_is_passed_on() -> None:
    def read_config(source: str, platform: str) -> ImageConfig:
        raise ImageError(f"{source}: gone", hint="look")

    with pytest.raises(ImageError, match=r"docker://docker\.io/a/three: gone"):
        plan_build(parse(THREE.encode(), "f"), replace(options(), read_config=read_config))


def test_a_chain_of_many_stages_is_planned() -> None:
    text = "FROM scratch AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(900))
    found = plan(text)
    assert len(found.stages) == 901
    assert found.result.base == StageRef(899)


def test_stages_have_numbers_too() -> None:
    found = plan("FROM docker.io/a/b\nFROM scratch\nCOPY --from=0 /a /b\n")
    action = found.result.steps[0].action
    assert isinstance(action, CopyFiles)
    assert action.origin == StageRef(0)


def test_a_stored_image_may_be_named_without_prefix() -> None:
    found = plan("FROM tools:1\nCOPY --from=more x y\n", stored=("tools:1", "more"))
    assert found.result.base == Sources(("image:tools:1",))
    action = found.result.steps[0].action
    assert isinstance(action, CopyFiles)
    assert action.origin == Sources(("image:more",))


def test_a_stage_has_precedence_over_a_stored_image() -> None:
    found = plan("FROM scratch AS tools\nFROM tools\n", stored=("tools",))
    assert found.result.base == StageRef(0)


def test_a_later_stage_of_the_same_name_leaves_a_stored_image_reachable() -> None:
    found = plan("FROM tools AS tools\n", stored=("tools",))
    assert found.result.base == Sources(("image:tools",))


def test_a_stage_has_the_platform_of_the_stage_that_it_starts_from() -> None:
    found = plan(
        "FROM --platform=linux/riscv64 scratch AS a\nFROM a\nFROM a AS c\nFROM --platform=$TARGETPLATFORM c\n"
    )
    assert [stage.platform for stage in found.stages] == ["linux/riscv64", "linux/riscv64", "linux/arm64/v8"]


def environment(text: str, arguments: dict[str, str] | None = None) -> dict[str, str]:
    """Return the variables of the last RUN of *text*, without those of the base."""
    action = plan(text, arguments).result.steps[-1].action
    assert isinstance(action, RunCommand)
    return {name: value for name, _, value in (item.partition("=") for item in action.env) if name != "PATH"}


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("FROM scratch\nARG A\nRUN x", {}, {}),
        ("FROM scratch\nARG A\nRUN x", {"A": "g"}, {"A": "g"}),
        ("FROM scratch\nARG A=d\nRUN x", {"A": "g"}, {"A": "g"}),
        ("FROM scratch\nARG A=d\nRUN x", {"A": ""}, {"A": ""}),
        ("FROM scratch\nRUN x", {"A": "g"}, {}),
        ("ARG A=top\nFROM scratch\nRUN x", {}, {}),
        ("ARG A=top\nFROM scratch\nARG A\nRUN x", {}, {"A": "top"}),
        ("ARG A=top\nFROM scratch\nARG A\nRUN x", {"A": "g"}, {"A": "g"}),
        ("ARG A=top\nFROM scratch\nARG A=own\nRUN x", {}, {"A": "own"}),
        ("ARG A=1\nARG B=$A$A\nFROM scratch\nARG B\nRUN x", {}, {"B": "11"}),
        ("FROM scratch\nARG A=1\nFROM scratch\nRUN x", {}, {}),
        ("FROM scratch AS a\nARG A=1\nFROM a\nRUN x", {}, {"A": "1"}),
        ("FROM scratch\nARG A=1\nENV A=2\nRUN x", {"A": "g"}, {"A": "2"}),
        ("FROM scratch\nENV A=2\nARG A=1\nRUN x", {"A": "g"}, {"A": "2"}),
        ("FROM scratch\nARG A=1\nENV B=$A\nRUN x", {}, {"A": "1", "B": "1"}),
        ("FROM scratch\nARG A=1\nARG A\nRUN x", {}, {"A": "1"}),
        ("FROM scratch\nARG A=1 B=$A\nRUN x", {}, {"A": "1", "B": "1"}),
        (
            "FROM scratch\nARG TARGETARCH\nARG BUILDPLATFORM\nRUN x",
            {},
            {"TARGETARCH": "arm64", "BUILDPLATFORM": "linux/amd64"},
        ),
        ("FROM scratch\nARG TARGETARCH\nRUN x", {"TARGETARCH": "mips"}, {"TARGETARCH": "mips"}),
        ("FROM scratch\nRUN x\nARG A=1\nRUN y", {}, {"A": "1"}),
        ("FROM scratch\nARG https_proxy\nRUN y", {"https_proxy": "p"}, {"https_proxy": "p"}),
        ("FROM scratch\nRUN y", {"https_proxy": "p"}, {}),
    ],
)
def test_a_command_has_the_arguments_in_scope(
    text: str, given: dict[str, str], expected: dict[str, str]
) -> None:
    assert environment(text, given) == expected


def test_arguments_are_not_part_of_the_image() -> None:
    assert (
        plan("FROM scratch\nARG A=secret\nRUN x").result.config.env == plan("FROM scratch").result.config.env
    )


def test_arguments_that_nothing_declares_are_returned() -> None:
    text = "ARG TOP\nFROM scratch AS a\nARG IN_A\nFROM scratch\n"
    given = dict.fromkeys(("TOP", "IN_A", "TARGETOS", "no_proxy", "TYPO", "ALSO"), "x")
    found = plan(text, given)
    assert found.unused_arguments == ("ALSO", "TYPO")
    assert found.proxy_env == ("no_proxy=x",)


def test_a_trigger_can_declare_an_argument() -> None:
    text = "FROM scratch AS a\nONBUILD ARG A\nFROM a\nRUN x\n"
    found = plan(text, {"A": "given"})
    assert environment(text, {"A": "given"}) == {"A": "given"}
    assert found.unused_arguments == ()


def test_a_trigger_with_a_mistake_names_the_image() -> None:
    def read_config(_source: str, _platform: str) -> ImageConfig:
        return ImageConfig(triggers=("COPY a",))

    with pytest.raises(
        SpecError, match=r"ONBUILD of docker://docker\.io/a/b:1:6: COPY needs a source and a target"
    ):
        plan_build(parse(b"FROM docker.io/a/b\n", "f"), replace(options(), read_config=read_config))


@pytest.mark.parametrize("trigger", ["", "FROM scratch", "RUN a\nRUN b", "ONBUILD RUN a", "# nothing"])
def test_a_trigger_that_is_not_one_instruction_is_refused(trigger: str) -> None:
    def read_config(_source: str, _platform: str) -> ImageConfig:
        return ImageConfig(triggers=(trigger,))

    with pytest.raises(SpecError, match=r"not one instruction|cannot record"):
        plan_build(parse(b"FROM docker.io/a/b\n", "f"), replace(options(), read_config=read_config))


def test_a_trigger_can_copy_from_a_stage_that_nothing_else_needs() -> None:
    def read_config(_source: str, _platform: str) -> ImageConfig:
        return ImageConfig(triggers=("COPY --from=data /a /b",))

    text = b"FROM scratch AS data\nRUN x\nFROM docker.io/a/b\n"
    found = plan_build(parse(text, "f"), replace(options(), read_config=read_config))
    assert [stage.name for stage in found.stages] == ["data", ""]
    action = found.result.steps[0].action
    assert isinstance(action, CopyFiles)
    assert action.origin == StageRef(0)
    assert found.result.config.triggers == ()


def test_a_stage_runs_the_triggers_of_the_stage_that_it_starts_from() -> None:
    found = plan("FROM scratch AS a\nENV A=1\nONBUILD RUN echo $A\nONBUILD LABEL l=$A\nFROM a AS b\nFROM b\n")
    assert [[step.text for step in stage.steps] for stage in found.stages] == [
        ["ENV A=1", "ONBUILD RUN echo $A", "ONBUILD LABEL l=$A"],
        ["RUN echo $A", "LABEL l=$A"],
        [],
    ]
    assert found.stages[0].config.triggers == ("RUN echo $A", "LABEL l=$A")
    assert found.stages[1].config.triggers == ()
    assert dict(found.result.config.labels) == {"l": "1"}


def test_values_that_double_do_not_exhaust_memory() -> None:
    text = "FROM scratch\nENV A=xxxxxxxx\n" + "ENV A=$A$A\n" * 60
    with pytest.raises(SpecError, match="longer than 131072 characters"):
        plan(text)


def test_the_text_of_a_step_has_no_value_of_an_argument() -> None:
    found = plan("FROM scratch\nARG TOKEN\nRUN use $TOKEN\nLABEL a=$TOKEN\n", {"TOKEN": "hunter2"})
    assert all("hunter2" not in step.text for step in found.result.steps)
