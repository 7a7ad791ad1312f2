"""Unified diffs of text files, for rows of changes."""

from __future__ import annotations

import os

from unionfs._stdlib.typing import Any
from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.merged_tree import GONE, Entry, MergedTree
from unionfs.changes.rows import ADDED, CHANGED, DELETED, MOVED, Row

#: Larger files (in bytes) are reported as such: comparing them line by line may take minutes.
LARGEST = 1 << 20


class TextDiffs:
    """Compares contents of files. It borrows the stack."""

    def __init__(self, stack: ComparedStack) -> None:
        """Compare files of *stack*."""
        self._union = stack.union
        self._below = stack.below

    def of(self, row: Row) -> dict[str, Any]:
        """Return what to add to the value of *row*: "diff", a list of lines, or "contents", why there is none."""
        new = row.new if row.kind in (ADDED, CHANGED) and row.new is not None and row.new.is_file else None
        old = row.old if row.kind in (CHANGED, DELETED) and row.old is not None and row.old.is_file else None
        if row.kind == MOVED or (new is None and old is None):
            return {}
        try:
            after, before = _contents(self._union, new), _contents(self._below, old)
        except OSError as error:
            if error.errno in GONE:
                return {}
            raise
        if after is None or before is None:
            return {"contents": "large"}
        if b"\0" in after or b"\0" in before:
            return {} if after == before else {"contents": "binary"}
        import difflib

        lines = difflib.unified_diff(_lines(before), _lines(after), lineterm="")
        return {"diff": list(lines)[2:]}


def _contents(tree: MergedTree, entry: Entry | None) -> bytes | None:
    """Return the contents of *entry*, nothing for None; None if there are too many."""
    if entry is None:
        return b""
    if entry.info.st_size > LARGEST:
        return None
    with tree.open(entry) as file:
        contents = file.read(LARGEST + 1, 0)
    return contents if len(contents) <= LARGEST else None


def _lines(contents: bytes) -> list[str]:
    lines = os.fsdecode(contents).split("\n")
    if lines[-1] == "":
        return lines[:-1]
    return [*lines[:-1], lines[-1] + "\n\\ No newline at end of file"]
