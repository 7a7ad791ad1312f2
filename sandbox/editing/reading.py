"""Read the contents of one environment file, without the files that it extends and without defaults: `sandbox get`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from sandbox.editing.document import Document
from sandbox.editing.placement import inside_profile
from sandbox.editing.replace import read_original
from sandbox.errors import EditError
from sandbox.spec.load import MAX_FILE_SIZE, STDIN
from sandbox.spec.lookup import codec_at, keys, setting_at
from sandbox.spec.notation import KeyPath, format_key_path, literal, nearest


def read_document(name: str) -> Document:
    """Return the document in the file *name*, or on standard input if that is "-". Raises EditError or SpecError."""
    if name != STDIN:
        return Document(read_original(name).data, name)
    return Document(read_input(), "<stdin>")


def read_input() -> bytes:
    """Return the data on standard input. Raises EditError when it is larger than an environment file may be."""
    data = sys.stdin.buffer.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise EditError("<stdin>: the file is larger than 1 MiB", hint="give the path of an environment file")
    return data


def leaves(tree: dict[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Yield the path and value of each value in *tree*, except tables that are not empty."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def unset_note(document: Document, path: KeyPath) -> str:
    """Return the note for *path*, which has no value in the file. Raises EditError when the language has no such key."""
    key = format_key_path(path)
    inside = inside_profile(path)
    if inside and codec_at(inside) is None:
        meant = nearest(key, keys())
        hint = f"did you mean {meant}?" if meant else "`sandbox reference` lists the keys"
        raise EditError(f"the language has no key {key}", hint=hint)
    note = f"{document.name}: {key} is not set"
    setting = setting_at(inside)
    if inside != path or setting is None or "extends" in document.tree:
        return note
    if setting.required:
        return f"{note}, and is required"
    default = None if setting.default is None else setting.codec.encode(setting.default)
    if isinstance(default, dict) or default is None:
        return note
    return f"{note}; its default is {literal(default)}"
