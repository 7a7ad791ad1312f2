"""Rows of changes as JSON values, for the launcher and for other programs.

Each value has ``kind``, ``path``, ``type`` and ``size``, and of a moved object ``from``. Paths begin with a slash; a byte that is
not UTF-8 is a surrogate (PEP 383), which JSON escapes.

With ``facts``, a value also has what a program needs that writes the change to a directory below: ``mode``, ``uid`` and ``gid``
as the mount shows them, whether the object has ``capabilities``, and ``old``, the object of the layers below:

* ``path``, ``layer`` (0 is the topmost of the lower layers that were never writable), ``ino``, ``mode``, ``size``, ``mtime`` and ``ctime`` (nanoseconds), as
  stat(2) reports them now;
* ``since``: "same" if it is still what the server met when the writable layer first hid or copied it; "touched" if only its
  status change time differs; "changed"; "unknown" if the work directory has no records.

An old object that is gone by now has ``since`` "gone" and nothing else but its path.

A moved object also has ``replaced`` if the layers below have another object at its path: a list of values like ``old``, of that
object and, if it is a directory, of everything below it that has no row of its own.
"""

from __future__ import annotations

import os
import stat

from unionfs._stdlib.typing import Any
from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.merged_tree import VANISHED, Entry
from unionfs.changes.rows import DELETED, MOVED, Row

VERSION = 1
_TYPES = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character-device", stat.S_IFBLK: "block-device",
}  # fmt: skip
_CAPABILITY = "security.capability"


def as_value(row: Row) -> dict[str, Any]:
    """Return *row* as a JSON value, without facts."""
    entry = row.new or row.old
    assert entry is not None
    value: dict[str, Any] = {"kind": row.kind, "path": shown(row.path)}
    if row.kind == MOVED and row.old_path is not None:
        value["from"] = shown(row.old_path)
    value["type"] = type_of(entry)
    value["size"] = 0 if entry.is_dir else entry.info.st_size
    return value


def shown(path: bytes) -> str:
    """Return *path* with a leading slash, as text."""
    return "/" + path.decode(errors="surrogateescape")


def type_of(entry: Entry) -> str:
    """Return the type of *entry* in a word."""
    return _TYPES[stat.S_IFMT(entry.mode)]


class Facts:
    """Adds facts to values. It borrows the stack."""

    def __init__(self, stack: ComparedStack) -> None:
        """Describe rows of *stack*."""
        self._union = stack.union
        self._below = stack.below
        self._recorded = stack.facts
        self._moves_below = stack.moves_below
        base = [layer for layer in stack.layers if not layer.has_changes]
        self._layers = {id(layer): position for position, layer in enumerate(base)}

    def of(self, row: Row) -> dict[str, Any]:
        """Return *row* as a JSON value with facts."""
        value = as_value(row)
        entry = row.new or row.old
        assert entry is not None
        value |= {"mode": stat.S_IMODE(entry.mode), "uid": entry.uid, "gid": entry.gid}
        if row.kind != DELETED and entry.is_file:
            value["capabilities"] = self._has_capabilities(entry)
        old = self._old(row)
        if old is not None:
            value["old"] = old
        if row.replaced:
            value["replaced"] = [self._facts(path, entry) for path, entry in row.replaced]
        return value

    def _has_capabilities(self, entry: Entry) -> bool:
        try:
            return _CAPABILITY in self._union.attributes(entry)
        except VANISHED:
            return False  # removed meanwhile

    def _old(self, row: Row) -> dict[str, Any] | None:
        if row.old is None or row.old_path is None:
            # A record of an object that was moved away below is not about this path any more.
            recorded = (
                self._recorded is not None
                and not self._moves_below.has_left(row.path)
                and self._recorded.at(row.path, None) is not None
            )
            # An object that the layers below still have at the path has moved in the union.
            gone = recorded and self._below.at(row.path) is None
            return {"path": shown(row.path), "since": "gone"} if gone else None
        return self._facts(row.old_path, row.old)

    def _facts(self, path: bytes, entry: Entry) -> dict[str, Any]:
        info = entry.info
        return {
            "path": shown(path),
            "layer": self._layers[id(entry.ref.layer)],
            "ino": info.st_ino,
            "mode": info.st_mode,
            "size": info.st_size,
            "mtime": info.st_mtime_ns,
            "ctime": info.st_ctime_ns,
            "since": self._since(path, info),
        }

    def _since(self, path: bytes, info: os.stat_result) -> str:
        if self._recorded is None:
            return "unknown"
        fact = self._recorded.at(path, info)
        return "changed" if fact is None else fact.compare(info)
