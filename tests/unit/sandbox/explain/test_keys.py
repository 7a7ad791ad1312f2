"""Test that the report covers every key of the language that a file sets."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import tomli_w
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.explain import make_report, render
from sandbox.explain.case import Case
from sandbox.explain.program import set_keys
from sandbox.explain.text import WIDTH, visible_length
from sandbox.host.paths import PathFact
from sandbox.kernel.cgroups import NoHierarchy
from sandbox.kernel.cgroups.v2 import V2Hierarchy
from sandbox.kernel.rlimits import RESOURCES
from sandbox.plan import host_paths
from sandbox.spec.load import parse
from sandbox.spec.lookup import declarations
from sandbox.spec.notation import format_key_path, parse_key_path
from tests.unit.sandbox.explain.machines import Machine, case, missing
from tests.unit.sandbox.facts import device, host
from tests.unit.sandbox.spec.examples import with_example

MACHINE = Machine(
    facts=host(
        cgroups=V2Hierarchy(
            directory="/sys/fs/cgroup/x",
            available=frozenset({"memory", "cpu", "pids", "cpuset", "io"}),
            enabled=frozenset(),
            processors="0-7",
        )
    ),
    environ={"HOME": "/home/user", "TERM": "xterm", "LANG": "C"},
    paths=(device("/dev/kvm"), PathFact(path="/specs", real="/specs", kind="directory", shared=True)),
)

#: Keys of which the example is the default, and what to write instead.
OTHER_THAN_THE_DEFAULT: Mapping[str, object] = {
    "process.init": False,
    "process.terminal": True,
    "security": {"no_new_privileges": False},
    "volumes[].mode": "0700",
}
#: There is one choice only, so that setting it changes nothing.
ONE_CHOICE = ("root.driver", "namespaces.mount")
#: What the file is put together from is gone by the time that it is explained; a profile is chosen or it is not.
PUT_TOGETHER = ("extends", "profile")

EXAMPLES = {
    key: with_example(key, setting, OTHER_THAN_THE_DEFAULT.get(key))
    for key, setting in declarations()
    if key not in PUT_TOGETHER
}


def told(text: str) -> object:
    """Return the facts of the report on *text* without the positions in the file; None for a wrong file.

    The plan is left out: it would tell of most keys even if the report did not.
    """
    try:
        report = make_report(case(text, MACHINE)).as_dict()
    except SpecError:
        return None
    return without_places({name: part for name, part in report.items() if name != "plan"})


def without_places(value: Any) -> object:
    """Return a JSON value without origins, positions and names of keys."""
    hidden = {"origin", "origins", "line", "column", "end_line", "end_column", "source_line", "keys"}
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items() if key not in hidden}
    return [without_places(item) for item in value] if isinstance(value, list) else value


def without(text: str, key: str) -> str:
    """Return the file *text* without *key*, which `with_example` added, and without a table that becomes empty."""
    tree = tomllib.loads(text)
    at: Any = tree
    *parents, last = key.split(".")
    for part in parents:
        at = at["web" if part == "NAME" else part.removesuffix("[]")]
        at = at[0] if part.endswith("[]") else at
    del at[last]
    return tomli_w.dumps({name: value for name, value in tree.items() if value != {}})


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_setting_a_key_changes_the_report(key: str) -> None:
    text = EXAMPLES[key]
    shown = told(text)
    assert shown is not None
    assert (shown == told(without(text, key))) == (key in ONE_CHOICE)
    subject = case(text, MACHINE)
    lines = {place.line for path in set_keys(subject) if (place := subject.spec.origin(path))}
    rendered = render(make_report(subject), everything=True)
    assert any(f"test.toml:{line}" in rendered for line in lines)


@given(st.sets(st.sampled_from(sorted(EXAMPLES)), max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_fact_covers_every_set_key(keys: set[str]) -> None:
    tree: dict[str, Any] = {}
    for key in keys:
        merge(tree, tomllib.loads(EXAMPLES[key]))
    merge(tree, {"root": {"layers": ["dir:/"]}})
    try:
        subject = case(tomli_w.dumps(tree), MACHINE)
    except SpecError:
        assume(False)  # settings that contradict each other
        raise
    assert unanswered(subject) == []


def unanswered(subject: Case) -> list[str]:
    """Return the keys that are set and that no fact of the report covers."""
    answered = {parse_key_path(key) for fact in make_report(subject).facts() for key in fact.keys}
    return [
        format_key_path(path)
        for path in set_keys(subject)
        if not any(path[:length] in answered for length in range(1, len(path) + 1))
    ]


def test_facts_cover_the_keys_of_profiles() -> None:
    subject = case('[root]\nlayers = ["dir:/"]\n[profile.a.limits]\npids = 3\n', MACHINE)
    assert unanswered(subject) == []
    assert "profile.a.limits.pids" in json.dumps(make_report(subject).as_dict())


def merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Merge *other* into *tree*; a list replaces the earlier one."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_a_report_can_be_made_if_no_path_exists(key: str) -> None:
    spec = parse(EXAMPLES[key].encode(), path="/specs/test.toml", environ=MACHINE.environ, unenforced="keep")
    poor = Machine(
        facts=host(
            fuse="missing",
            uid_ranges=(),
            cgroups=NoHierarchy(reason="there is none"),
            hard_limits=dict.fromkeys(RESOURCES, 0),
        ),
        paths=tuple(missing(path) for path in host_paths(spec)),
        environ=MACHINE.environ,
    )
    report = make_report(case(EXAMPLES[key], poor))
    assert report.refused
    assert unanswered(case(EXAMPLES[key], poor)) == []
    assert [
        line for line in render(report, everything=True).split("\n") if visible_length(line) > WIDTH
    ] == []
