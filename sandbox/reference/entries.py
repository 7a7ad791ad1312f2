"""Make the entries of the reference: one per key of the language, from its declaration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sandbox.spec.codecs import ListOf, TableOf
from sandbox.spec.decode import Record
from sandbox.spec.lookup import ANY_KEY, declarations, is_enforced, path_of
from sandbox.spec.model import Spec
from sandbox.spec.notation import format_key, literal
from sandbox.spec.settings import NOT_ENFORCED, Codec, Setting
from sandbox.spec.tables import Seccomp
from sandbox.spec.values import LayerTable, TimeOffsets
from unionfs._stdlib.dataclasses import dataclass

LAYER = "root.layers[]"
"""The key of a layer that is written as a table; the keys in that table are below it."""

_ALTERNATIVES: dict[str, type] = {
    LAYER: LayerTable,
    "namespaces.time": TimeOffsets,
    "security.seccomp": Seccomp,
}
"""Settings that may be a table instead of a string, with the class of the table."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key. `table` is the header above it in a file: "[limits]", "[[volumes]]", or "" at the top of the file.

    `value` describes the allowed values, `default` is TOML or None, `example` is a line of a file. A key with `is_table` has keys of its own.
    """

    key: str
    table: str
    doc: str
    value: str
    default: str | None
    example: str
    required: bool
    enforced: bool
    is_table: bool

    @property
    def note(self) -> str:
        """Return the note that this version does not enforce the key; "" for an enforced key."""
        return "" if self.enforced else f"{NOT_ENFORCED.capitalize()}: an error."

    @property
    def name(self) -> str:
        """Return the last part of the key."""
        return self.key.rpartition(".")[2]

    def as_dict(self) -> dict[str, object]:
        """Return the entry for JSON."""
        return {
            "key": self.key,
            "doc": self.doc,
            "value": self.value,
            "default": self.default,
            "example": self.example,
            "required": self.required,
            "enforced": self.enforced,
        }


def entries() -> list[Entry]:
    """Return the entry of every key of the language, tables before the keys in them."""
    found = []
    for key, setting in declarations(Spec):
        found.append(_entry(key, setting))
        for table in (key, f"{key}[]"):
            if table in _ALTERNATIVES:
                found += [
                    _entry(inside, one) for inside, one in declarations(_ALTERNATIVES[table], f"{table}.")
                ]
    return found


def _entry(key: str, setting: Setting[Any]) -> Entry:
    default = None if setting.default is None else literal(setting.codec.encode(setting.default))
    around, _, name = key.rpartition(".")
    unit = f" ({setting.unit})" if setting.unit not in (None, "octal", "bytes", "seconds") else ""
    return Entry(
        key=key,
        table=header_of(around),
        doc=setting.doc,
        value=setting.codec.describe() + unit,
        default=None if isinstance(setting.codec, Record) else default,
        example=f"{format_key(name)} = {literal(setting.example)}",
        required=setting.required,
        enforced=setting.enforced and _is_enforced_around(key),
        is_table=_contains_settings(setting.codec),
    )


def _is_enforced_around(key: str) -> bool:
    return key.startswith(f"{LAYER}.") or is_enforced(path_of(key))


def header_of(key: str) -> str:
    """Return the header of the table *key*, as `lookup.keys` writes keys: "[[volumes]]" for "volumes[]"."""
    if not key:
        return ""
    name = key.replace("[]", "")
    return f"[[{name}]]" if key.endswith("[]") else f"[{name}]"


def _contains_settings(codec: Codec[Any]) -> bool:
    while isinstance(codec, (ListOf, TableOf)):
        codec = codec.codec
    return isinstance(codec, Record)


def tables(found: list[Entry]) -> Iterator[tuple[str, Entry | None, list[Entry]]]:
    """Yield every table: its header, its own entry, and the entries of the keys in it. The top of the file comes last."""
    owners = {_table_key(entry): entry for entry in found if entry.is_table}
    headers = dict.fromkeys(entry.table for entry in found if entry.table)
    for header in [*headers, ""]:
        inside = [entry for entry in found if entry.table == header and not (header == "" and entry.is_table)]
        if inside:
            yield header, owners.get(header), inside


def _table_key(entry: Entry) -> str:
    """Return the header of the table that *entry* describes."""
    codec_text = entry.value
    if codec_text.startswith("array"):
        return f"[[{entry.key.replace('[]', '')}]]"
    if codec_text.startswith("table of"):
        return f"[{entry.key}.{ANY_KEY}]"
    return f"[{entry.key.replace('[]', '')}]"
