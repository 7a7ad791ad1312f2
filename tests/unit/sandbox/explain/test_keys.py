"""Nothing that a file says is left out of the report, whatever key of the language it sets."""

from __future__ import annotations

import json
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
from sandbox.kernel.cgroups.v2 import V2Hierarchy
from sandbox.spec.decode import Record
from sandbox.spec.lookup import ANY_KEY, codec_at, declarations
from sandbox.spec.lookup import path_of as path_in_the_reference
from sandbox.spec.notation import KeyPath, format_key_path, parse_key_path
from sandbox.spec.settings import settings_of
from tests.unit.sandbox.explain.machines import Machine, case
from tests.unit.sandbox.facts import host

MACHINE = Machine(
    facts=host(
        cgroups=V2Hierarchy(
            directory="/sys/fs/cgroup/x", available=frozenset({"memory", "cpu", "pids"}), enabled=frozenset()
        )
    ),
    environ={"HOME": "/home/user", "TERM": "xterm", "LANG": "C"},
)

#: What has to stand beside a key for it to mean something, and examples that are no default.
BESIDE: Mapping[str, Mapping[str, object]] = {
    "ids.uid_map": {"ids.gid_map": [{"inside": 0, "outside": 100000, "count": 65536}]},
    "ids.gid_map": {"ids.uid_map": [{"inside": 0, "outside": 100000, "count": 65536}]},
    "limits.swap": {"limits.memory": "1G"},
    "network.networks": {"networks.backend": {}},
    "process.init": {"process.init": False},
    "root.driver": {},
    "volumes[].content": {"volumes[0].type": "file"},
    "volumes[].mode": {"volumes[0].type": "tmpfs", "volumes[0].mode": "0700"},
    "volumes[].size": {"volumes[0].type": "tmpfs"},
    "volumes[].type": {"volumes[0].type": "tmpfs"},
    "sandboxes.NAME.depends_on": {"sandboxes.db": {"file": "db.toml"}},
    "restart.max": {"restart.policy": "always"},
    "restart.delay": {"restart.policy": "always"},
    "build[].target": {"build[0].copy": "./src"},
    "build[].copy": {"build[0].target": "/src"},
    "build[].network": {"build[0].run": "make"},
}  # fmt: skip

#: Keys of which the example is what holds anyhow, so that setting them changes nothing.
SAME_AS_DEFAULT = {"root.driver", "volumes[].source"}
#: What lies outside of the sandbox that is described: it is put together with the file, or chosen from it, before.
NOT_OF_THE_RESULT = ("extends", "profile")


def path_of(key: str) -> KeyPath:
    """Return the path of *key*, with a name that anything may have."""
    return tuple("name" if part == ANY_KEY else part for part in path_in_the_reference(key))


def tree_with(key: str, example: object) -> dict[str, Any]:
    """Return a file that sets *key*, with what is required beside it."""
    tree: dict[str, Any] = {}
    put(tree, ("root", "layers"), ["dir:/"])
    path = path_of(key)
    for length in range(1, len(path) + 1):
        codec = codec_at(path[:length]) if length < len(path) else None
        if isinstance(codec, Record):
            for name, setting in settings_of(codec.cls).items():
                if setting.required and (*path[:length], name) != ("root", "layers"):
                    put(tree, (*path[:length], name), setting.example)
    if key.startswith("volumes[].") and "type" not in BESIDE.get(key, {}):
        put(tree, ("volumes", 0, "source"), "./src")
    put(tree, path, example)
    for other, value in BESIDE.get(key, {}).items():
        put(tree, parse_key_path(other), value)
        if value in ("tmpfs", "file"):
            tree["volumes"][0].pop("source", None)
    if key.startswith("build[].") and key.endswith(("copy", "target")):
        tree["build"][0].pop("run", None)
    return tree


def put(tree: dict[str, Any], path: KeyPath, value: object) -> None:
    """Set *path* in *tree*, making the tables and lists around it."""
    at: Any = tree
    for part, following in zip(path, (*path[1:], None), strict=True):
        new: Any = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(at, list):
            assert isinstance(part, int)
            if part >= len(at):
                at.append(new)
            elif following is None:
                at[part] = new
        elif following is None or part not in at:
            at[part] = new
        at = at[part]


def case_of(tree: Mapping[str, Any]) -> Case:
    """Return the case of the file that *tree* makes."""
    return case(tomli_w.dumps(tree), MACHINE)


def told(tree: Mapping[str, Any]) -> str:
    """Return all that the report tells but where things are written."""
    whole = make_report(case_of(tree)).as_dict()
    return json.dumps(whole, default=str, sort_keys=True)


def without_places(text: str) -> object:
    """Return the JSON *text* without origins, places and names of keys."""
    hidden = {"origin", "origins", "line", "column", "end_line", "end_column", "source_line", "keys"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in hidden}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(json.loads(text))


EXAMPLES = {
    key: setting.example
    for key, setting in declarations()
    if key.split(".")[0] not in NOT_OF_THE_RESULT and key != "root.layers"
}


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_setting_a_key_shows_in_the_report(key: str) -> None:
    tree = tree_with(key, EXAMPLES[key])
    path = path_of(key)
    before = tree_with(key, EXAMPLES[key])
    at: Any = before
    for part in path[:-1]:
        at = at[part]
    removed = at.pop(path[-1])
    shown = render(make_report(case_of(tree)))
    if key not in SAME_AS_DEFAULT and not isinstance(removed, dict):
        try:
            other = told(before)
        except SpecError:
            other = "null"  # it is required
        assert without_places(told(tree)) != without_places(other)
    lines = {place.line for item in set_keys(case_of(tree)) if (place := case_of(tree).spec.origin(item))}
    assert any(f"test.toml:{line}" in shown for line in lines)


@given(st.sets(st.sampled_from(sorted(EXAMPLES)), max_size=6))
@settings(max_examples=150, deadline=None)
def test_every_set_key_is_answered_for_by_a_fact(keys: set[str]) -> None:
    tree: dict[str, Any] = {}
    for key in keys:
        merge(tree, tree_with(key, EXAMPLES[key]))
    put(tree, ("root", "layers"), ["dir:/"])
    try:
        subject = case_of(tree)
    except SpecError:
        assume(False)
        raise
    report = make_report(subject)
    answered = {parse_key_path(key) for fact in report.facts() for key in fact.keys}
    missing = [
        format_key_path(path)
        for path in set_keys(subject)
        if not any(path[:length] in answered for length in range(1, len(path) + 1))
    ]
    assert missing == []


def merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Add *other* to *tree*; of lists the later one stays."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value
