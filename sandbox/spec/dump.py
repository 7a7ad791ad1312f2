"""Write a specification as TOML: the meaning of a file after merging, expansion and decoding.

The text is itself an environment file. Parsed again from any directory, it gives an equal specification. Its paths are
absolute, its references are replaced, and its quantities have their usual form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sandbox.errors import SpecError
from sandbox.spec.codecs import ListOf, TableOf
from sandbox.spec.decode import Record
from sandbox.spec.model import NOT_IN_PROFILES, Spec
from sandbox.spec.notation import (
    INDENT,
    LONGEST_LINE,
    KeyPath,
    format_key,
    format_key_path,
    is_unicode,
    literal,
    text_literal,
    visible,
)
from sandbox.spec.origin import Place
from sandbox.spec.settings import Codec, attribute_of, settings_of
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

DEFAULT = "default"
"""Shown instead of a place for a value that no file sets."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the text: its values, and the tables in it.

    An `element` belongs to an array of tables. A `present` table was written itself; it is kept even if it is empty.
    """

    path: KeyPath
    element: bool
    present: bool
    values: tuple[Value, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """One key and its TOML value. `origins` is the place of the value or, for a list, of each element.

    None stands for a default.
    """

    path: KeyPath
    value: object
    origins: tuple[Place | None, ...]


def tables_of(spec: Spec, *, defaults: bool = False) -> tuple[Table, ...]:
    """Return the settings of *spec* as tables; with *defaults*, also those that the file does not set."""
    return _Dump(spec, defaults).record(Spec, spec, ()).tables


def tree_of(spec: Spec, *, defaults: bool = False) -> dict[str, Any]:
    """Return the settings of *spec* as tomllib would return them; with *defaults*, also those that the file does not set."""
    return _tree(_Dump(spec, defaults).record(Spec, spec, ()))


def text_of(spec: Spec, *, defaults: bool = False, origins: bool = False) -> str:
    """Return the settings of *spec* as TOML; with *origins*, a comment with file and line follows every value.

    Raises SpecError for a string that TOML cannot represent: an environment variable with bytes that are not UTF-8.
    """
    tables = list(_walk(tables_of(spec, defaults=defaults)))
    unwritable = [
        spec.diagnose(
            value.path, "contains bytes that are not UTF-8, which TOML cannot represent", "use --json"
        )
        for table in tables
        for value in table.values
        if not _is_unicode(value.value)
    ]
    if unwritable:
        raise SpecError(unwritable)
    blocks = [_block(table, origins=origins) for table in tables]
    return "\n".join(block for block in blocks if block)


def values_of(spec: Spec, *, defaults: bool = False) -> Iterator[Value]:
    """Yield every value that *spec* sets, with its place; with *defaults*, also the values that the file does not set."""
    for table in _walk(tables_of(spec, defaults=defaults)):
        yield from table.values


def place_text(place: Place | None) -> str:
    """Return *place* as it is shown: "FILE:LINE", "--set" for the command line, "default" for no place."""
    if place is None:
        return DEFAULT
    file = "".join(map(visible, place.file))
    return file if file.startswith("-") else f"{file}:{place.line}"


@dataclass(frozen=True, slots=True)
class _Dump:
    spec: Spec
    defaults: bool

    def record(self, cls: type, value: object, path: KeyPath, *, element: bool = False) -> Table:
        """Return the table of *value*, an object of *cls*."""
        items = {
            key: (setting.codec, item)
            for key, setting in settings_of(cls).items()
            if not (cls is Spec and key in NOT_IN_PROFILES)
            and (item := getattr(value, attribute_of(key))) is not None
            and self._is_shown((*path, key), enforced=setting.enforced)
        }
        return self._table(items, path, element=element)

    def _table(self, items: Mapping[str, tuple[Codec[Any], Any]], path: KeyPath, *, element: bool) -> Table:
        values: list[Value] = []
        tables: list[Table] = []
        for key, (codec, item) in items.items():
            here = (*path, key)
            if isinstance(codec, Record):
                tables.append(self.record(codec.cls, item, here))
            elif isinstance(codec, TableOf):
                inside = {name: (codec.codec, one) for name, one in item.items()}
                tables.append(self._table(inside, here, element=False))
            elif isinstance(codec, ListOf) and isinstance(codec.codec, Record) and item:
                cls = codec.codec.cls
                tables += [
                    self.record(cls, one, (*here, index), element=True) for index, one in enumerate(item)
                ]
            else:
                values.append(Value(here, _escaped(codec.encode(item)), self._origins(here, item)))
        present = element or self.spec.is_set(path)
        return Table(path, element, present, tuple(values), tuple(tables))

    def _is_shown(self, path: KeyPath, *, enforced: bool) -> bool:
        if self.spec.is_set(path):
            return True
        # A written key is a request, even with its default value: `up` would refuse a key that is not enforced.
        if not self.defaults or not enforced:
            return False
        # A setting that another setting replaces would contradict that one.
        if path == ("network", "mode"):
            return ":" not in self.spec.namespaces.net
        return path != ("ids", "map") or not self.spec.ids.uid_map

    def _origins(self, path: KeyPath, item: object) -> tuple[Place | None, ...]:
        if isinstance(item, tuple) and len(item) > 1:
            places = tuple(self.spec.origin((*path, index)) for index in range(len(item)))
            if None not in places and len({(place.file, place.line) for place in places if place}) > 1:
                return places
        return (self.spec.origin(path),)


def _escaped(value: object) -> object:
    """Return *value* with "${" escaped in its strings, so that they are no references."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return {key: _escaped(item) for key, item in value.items()} if isinstance(value, dict) else value


def _is_unicode(value: object) -> bool:
    """Return whether TOML can represent all strings of *value*."""
    if isinstance(value, str):
        return is_unicode(value)
    if isinstance(value, (list, dict)):
        return all(map(_is_unicode, value.values() if isinstance(value, dict) else value))
    return True


def _walk(tables: tuple[Table, ...]) -> Iterator[Table]:
    for table in tables:
        yield table
        yield from _walk(table.tables)


def _tree(table: Table) -> dict[str, Any]:
    tree: dict[str, Any] = {str(value.path[-1]): value.value for value in table.values}
    for inside in table.tables:
        if inside.element:
            tree.setdefault(str(inside.path[-2]), []).append(_tree(inside))
        elif inside.present or inside.values or inside.tables:
            tree[str(inside.path[-1])] = _tree(inside)
    return tree


# --- text ---


def _block(table: Table, *, origins: bool) -> str:
    """Return the text of *table* without its inner tables; "" if its header is not needed."""
    # The header of an element is needed even so: a [build.copy] below belongs to the last [[build]].
    if not table.element and not table.values and (table.tables or not table.present):
        return ""
    names = format_key_path(tuple(part for part in table.path if isinstance(part, str)))
    lines = [f"[[{names}]]" if table.element else f"[{names}]"]
    lines += [_line(value, origins=origins) for value in table.values]
    return "\n".join(lines) + "\n"


def _line(value: Value, *, origins: bool) -> str:
    key = format_key(str(value.path[-1]))
    comments = [f"  # {place_text(place)}" for place in value.origins] if origins else [""]
    text = f"{key} = {literal(value.value, string=text_literal)}"
    if not isinstance(value.value, list) or (len(text) <= LONGEST_LINE and len(comments) == 1):
        return text + comments[0]
    behind = comments if len(comments) > 1 else [""] * len(value.value)
    items = [literal(item, string=text_literal) for item in value.value]
    rows = [f"{INDENT}{item},{comment}" for item, comment in zip(items, behind, strict=True)]
    return "\n".join([f"{key} = [", *rows, f"]{comments[0] if len(comments) == 1 else ''}"])
