"""Finds the original of a changed object: the object of the layers below of which it is a copy.

A copy records the inode number of the copied object (upper/link_index.py). That object may be a copy itself, in an earlier
layer and with a record of its own. The chain ends at an object of the layers that were never writable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from unionfs.inode.numbers import InodeNumbers
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.objects import PathRef
from unionfs.layer.resolve import resolve
from unionfs.types import Ino, Mark
from unionfs.upper.link_records import LinkRecords


class Origins:
    """The records of the writable layer and of earlier ones. It borrows both."""

    def __init__(self, layers: Sequence[tuple[Layer, LinkRecords | None]], numbers: InodeNumbers) -> None:
        """Use the records of *layers*, top first; None for a layer whose records are missing or about other layers below."""
        self._layers = layers
        self._positions = {id(layer): position for position, (layer, _) in enumerate(layers)}
        self._numbers = numbers
        #: The recorded number of each object of an earlier layer, by its own number. A layer is read when it is first needed.
        self._recorded: dict[int, dict[Ino, Ino | None]] = {}

    def of(
        self,
        ref: PathRef,
        info: os.stat_result,
        below: Sequence[LayerDir],
        is_base: Callable[[Ino], bool],
    ) -> Ino | None:
        """Return the number of the object of which *ref*, with the attributes *info*, is a copy; None if it is not known.

        Args:
            ref: an object of one of the layers.
            info: its attributes.
            below: the parts of its directory in the layers below its own.
            is_base: returns whether a number is certainly that of an object that is in none of the layers. Then no other
                object is read.
        """
        position = self._positions[id(ref.layer)]
        number = self._origin(position, ref, info)
        if number is None or position + 1 == len(self._layers) or is_base(number):
            return number
        copied = self._at_same_place(ref, below)
        if copied is not None and self._numbers.number(_identity(copied[1])) == number:
            return self.of(*copied, is_base)
        for at in range(position + 1, len(self._layers)):
            found = self._recorded.get(at)
            if found is None:
                found = self._recorded[at] = self._read(at)
            if number in found:
                number = found[number]
                if number is None:
                    return None
        return number

    def _origin(self, position: int, ref: PathRef, info: os.stat_result) -> Ino | None:
        records = self._layers[position][1]
        return None if records is None else records.origin(ref, info)

    @staticmethod
    def _at_same_place(
        ref: PathRef, below: Sequence[LayerDir]
    ) -> tuple[PathRef, os.stat_result, Sequence[LayerDir]] | None:
        """Return the object that *ref* hides in an earlier layer, its attributes and the parts below; None for another one."""
        found = resolve(below, ref.name) if below else None
        if found is None or found.is_dir:
            return None
        top = found.sources[0]
        copied = below[top].entry(ref.name)
        return (copied, copied.info(), below[top + 1 :]) if copied.layer.earlier else None

    def _read(self, position: int) -> dict[Ino, Ino | None]:
        layer = self._layers[position][0]
        found: dict[Ino, Ino | None] = {}
        pending = [layer.root]
        while pending:
            directory = pending.pop()
            layer.fds.trim()
            try:
                names = list(directory.names())
            except PermissionError:
                continue  # closed even to its owner
            for name in names:
                mark = directory.mark(name)
                if mark is Mark.OTHER:
                    ref = directory.entry(name)
                    info = ref.info()
                    found[self._numbers.number(_identity(info))] = self._origin(position, ref, info)
                elif mark is not Mark.WHITEOUT:
                    pending.append(directory.child(name))
        return found


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
