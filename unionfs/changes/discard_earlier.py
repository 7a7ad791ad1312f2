"""Decides whether the writable layer alone made the changes that are to be discarded, although there are earlier layers.

It did if it has the same changes at the chosen paths compared with the earlier layers as compared with the layers below these.
Then it is enough to show the earlier layers again. Otherwise, the writable layer gets copies of what the earlier layers hide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from unionfs._stdlib.dataclasses import replace
from unionfs.assemble import StackSource
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.merged_tree import Entry, MergedTree
from unionfs.changes.rows import DELETED, MOVED, Row
from unionfs.changes.selection import Selection, Unfinished
from unionfs.changes.stack_copies import duplicate
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


def changes_of_writable_layer(
    source: StackSource, chosen: Sequence[bytes], unfinished: Unfinished
) -> list[Row] | None:
    """Return the changes at and below the paths *chosen* if the writable layer alone made them. None: an earlier layer has one.

    Args:
        source: the stack with its earlier layers; borrowed.
        chosen: paths of the union.
        unfinished: what a killed process was about to do.
    """
    stack = open_stack_to_compare(duplicate(source))
    try:
        over_earlier = open_stack_to_compare(duplicate(without_earlier(source)))
        try:
            ours, theirs = (
                Selection(Comparison(each).rows(), chosen, unfinished).rows()
                for each in (stack, over_earlier)
            )
            ours_counted = Counter(_key(row, stack.below) for row in ours)
            theirs_counted = Counter(_key(row, over_earlier.below) for row in theirs)
            return ours if ours_counted == theirs_counted else None
        finally:
            over_earlier.close()
    finally:
        stack.close()


def _key(row: Row, below: MergedTree) -> Hashable:
    """Return what is equal for the same change in both comparisons.

    A directory that an earlier layer has copied has another top, but the same attributes and the same part at the bottom.
    """
    path = None if row.kind == DELETED else row.path
    old = None if row.old is None else _object(row.old, below)
    replaced = tuple(_object(entry, below) for _, entry in row.replaced)
    return row.kind, path, row.old_path if row.kind == MOVED else None, old, replaced


def _object(old: Entry, below: MergedTree) -> Hashable:
    if not old.is_dir:
        return old.info.st_dev, old.info.st_ino
    bottom, attributes = old.parts[-1].info(), tuple(sorted(below.attributes(old).items()))
    return bottom.st_dev, bottom.st_ino, old.mode, old.uid, old.gid, attributes
