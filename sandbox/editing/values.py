"""Compare values of tomllib, write them as TOML, and change trees of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sandbox.errors import EditError
from sandbox.spec.notation import INDENT, LONGEST_LINE, literal, text_literal


def same(one: object, other: object) -> bool:
    """Tell whether two values of tomllib are the same in TOML: 1, 1.0 and true differ, and nan equals nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    # repr() differs for -0.0 and 0.0, and is the same for every nan.
    return repr(one) == repr(other) if isinstance(one, float) else one == other


def texts(value: object) -> Iterator[str]:
    """Yield the strings in *value*, including keys."""
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
    """Return *value* as TOML, in the form for people, for a line with *before* characters before it.

    A string of several lines becomes a multi-line string. An array that does not fit into a line has one element to a line.
    """
    if isinstance(value, str):
        return text_literal(value)
    line = literal(value)
    if isinstance(value, list) and value and before + len(line) > LONGEST_LINE:
        return "[\n" + "".join(f"{INDENT}{literal(item)},\n" for item in value) + "]"
    return line


# --- trees, as tomllib gives them ---


class Missing:
    """The type of MISSING, which stands for an absent value."""

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
    """Return a copy of *tree* with *value* at *path*. Missing tables on the way are created, elements of arrays are not."""
    if not path:
        return value
    part, *rest = path
    if isinstance(part, int):
        return [tree_with(item, rest, value) if index == part else item for index, item in enumerate(tree)]
    return {**tree, part: tree_with(tree.get(part, {}), rest, value)}


def tree_without(tree: Any, path: Sequence[str | int]) -> Any:
    """Return a copy of *tree* without the value at *path*, which must exist."""
    part, *rest = path
    if isinstance(part, int):
        if not rest:
            return [item for index, item in enumerate(tree) if index != part]
        return [tree_without(item, rest) if index == part else item for index, item in enumerate(tree)]
    if not rest:
        return {key: item for key, item in tree.items() if key != part}
    return {key: tree_without(item, rest) if key == part else item for key, item in tree.items()}


def unexpected_result(name: str) -> EditError:
    """Return the error for a change of *name* whose result is not the requested one."""
    return EditError(
        f"{name}: the result of the change would differ from the request",
        hint=f"make the change with `sandbox edit {name}`, and report this error",
    )
