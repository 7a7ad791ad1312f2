"""The plan of an environment file with [[build]] steps."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.images.build.config import SCRATCH, ImageConfig
from sandbox.images.build.plan import BuildPlan, CopyFiles, MakeDirectory, RunCommand, Sources, StageRef
from sandbox.images.build.toml_build import plan_build
from sandbox.spec.load import parse
from tests.unit.sandbox.images.build.planning import BASE, options
from tests.unit.sandbox.images.build.planning import plan as plan_containerfile
from unionfs._stdlib.dataclasses import replace

ROOT = '[root]\nlayers = ["tar:base.tar"]\n'


def plan(text: str, arguments: dict[str, str] | None = None, *, target: str = "") -> BuildPlan:
    spec = parse(text.encode(), path="/p/f.toml", environ={}, unenforced="keep")
    return plan_build(spec, options(arguments, target=target, stored=("tools",)))


def test_a_command_and_a_copy_are_steps() -> None:
    found = plan(
        ROOT
        + """
[[build]]
run = "make"

[[build]]
run = ["make", "install"]
network = true

[[build]]
copy = { source = "./src/*.c", target = "/src/", owner = "1000:adm", mode = "0640" }

[[build]]
copy = { source = "/", target = "/all", from = "tools" }
"""
    )
    assert found.result.base == Sources(("tar:/p/base.tar",))
    assert [step.action for step in found.result.steps] == [
        RunCommand(command=("/bin/sh", "-c", "make", "sh"), env=SCRATCH.env),
        RunCommand(command=("make", "install"), env=SCRATCH.env, network="host"),
        CopyFiles(sources=("src/*.c",), target="/src/", owner="1000:adm", mode=0o640),
        CopyFiles(sources=("",), target="/all", origin=Sources(("image:tools",))),
    ]
    assert [step.text for step in found.result.steps] == [
        'run = "make"',
        'run = ["make", "install"]',
        'copy = { source = "./src/*.c", target = "/src/", owner = "1000:adm", mode = "0640" }',
        'copy = { source = "/", target = "/all", from = "tools" }',
    ]
    assert [step.place.line for step in found.result.steps] == [4, 7, 11, 14]


def test_settings_of_a_step_are_in_effect_for_it_and_for_later_ones() -> None:
    found = plan(
        ROOT
        + """
[[build]]
env = { A = "1" }
user = "u:g"
cwd = "/w"
labels = { l = "1" }
run = "one"

[[build]]
env = { A = "2", B = "$A" }

[[build]]
run = "two"
"""
    )
    actions = [step.action for step in found.result.steps]
    assert actions == [
        None,
        MakeDirectory("/w", "u:g"),
        RunCommand(command=("/bin/sh", "-c", "one", "sh"), env=(*SCRATCH.env, "A=1"), user="u:g", cwd="/w"),
        None,
        RunCommand(
            command=("/bin/sh", "-c", "two", "sh"), env=(*SCRATCH.env, "A=2", "B=$A"), user="u:g", cwd="/w"
        ),
    ]
    config = found.result.config
    assert (config.user, config.cwd, config.labels) == ("u:g", "/w", (("l", "1"),))


def test_arguments_reach_commands_and_not_the_image() -> None:
    text = ROOT + '[[build]]\narg = { A = "default", B = "b" }\n[[build]]\nrun = "x"\nenv = { B = "env" }\n'
    found = plan(text, {"A": "given", "TYPO": "x", "http_proxy": "p"})
    action = found.result.steps[-1].action
    assert isinstance(action, RunCommand)
    assert action.env == (*SCRATCH.env, "B=env", "A=given")
    assert found.result.config.env == (*SCRATCH.env, "B=env")
    assert found.unused_arguments == ("TYPO",)
    assert found.proxy_env == ("http_proxy=p",)


def test_the_topmost_image_gives_the_defaults() -> None:
    found = plan('[root]\nlayers = ["image:base", "tar:more.tar"]\n[[build]]\nrun = "x"\n')
    assert found.result.start == BASE
    assert found.result.base == Sources(("image:base", "tar:/p/more.tar"))


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        ("", {"command": ("base",), "cwd": "/home", "user": ""}),
        ('command = "x"\nargs = ["y"]', {"command": ("/bin/sh", "-c", "x", "sh", "y"), "entrypoint": None}),
        ('args = ["y"]', {"command": ("base", "y")}),
        (
            'user = "1:2"\ncwd = "/c"\nstop_signal = "SIGINT"',
            {"user": "1:2", "cwd": "/c", "stop_signal": "SIGINT"},
        ),
        ('env = { X = "new", Y = "1" }', {"env": ("PATH=/usr/bin:/bin", "X=new", "Y=1")}),
        ('user = 0\ncwd = "/"', {"user": "0", "cwd": "/"}),
    ],
)
def test_process_gives_the_defaults_of_the_image(process: str, expected: dict[str, object]) -> None:
    found = plan(f'[process]\n{process}\n[root]\nlayers = ["image:base"]\n').result.config
    assert {key: getattr(found, key) for key in expected} == expected


def test_a_command_drops_the_entrypoint_of_the_image() -> None:
    text = b'[process]\ncommand = ["x"]\n[root]\nlayers = ["image:base"]\n'
    spec = parse(text, path="/p/f.toml", environ={}, unenforced="keep")
    base = ImageConfig(entrypoint=("entry",), command=("base",))
    given = replace(options(), read_config=lambda _source, _platform: base)
    found = plan_build(spec, given).result
    assert (found.start.entrypoint, found.config.entrypoint, found.config.command) == (
        ("entry",),
        None,
        ("x",),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[root]\nlayers = ["dir:/srv"]\n',
            "f.toml:2:11: root.layers[0]: a directory is no layer of an image",
        ),
        ('[root]\nlayers = ["image:onbuild"]\n', "image:onbuild has ONBUILD instructions"),
        (
            ROOT + '[[build]]\ncopy = { source = "a", target = "/a", from = "busybox" }\n',
            'build[0].copy.from: "busybox" does not name a registry',
        ),
        (
            ROOT + '[[build]]\ncopy = { source = "[a", target = "/a" }\n',
            'build[0].copy.source: "[a" is malformed',
        ),
    ],
)
def test_a_mistake_is_reported_at_its_key(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(text)
    assert message in str(caught.value)
    assert "^" in str(caught.value)


def test_a_file_has_no_stages() -> None:
    with pytest.raises(SpecError, match='there is no stage "x"'):
        plan(ROOT, target="x")


def test_both_kinds_of_files_give_the_same_steps() -> None:
    toml = plan(
        ROOT
        + """
[[build]]
env = { A = "1" }
[[build]]
user = "u"
[[build]]
cwd = "/w"
[[build]]
run = ["make"]
[[build]]
copy = { source = "a", target = "/b", owner = "1:2", mode = "0600" }
[process]
command = ["x"]
"""
    )
    text = 'FROM scratch\nENV A=1\nUSER u\nWORKDIR /w\nRUN ["make"]\nCOPY --chown=1:2 --chmod=0600 a /b\nCMD ["x"]\n'
    other = plan_containerfile(text)
    assert [(step.action, step.config) for step in toml.result.steps] == [
        (step.action, step.config) for step in other.result.steps
    ]
    assert not isinstance(toml.result.base, StageRef)
