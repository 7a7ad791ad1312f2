"""Find the declaration of a key of the language by its path."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.spec.codecs import ListOf, TableOf
from sandbox.spec.decode import Record
from sandbox.spec.model import Spec
from sandbox.spec.notation import KeyPath
from sandbox.spec.settings import Codec, Setting, settings_of
from unionfs._stdlib.typing import Any

ANY_KEY = "NAME"
"""In the result of `keys`, stands for a key that the user chooses."""


def codec_at(path: KeyPath) -> Codec[Any] | None:
    """Return the codec of the value at *path*; None for the file itself, and if the language has no such key."""
    codec: Codec[Any] | None = _FILE
    for part in path:
        codec = codec.inside(part) if codec is not None else None
    return None if codec is _FILE else codec


def setting_at(path: KeyPath) -> Setting[Any] | None:
    """Return the declaration of the last key of *path*; None for an element of a list, and for an unknown key."""
    if not path or not isinstance(path[-1], str):
        return None
    around: Codec[Any] | None = codec_at(path[:-1]) if len(path) > 1 else _FILE
    return settings_of(around.cls).get(path[-1]) if isinstance(around, Record) else None


def is_enforced(path: KeyPath) -> bool:
    """Return whether this version enforces the setting at *path*: the setting and every table around it."""
    settings = [setting_at(path[:length]) for length in range(1, len(path) + 1)]
    return all(setting is None or setting.enforced for setting in settings)


def path_of(key: str) -> KeyPath:
    """Return the path of a key in the notation of `keys`, where NAME stays as it is and [] is the first element."""
    path: list[str | int] = []
    for part in key.split("."):
        path += [part.removesuffix("[]"), 0] if part.endswith("[]") else [part]
    return tuple(path)


def keys() -> list[str]:
    """Return every key of the language, as a path: "limits.memory", "volumes[].target", "networks.NAME.subnet"."""
    return [key for key, _ in declarations()]


def declarations(cls: type = Spec, prefix: str = "") -> Iterator[tuple[str, Setting[Any]]]:
    """Yield the keys of *cls* with their declarations, in the order of declaration; a table comes before its keys."""
    for name, setting in settings_of(cls).items():
        key = f"{prefix}{name}"
        yield key, setting
        codec: Codec[Any] | None = setting.codec
        while isinstance(codec, (ListOf, TableOf)):
            key += "[]" if isinstance(codec, ListOf) else f".{ANY_KEY}"
            codec = codec.codec
        if isinstance(codec, Record):
            yield from declarations(codec.cls, f"{key}.")


_FILE = Record(Spec)
