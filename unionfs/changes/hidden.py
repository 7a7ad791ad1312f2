"""Walks the writable layer and the layers below together: which old objects it hides, and which of them it has copies of."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from unionfs.changes.merged_tree import Entry, MergedTree, joined
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import PathRef
from unionfs.types import Mark


def hidden_in(
    below: MergedTree, directory: LayerDir, name: bytes, old: Entry, old_path: bytes
) -> Iterator[tuple[bytes, Entry]]:
    """Yield the non-directories at and below *old* that the writable layer hides or replaces, with their old paths.

    *old*, at *old_path* in the layers *below*, is what they have below *name* of *directory*, of the writable layer.
    """
    pending = [(directory, name, old, old_path)]
    while pending:
        parent, at, entry, path = pending.pop()
        mark = parent.mark(at)
        if mark is None:
            continue
        child = parent.child(at) if entry.is_dir and mark is Mark.DIRECTORY else None
        if child is None or child.is_opaque() or child.redirected() not in (None, b"/" + path):
            yield from names_in(below, entry, path)
            continue
        pending += [
            (child, inner, found, joined(path, inner))
            for inner in child.names()
            if (found := below.find(entry.parts, inner))
        ]


def names_in(
    below: MergedTree, old: Entry, old_path: bytes, holes: Collection[bytes] = ()
) -> Iterator[tuple[bytes, Entry]]:
    """Yield the non-directories at and below *old*, at *old_path* in the layers *below*, but for the paths *holes*."""
    pending = [(old_path, old)]
    while pending:
        path, entry = pending.pop()
        if not entry.is_dir:
            yield path, entry
            continue
        pending += [
            (joined(path, name), child)
            for name in below.names(entry.parts)
            if joined(path, name) not in holes and (child := below.find(entry.parts, name))
        ]


def copies_in(
    below: MergedTree, directory: LayerDir, name: bytes, old: Entry
) -> Iterator[tuple[PathRef, Entry]]:
    """Yield the non-directories of the writable layer at and below *name* of *directory*, where the layers *below* have *old*,
    that are at the path of an old one, and that one.
    """
    pending = [(directory, name, old)]
    while pending:
        parent, at, entry = pending.pop()
        mark = parent.mark(at)
        if mark is Mark.OTHER and not entry.is_dir:
            yield parent.entry(at), entry
        elif mark in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY) and entry.is_dir:
            child = parent.child(at)
            pending += [
                (child, inner, found) for inner in child.names() if (found := below.find(entry.parts, inner))
            ]
