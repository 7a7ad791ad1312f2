"""Refuses to discard changes of an earlier layer, because that layer never changes again.

The changes of the sandbox are those of the writable layer and of the earlier ones. Only those that the writable layer alone made
can be discarded: compared with the earlier layers, it must have the same changes at the chosen paths as compared with the layers
below these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from unionfs._stdlib.dataclasses import replace
from unionfs.assemble import StackSource
from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.comparison import Comparison
from unionfs.changes.merged_tree import MergedTree
from unionfs.changes.rows import DELETED, MOVED, Row
from unionfs.changes.selection import Selection, Unfinished, printable
from unionfs.errors import UnionError
from unionfs.upper.format import upper_policy


def without_earlier(source: StackSource) -> StackSource:
    """Return *source* with its earlier layers as ordinary lower ones, read in the same way."""
    return replace(
        source,
        lowers=tuple(
            replace(
                lower,
                earlier=False,
                work_fd=None,
                policy=upper_policy(lower.fd, source.form, shared=False),
            )
            if lower.earlier
            else lower
            for lower in source.lowers
        ),
    )


def selected_rows(
    stack: ComparedStack, over_earlier: ComparedStack, chosen: Sequence[bytes], unfinished: Unfinished
) -> list[Row]:
    """Return the changes at and below the paths *chosen*, all of which are changes of the writable layer alone.

    Args:
        stack: the stack with its earlier layers.
        over_earlier: the same stack, with them as ordinary lower layers.
        chosen: paths of the union.
        unfinished: what a killed process was about to do.

    Raises:
        UnionError: an earlier layer has one of the changes.
    """
    ours, theirs = (
        Selection(Comparison(each).rows(), chosen, unfinished).rows() for each in (stack, over_earlier)
    )
    keys = {id(row): _key(row, stack.below) for row in ours}
    keys |= {id(row): _key(row, over_earlier.below) for row in theirs}
    for rows, others in ((ours, theirs), (theirs, ours)):
        counted = Counter(keys[id(row)] for row in others)
        for row in sorted(rows, key=lambda row: row.path):
            counted[keys[id(row)]] -= 1
            if counted[keys[id(row)]] < 0:
                raise UnionError(f"{printable(row.path)}: an earlier layer of the sandbox has this change")
    return ours


def _key(row: Row, below: MergedTree) -> Hashable:
    """Return what is equal for the same change in both comparisons.

    A directory that an earlier layer has copied has another top, but the same attributes and the same part at the bottom.
    """
    old: Hashable = None
    if row.old is not None and row.old.is_dir:
        bottom = row.old.parts[-1].info()
        attributes = tuple(sorted(below.attributes(row.old).items()))
        old = bottom.st_dev, bottom.st_ino, row.old.mode, row.old.uid, row.old.gid, attributes
    elif row.old is not None:
        old = row.old.info.st_dev, row.old.info.st_ino
    path = None if row.kind == DELETED else row.path
    return row.kind, path, row.old_path if row.kind == MOVED else None, old
