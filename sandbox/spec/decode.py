"""From the tree that tomllib gives to the objects of the model, reporting everything that is wrong on the way.

The one place that knows what a table may contain: unknown keys, missing keys, and keys of the language that this
version does not enforce.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from sandbox.spec.codecs import NOT_ENFORCED, ListOf, joined, mismatch
from sandbox.spec.notation import format_key, format_key_path, literal, nearest
from sandbox.spec.origin import MAX_DIAGNOSTICS
from sandbox.spec.settings import Codec, Cursor, Invalid, Setting, settings_of

T = TypeVar("T")


class Record(Codec[T]):
    """A table whose keys are the settings of a dataclass. An absent one is the same as an empty one."""

    expects = "table"
    toml_types = ("table",)

    def __init__(self, cls: type[T]) -> None:
        self.cls = cls

    def decode(self, value: object, cursor: Cursor, /) -> T:
        if not isinstance(value, dict):
            raise mismatch(self, value)
        return decode_table(self.cls, value, cursor)


def decode_table(cls: type[T], table: Mapping[str, object], cursor: Cursor, **given: object) -> T:
    """Return an object of *cls* made of the settings in *table* and of the fields *given*.

    Mistakes are reported to *cursor*; the result means something only where there is none.
    """
    settings = settings_of(cls)
    for key in table:
        if key not in settings:
            _report_unknown(key, settings, cursor)
    values = dict(given)
    for key, setting in settings.items():
        here = cursor.child(key)
        if key not in table:
            if isinstance(setting.codec, Record):
                values[key] = setting.codec.decode({}, here)
            elif setting.required:
                here.report(
                    "required, but missing", f"add {_example(key, setting)}{_to_table(cursor)}", part="key"
                )
                values[key] = None
            continue
        if not setting.enforced:
            here.report(NOT_ENFORCED, "remove it, or use a version that enforces it", part="key")
            continue
        try:
            values[key] = setting.codec.decode(table[key], here)
        except Invalid as error:
            hint = error.hint or f"for example: {_example(key, setting)}"
            here.report(error.message, hint, fragment=error.fragment)
            if setting.required:
                values[key] = None
    return cls(**cast("dict[str, Any]", values))


def _report_unknown(key: str, settings: Mapping[str, Setting[Any]], cursor: Cursor) -> None:
    # Looking for what was meant takes time that is noticed in a large file that is not meant for us at all.
    few = len(cursor.problems.found) < MAX_DIAGNOSTICS
    cursor.child(key).report("unknown key", _meant(key, settings, cursor) if few else None, part="key")


def _meant(key: str, settings: Mapping[str, Setting[Any]], cursor: Cursor) -> str:
    """Return the hint for an unknown *key*: a similar one, the table that has it, or what there is."""
    meant = nearest(key, settings)
    if meant is not None:
        return f"did you mean {format_key(meant)}?"
    homes = _tables_with(key, cursor.context.root) if cursor.context.root else []
    if homes:
        return f"{format_key(key)} belongs in {joined(homes)}"
    known = [name for name, setting in settings.items() if setting.enforced]
    return f"known keys: {', '.join(known)}"


def _tables_with(key: str, root: type) -> list[str]:
    """Return the headers of the tables of the language that have a setting *key*."""
    headers = []
    for name, setting in settings_of(root).items():
        codec: Codec[Any] = setting.codec
        array = isinstance(codec, ListOf)
        if isinstance(codec, ListOf):
            codec = codec.codec
        if isinstance(codec, Record) and key in settings_of(codec.cls):
            headers.append(f"[[{name}]]" if array else f"[{name}]")
    return headers


def _example(key: str, setting: Setting[Any]) -> str:
    return f"{key} = {literal(setting.example)}"


def _to_table(cursor: Cursor) -> str:
    if not cursor.path:
        return ""
    return " to this table" if isinstance(cursor.path[-1], int) else f" to [{format_key_path(cursor.path)}]"
