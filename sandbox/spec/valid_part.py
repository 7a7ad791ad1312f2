"""Build a specification from the valid part of a file with mistakes, so that host checks of that part are reported, too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from sandbox.spec.notation import KeyPath, format_key_path, parse_key_path
from sandbox.spec.origin import Origin, Origins
from unionfs._stdlib import dataclasses
from unionfs._stdlib.typing import Any

_ROUNDS = 8
"""Limit of passes. Removing a wrong value can make another key wrong, which the next pass removes."""

_NO_LAYERS: tuple[KeyPath, ...] = (("root",), ("root", "layers"))
"""The paths at which a file without layers is reported."""
_OF_ALL_LAYERS: tuple[KeyPath, ...] = (("root", "server"), ("root", "native"))
"""Settings that can be refused because of all layers together."""

Decode = Callable[[dict[str, Any], Origins], tuple[Spec, list[KeyPath]]]
"""Decodes a tree; returns its specification, and the paths with mistakes."""


@dataclasses.dataclass(frozen=True, slots=True)
class ValidPart:
    """A specification without the wrong values, and the path in the file for each path of the specification."""

    spec: Spec
    names: Mapping[KeyPath, KeyPath]
    #: The removed paths, as paths of the file.
    left_out: tuple[KeyPath, ...]

    def in_file(self, found: Diagnostic) -> Diagnostic | None:
        """Return *found* with its key as in the file; None if a removed value is its cause, or may be."""
        path = parse_key_path(found.key) if found.key else ()
        length = next((n for n in range(len(path), 0, -1) if path[:n] in self.names), 0)
        path = (*self.names.get(path[:length], ()), *path[length:])
        if any(path[: len(gone)] == gone or gone[: len(path)] == path for gone in self.left_out):
            return None
        return dataclasses.replace(found, key=format_key_path(path))


def valid_part(
    tree: dict[str, Any], origins: Origins, mistakes: Collection[KeyPath], decode: Decode
) -> ValidPart | None:
    """Return the valid part of *tree* without the paths *mistakes*; None if it still has mistakes after all passes.

    A wrong element of a list is removed as a whole. If no layer is valid, the specification has no layers, and nothing is
    reported about its root.
    """
    left_out: list[KeyPath] = []
    names: Mapping[KeyPath, KeyPath] = _identity(tree, ())
    for _ in range(_ROUNDS):
        gone = {whole for path in mistakes if (whole := _whole(path, tree))}
        left_out += [names[path] for path in gone]
        by_path: dict[KeyPath, Origin] = {}
        kept: dict[KeyPath, KeyPath] = {}
        tree = _without(tree, (), (), gone, origins.by_path, by_path, kept)
        names = {new: names[old] for new, old in kept.items()}
        origins = Origins(origins.main, by_path)
        spec, problems = decode(tree, origins)
        mistakes = [path for path in problems if path not in _NO_LAYERS]
        if not mistakes:
            if problems:
                spec = dataclasses.replace(spec, root=dataclasses.replace(spec.root, layers=()))
                left_out.append(_NO_LAYERS[0])
            elif any(path[:2] == _NO_LAYERS[1] for path in left_out):
                left_out += _OF_ALL_LAYERS
            return ValidPart(spec, names, tuple(left_out))
    return None


def _identity(value: object, path: KeyPath) -> dict[KeyPath, KeyPath]:
    names = {path: path}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        names |= _identity(item, (*path, key))
    return names


def _whole(path: KeyPath, tree: object) -> KeyPath:
    """Return the path to remove for *path*: the outermost list element around it, or the existing part of it.

    Return () for a root whose layers are missing: there is nothing to remove.
    """
    value: Any = tree
    for length, part in enumerate(path):
        if isinstance(value, list):
            return path[: length + 1]
        if not isinstance(value, dict) or part not in value:
            return () if path in _NO_LAYERS else path[:length]
        value = value[part]
    return path


def _without(
    value: Any,
    old: KeyPath,
    new: KeyPath,
    gone: Collection[KeyPath],
    origins: Mapping[KeyPath, Origin],
    by_path: dict[KeyPath, Origin],
    names: dict[KeyPath, KeyPath],
) -> Any:
    """Return *value*, moved from path *old* to *new*, without the paths *gone*; record origins and names of the rest."""
    names[new] = old
    if old in origins:
        by_path[new] = origins[old]
    if isinstance(value, dict):
        return {
            key: _without(item, (*old, key), (*new, key), gone, origins, by_path, names)
            for key, item in value.items()
            if (*old, key) not in gone
        }
    if isinstance(value, list):
        left = [index for index in range(len(value)) if (*old, index) not in gone]
        return [
            _without(value[index], (*old, index), (*new, position), gone, origins, by_path, names)
            for position, index in enumerate(left)
        ]
    return value
