"""Compare composition with a model that uses plain dictionaries without positions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.spec import load
from sandbox.spec.dump import tree_of

WORDS = st.sampled_from(["a", "b", "c"])
LISTS = st.lists(WORDS, max_size=3)
VOLUMES = st.lists(WORDS.map(lambda name: {"type": "tmpfs", "target": f"/{name}"}), max_size=2)


def change(lists: st.SearchStrategy[Any], names: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {}, optional={"append": lists, "remove": st.lists(names, max_size=1)}
    ).filter(bool)


ARGS = st.one_of(LISTS, change(LISTS, WORDS))
TARGETS = st.one_of(VOLUMES, change(VOLUMES, WORDS.map("/{}".format)))
TREE = st.fixed_dictionaries(
    {},
    optional={
        "limits": st.dictionaries(
            st.sampled_from(["pids", "open_files", "cpu_weight"]), st.integers(1, 9), max_size=2
        ),
        "process": st.fixed_dictionaries(
            {},
            optional={"args": ARGS, "env": st.dictionaries(WORDS, WORDS, max_size=2), "cwd": st.just("/x")},
        ),
        "volumes": TARGETS,
    },
)
FILE = st.tuples(TREE, st.dictionaries(st.sampled_from(["p", "q"]), TREE, max_size=2))


class Refused(Exception):
    """An element to remove does not exist, or two volumes have the same target."""


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return *over* merged over *under*; changes of lists that are not known yet are kept."""
    result = copy.deepcopy(under)
    for key, value in over.items():
        before = result.get(key)
        if is_change(value) and isinstance(before, list):
            result[key] = changed(before, value)
        elif is_change(value) and is_change(before):
            both = {**before, **value}
            for name in ("append", "remove"):
                if name in before and name in value:
                    both[name] = [*before[name], *value[name]]
            result[key] = both
        elif isinstance(value, dict) and isinstance(before, dict) and not is_change(before):
            result[key] = merged(before, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def is_change(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and set(value) <= {"append", "remove"}


def changed(items: list[Any], change: dict[str, Any]) -> list[Any]:
    result = list(items)
    for name in change.get("remove", []):
        left = [item for item in result if name not in (item, isinstance(item, dict) and item["target"])]
        if len(left) == len(result):
            raise Refused
        result = left
    return result + change.get("append", [])


def settled(tree: dict[str, Any]) -> dict[str, Any]:
    """Return *tree* with the remaining changes applied to empty lists, and without empty tables."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if is_change(value):
            result[key] = changed([], value)
        elif isinstance(value, dict):
            result[key] = settled(value)
        else:
            result[key] = value
    targets = [volume["target"] for volume in result.get("volumes", [])]
    if len(set(targets)) != len(targets):
        raise Refused
    return result


def model(files: list[tuple[dict[str, Any], dict[str, Any]]], profiles: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for body, tables in files:
        tree = merged(tree, body)
        known = merged(known, tables)
    for name in profiles:
        tree = merged(tree, known[name])
    return settled(tree)


def without_empty(tree: Any) -> Any:
    """Return *tree* without empty tables and lists, which have no meaning here."""
    if not isinstance(tree, dict):
        return tree
    inside = {key: without_empty(value) for key, value in tree.items()}
    return {key: value for key, value in inside.items() if value not in ({}, [])}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(FILE, min_size=1, max_size=4), chosen=st.lists(st.sampled_from(["p", "q"]), max_size=2))
def test_files_add_up_as_the_model_says(
    files: list[tuple[dict[str, Any], dict[str, Any]]],
    chosen: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory: Path = tmp_path_factory.mktemp("compose")
    for number, (body, tables) in enumerate(files):
        extends = {"extends": f"{number - 1}.toml"} if number else {}
        start = {} if number else {"root": {"layers": ["dir:/"]}}
        (directory / f"{number}.toml").write_text(
            tomli_w.dumps({**extends, **start, **body, "profile": tables})
        )
    known = {name for _, tables in files for name in tables}
    profiles = [name for name in chosen if name in known]
    main = str(directory / f"{len(files) - 1}.toml")
    try:
        expected = model(files, profiles)
    except Refused:
        with pytest.raises(SpecError, match=r"is not in the list|is already the target"):
            load(main, environ={}, profiles=profiles)
        return
    tree = tree_of(load(main, environ={}, profiles=profiles))
    assert tree.pop("root") == {"layers": ["dir:/"]}
    assert without_empty(tree) == without_empty(expected)
