"""Decode the tree from tomllib into the objects of the model, and report every mistake found on the way.

Only this module checks what a table may contain. It reports unknown keys, missing keys, and keys of the language that
this version does not enforce.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from sandbox.spec.codecs.containers import APPEND, CHANGES, ListOf
from sandbox.spec.codecs.scalars import mismatch
from sandbox.spec.notation import format_key, format_key_path, joined, literal, nearest, type_name
from sandbox.spec.origin import MAX_DIAGNOSTICS
from sandbox.spec.settings import NOT_ENFORCED, Codec, Cursor, Invalid, Setting, attribute_of, settings_of
from unionfs._stdlib.typing import Any, TypeVar, cast

T = TypeVar("T")

_NO_CODECS: Mapping[str, Codec[Any]] = MappingProxyType({})


class Record(Codec[T]):
    """A table whose keys are the settings of a dataclass.

    *key* is the setting that identifies a table in a list: `{ remove = [...] }` takes its value.
    """

    expects = "table"
    toml_types = ("table",)

    def __init__(self, cls: type[T], *, key: str | None = None) -> None:
        self.cls = cls
        self.key = key

    def decode(self, value: object, cursor: Cursor, /) -> T:
        if not isinstance(value, dict):
            raise mismatch(self, value, self._hint() or _hint_for_table(value, cursor))
        return decode_table(self.cls, value, cursor)

    def _hint(self) -> str | None:
        """Return how to write an element of the list as an inline table; None without an identifying *key*."""
        if self.key is None:
            return None
        needed = [
            _example(key, setting) for key, setting in settings_of(self.cls).items() if setting.required
        ]
        return f"write a table, such as {{ {', '.join(needed)} }}"

    def encode(self, value: T, /) -> object:
        return {
            key: setting.codec.encode(item)
            for key, setting in settings_of(self.cls).items()
            if (item := getattr(value, attribute_of(key))) is not None
        }

    def schema(self) -> dict[str, object]:
        return table_schema(self.cls)

    def inside(self, key: str | int, /) -> Codec[Any] | None:
        setting = settings_of(self.cls).get(key) if isinstance(key, str) else None
        return setting.codec if setting else None

    def names(self, value: object, /) -> tuple[object, ...]:
        return (value, value[self.key]) if isinstance(value, dict) and self.key in value else (value,)


def table_schema(cls: type, *, partial: bool = False) -> dict[str, object]:
    """Return the JSON Schema of a table of *cls*; in a *partial* one no key is required."""
    settings = settings_of(cls)
    schema: dict[str, object] = {
        "type": "object",
        "properties": {key: _property(setting, partial=partial) for key, setting in settings.items()},
        "additionalProperties": False,
    }
    required = [key for key, setting in settings.items() if setting.required]
    return schema if partial or not required else schema | {"required": required}


def _property(setting: Setting[Any], *, partial: bool) -> dict[str, object]:
    description = setting.doc if setting.enforced else f"{setting.doc} {NOT_ENFORCED.capitalize()}: an error."
    annotations: dict[str, object] = {"description": description}
    default = None if setting.default is None else setting.codec.encode(setting.default)
    if default not in (None, {}, []):
        annotations["default"] = default
    if partial and isinstance(setting.codec, Record):
        return annotations | table_schema(setting.codec.cls, partial=True)
    return annotations | {"examples": [setting.example]} | setting.codec.schema()


def decode_table(
    cls: type[T],
    table: Mapping[str, object],
    cursor: Cursor,
    *,
    codecs: Mapping[str, Codec[Any]] = _NO_CODECS,
    **given: object,
) -> T:
    """Return an object of *cls* made of the settings in *table* and of the fields *given*.

    Mistakes are reported to *cursor*; the result is valid only if there are none. *codecs* replaces the codecs of settings
    whose meaning depends on another setting.
    """
    settings = settings_of(cls)
    misspelt = {
        _report_unknown(key, value, settings, cursor) for key, value in table.items() if key not in settings
    }
    values = dict(given)
    for key, setting in settings.items():
        here = cursor.child(key)
        codec = codecs.get(key, setting.codec)
        if key not in table:
            if isinstance(codec, Record) and (setting.required or setting.default is not None):
                values[key] = codec.decode({}, here)
            elif setting.required:
                if key not in misspelt:
                    _report_missing(key, setting, here, cursor)
                values[key] = None
            continue
        try:
            values[key] = codec.decode(table[key], here)
        except Invalid as error:
            _report_invalid(error, key, setting, here)
            if setting.required:
                values[key] = None
        if not setting.enforced and not cursor.problems.affects(here.path):
            here.unenforced(hint="remove it, or use a version that enforces it", part="key")
    return cls(**{attribute_of(key): cast("Any", value) for key, value in values.items()})


def check_partial(cls: type, table: Mapping[str, object], cursor: Cursor) -> None:
    """Report mistakes in *table* as a change to a table of *cls*: no key is required.

    Values with references are not checked: a variable may be unset where the change is not applied.
    """
    settings = settings_of(cls)
    for key, value in table.items():
        if key not in settings:
            _report_unknown(key, value, settings, cursor)
            continue
        setting, here = settings[key], cursor.child(key)
        if isinstance(setting.codec, Record) and isinstance(value, dict):
            check_partial(setting.codec.cls, value, here)
        elif not _contains_reference(value):
            try:
                for part, place in _elements(setting.codec, value, here):
                    setting.codec.decode(part, place)
            except Invalid as error:
                _report_invalid(error, key, setting, here)


def _elements(codec: Codec[Any], value: object, cursor: Cursor) -> Iterator[tuple[object, Cursor]]:
    """Yield the lists that *value* supplies for *codec*: *value* itself, or the elements that it appends."""
    if not is_change(codec, value):
        yield value, cursor
        return
    for key, part in cast("dict[str, object]", value).items():
        if key not in CHANGES:
            cursor.child(key).report("unknown key", f"known keys: {', '.join(sorted(CHANGES))}", part="key")
        elif not isinstance(part, list):
            cursor.child(key).report(f"expected array, found {type_name(part)}", "put it in brackets")
        elif key == APPEND and part:
            yield part, cursor.child(key)


def is_change(codec: Codec[Any], value: object) -> bool:
    """Return whether *value* is a table that changes the list that *codec* reads: `{ append = [...] }`."""
    return (
        isinstance(value, dict)
        and "array" in codec.toml_types
        and "table" not in codec.toml_types
        and not CHANGES.isdisjoint(value)
    )


def _contains_reference(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_contains_reference, value.values()))
    if isinstance(value, list):
        return any(map(_contains_reference, value))
    return isinstance(value, str) and "${" in value


def _report_missing(key: str, setting: Setting[Any], here: Cursor, table: Cursor) -> None:
    here.report("required, but missing", f"add {_example(key, setting)}{_to_table(table)}", part="key")


def _report_invalid(error: Invalid, key: str, setting: Setting[Any], here: Cursor) -> None:
    here.report(
        error.message, error.hint or f"for example: {_example(key, setting)}", fragment=error.fragment
    )


def _report_unknown(
    key: str, value: object, settings: Mapping[str, Setting[Any]], cursor: Cursor
) -> str | None:
    """Report the unknown *key*; return the setting that was probably meant."""
    # Searching for the meant key is noticeably slow for a large file that is no environment file at all.
    hint, meant = (
        _meaning(key, value, settings, cursor)
        if len(cursor.problems.found) < MAX_DIAGNOSTICS
        else (None, None)
    )
    cursor.child(key).report("unknown key", hint, part="key")
    return meant


def _meaning(
    key: str, value: object, settings: Mapping[str, Setting[Any]], cursor: Cursor
) -> tuple[str, str | None]:
    """Return the hint for the unknown *key*, and the setting of the same table that was probably meant."""
    from sandbox.spec import other_engines  # imported only to explain mistakes

    root = cursor.context.root
    where, *inside = cursor.path or ("",)
    if root and where == "profile" and len(inside) == 1 and inside[0] in settings_of(root):
        return f"the name of the profile is missing: [profile.NAME.{inside[0]}]", None
    above = other_engines.hint_for_misplaced_key(key, value, cursor.path, root) if root else None
    elsewhere = f"{key}s" in settings or (root and _tables_with(key, root))
    if root and above and isinstance(value, (dict, list)) and (_fits(key, value, root) or not elsewhere):
        return above, None
    if root and (known := other_engines.meaning_of_key(key, cursor.path, root)):
        return known
    if root and (homes := _tables_with(key, root)):
        return f"{format_key(key)} belongs in {joined(homes)}", None
    if meant := nearest(key, settings):
        return f"did you mean {format_key(meant)}?", meant
    enforced = [name for name, setting in settings.items() if setting.enforced]
    return above or f"known keys: {', '.join(enforced)}", None


def _fits(key: str, value: object, root: type) -> bool:
    """Return whether the top-level setting *key* takes values of the type of *value*."""
    setting = settings_of(root).get(key)
    return setting is not None and type_name(value) in setting.codec.toml_types


def _hint_for_table(value: object, cursor: Cursor) -> str | None:
    from sandbox.spec import other_engines  # imported only to explain mistakes

    return (
        other_engines.hint_for_table(value, cursor.path, cursor.context.root) if cursor.context.root else None
    )


def _tables_with(key: str, root: type) -> list[str]:
    """Return the headers of the tables of the language that have a setting *key*."""
    headers = []
    for name, setting in settings_of(root).items():
        codec: Codec[Any] = setting.codec
        if not setting.enforced:
            continue
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
