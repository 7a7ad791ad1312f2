"""Values, as tomllib gives them, as TOML text; and trees of them with a change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sandbox.errors import EditError
from sandbox.spec.notation import INDENT, LONGEST_LINE, literal, text_literal


def same(one: object, other: object) -> bool:
    """Tell whether two values of tomllib are the same TOML: 1, 1.0 and true differ, and nan is nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    # repr() tells -0.0 from 0.0, and calls every nan the same.
    return repr(one) == repr(other) if isinstance(one, float) else one == other


def texts(value: object) -> Iterator[str]:
    """Yield the strings in *value*, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)


def written(value: object, *, before: int = 0) -> str:
    """Return *value* as TOML, as a person would write it behind the *before* characters of its line.

    A text of several lines has them, and an array that does not fit into a line has one element to a line.
    """
    if isinstance(value, str):
        return text_literal(value)
    line = literal(value)
    if isinstance(value, list) and value and before + len(line) > LONGEST_LINE:
        return "[\n" + "".join(f"{INDENT}{literal(item)},\n" for item in value) + "]"
    return line


# --- trees, as tomllib gives them ---


class Missing:
    """The type of what is not there."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


def lookup(tree: Any, path: Sequence[str | int]) -> Any:
    """Return the value at *path* of *tree*, or MISSING."""
    for part in path:
        if isinstance(part, int):
            if not isinstance(tree, list) or part >= len(tree):
                return MISSING
        elif not isinstance(tree, dict) or part not in tree:
            return MISSING
        tree = tree[part]
    return tree


def tree_with(tree: Any, path: Sequence[str | int], value: object) -> Any:
    """Return *tree* with *value* at *path*; tables on the way are made, elements of arrays are not."""
    if not path:
        return value
    part, *rest = path
    if isinstance(part, int):
        return [tree_with(item, rest, value) if index == part else item for index, item in enumerate(tree)]
    return {**tree, part: tree_with(tree.get(part, {}), rest, value)}


def tree_without(tree: Any, path: Sequence[str | int]) -> Any:
    """Return *tree* without what is at *path*, which exists."""
    part, *rest = path
    if isinstance(part, int):
        if not rest:
            return [item for index, item in enumerate(tree) if index != part]
        return [tree_without(item, rest) if index == part else item for index, item in enumerate(tree)]
    if not rest:
        return {key: item for key, item in tree.items() if key != part}
    return {key: tree_without(item, rest) if key == part else item for key, item in tree.items()}


def unsafe(name: str) -> EditError:
    """Return the refusal to write a change of *name* that would say something else than what was asked for."""
    return EditError(
        f"{name}: the change would say something else than what was asked for",
        hint=f"make it by hand with `sandbox edit {name}`, and report this",
    )
