"""What is left of a file with mistakes: a specification of the rest, so that what the machine refuses of it is told with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from sandbox.spec.notation import KeyPath, format_key_path, parse_key_path
from sandbox.spec.origin import Origin, Origins
from unionfs._stdlib import dataclasses
from unionfs._stdlib.typing import Any

_ROUNDS = 8
"""How often what is left may have mistakes again, since a key needs one that was left out."""

_NO_LAYERS: tuple[KeyPath, ...] = (("root",), ("root", "layers"))
"""Where a file without layers is wrong."""
_OF_ALL_LAYERS: tuple[KeyPath, ...] = (("root", "server"), ("root", "native"))
"""Settings that are refused for what all layers together are."""

Decode = Callable[[dict[str, Any], Origins], tuple[Spec, list[KeyPath]]]
"""Decodes a tree; returns what it means, and the paths that are wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Remainder:
    """A specification without the values that are wrong, and which path of the file each of its paths was."""

    spec: Spec
    names: Mapping[KeyPath, KeyPath]
    #: The paths that are left out, in the file.
    left_out: tuple[KeyPath, ...]

    def in_file(self, found: Diagnostic) -> Diagnostic | None:
        """Return *found*, about the specification, as one about the file; None where a mistake is its cause, or may be."""
        path = parse_key_path(found.key) if found.key else ()
        length = next((n for n in range(len(path), 0, -1) if path[:n] in self.names), 0)
        path = (*self.names.get(path[:length], ()), *path[length:])
        if any(path[: len(gone)] == gone or gone[: len(path)] == path for gone in self.left_out):
            return None
        return dataclasses.replace(found, key=format_key_path(path))


def remainder(
    tree: dict[str, Any], origins: Origins, mistakes: Collection[KeyPath], decode: Decode
) -> Remainder | None:
    """Return what is left of *tree* without *mistakes*; None where that means nothing by itself.

    An element of a list goes as a whole. A file without a layer that is right has a root of none, about which nothing can be said.
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
            return Remainder(spec, names, tuple(left_out))
    return None


def _identity(value: object, path: KeyPath) -> dict[KeyPath, KeyPath]:
    names = {path: path}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        names |= _identity(item, (*path, key))
    return names


def _whole(path: KeyPath, tree: object) -> KeyPath:
    """Return the path of what has to go for *path*: the outermost element of a list around it, or what there is of it.

    Of a root whose layers are missing, nothing has to.
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
    """Return *value*, whose path was *old* and is *new*, without what is *gone*; fills in the origins and names of what stays."""
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
