"""Decides where earlier layers keep a change from being written to the layers below (`sandbox apply`).

An earlier layer never changes. If it has the redirect of a moved object, that redirect leads to nothing once the object has moved
in the layers below, too. If it has anything at the new path, that would hide the object there, or merge with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from unionfs.changes.merged_tree import VANISHED, Entry, MergedTree
from unionfs.changes.rows import MOVED, Row
from unionfs.layer.directory import Layer
from unionfs.types import Mark


class EarlierLayers:
    """The earlier layers of one stack. It borrows them and the union."""

    def __init__(self, layers: Sequence[Layer], union: MergedTree) -> None:
        """Examine *layers*, which are those of *union*."""
        self._layers = layers
        self._union = union

    def fix(self, row: Row) -> bool:
        """Return whether *row* is a move that cannot be repeated in the layers below, because an earlier layer is part of it.

        A copy with all its contents does not depend on the place of the old object, so it is never fixed.
        """
        if row.kind != MOVED or row.new is None:
            return False
        try:
            if not row.new.is_dir and self._union.metadata_copy_of(row.new) is None:
                return False
        except VANISHED:
            return False  # removed meanwhile
        return self.contribute(row.new) or not self.let_through(row.path)

    @staticmethod
    def contribute(entry: Entry) -> bool:
        """Return whether an earlier layer has *entry*, or a part of that directory."""
        return entry.ref.layer.earlier or any(part.layer.earlier for part in entry.parts)

    def let_through(self, path: bytes) -> bool:
        """Return whether the writable layer would merge with an object at *path* of the layers below, and with nothing else."""
        return not any(_covers(layer, path) for layer in self._layers)


def _covers(layer: Layer, path: bytes) -> bool:
    """Return whether *layer* has or hides anything at *path*."""
    directory = layer.root
    if directory.is_opaque():
        return True
    *above, last = path.split(b"/")
    for name in above:
        mark = directory.mark(name)
        if mark is None:
            return False
        directory = directory.child(name)
        if mark is not Mark.DIRECTORY or directory.is_opaque() or directory.redirected():
            return True
    return directory.mark(last) is not None
