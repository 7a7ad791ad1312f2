"""Counts names of lower files in the link index when a discard shows them again.

The index has no record of a file that no name shows (upper/link_index.py). Such a file needs one when its first name is shown.
A missing record has other reasons, too: all names show the file, or another tool has hidden some of them. So before the
first step, :class:`LinkCounts` finds out which files no name shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.hidden import names_in
from unionfs.changes.merged_tree import Entry
from unionfs.changes.places import Places
from unionfs.changes.rows import Row
from unionfs.inode.numbers import InodeNumbers
from unionfs.layer.objects import PathRef
from unionfs.types import Ino
from unionfs.upper.link_index import LinkIndex


class LinkCounts:
    """The link counts of lower files during one discard. It borrows the index."""

    def __init__(
        self, index: LinkIndex, numbers: InodeNumbers, stack: ComparedStack, rows: Collection[Row]
    ) -> None:
        """Find the files that no name shows. *rows* are all changes of *stack*, and *numbers* those of *index*."""
        self._index = index
        self._numbers = numbers
        #: Lower files that have several names, none of which shows them. A file that gets a record is removed.
        self._unshown = self._find_unshown(stack, rows)

    def gain(self, names: Iterable[tuple[bytes, Entry]]) -> None:
        """Count the old objects of *names*, which are going to be shown."""
        if self._index.is_empty() and not self._unshown:
            return
        for _, old in names:
            if old.info.st_nlink < 2:
                continue
            ino = self.number(old)
            if self._index.gain_name(ino) or ino not in self._unshown:
                continue
            assert isinstance(old.ref, PathRef)
            lasting, born = self._numbers.lasts(ino), old.ref.birth_time_ns()
            self._index.lose_names(ino, old.info.st_nlink - 1, lasting=lasting, born=born)
            self._unshown.discard(ino)

    def number(self, old: Entry) -> Ino:
        """Return the inode number that the mount shows for *old*."""
        return self._numbers.number((old.info.st_dev, old.info.st_ino))

    def _find_unshown(self, stack: ComparedStack, rows: Collection[Row]) -> set[Ino]:
        hidden = {row.old_path: row.old for row in rows if row.old is not None and not row.old.is_dir}
        hidden.update(_covered(stack, rows))
        links = {self.number(old): old.info.st_nlink for old in hidden.values() if old.info.st_nlink > 1}
        counts = Counter(map(self.number, hidden.values()))
        partly = {ino for ino in links if counts[ino] < links[ino]}
        # The other names may be shown, or be files of their own that equal the old one and have no rows.
        unclear = {ino for ino in partly if not self._has_record(ino)}
        return (links.keys() - partly) | self._unshown_among(unclear, stack)

    def _unshown_among(self, files: set[Ino], stack: ComparedStack) -> set[Ino]:
        if not files:
            return files
        try:
            entries = stack.union.walk(stack.union.root, b"", complete=True)
            return files - {
                self.number(entry) for _, entry in entries if not (entry.is_dir or entry.is_change)
            }
        except PermissionError:
            # Names may be in the directory that cannot be read. A link count that is too high is harmless.
            return set()

    def _has_record(self, ino: Ino) -> bool:
        return self._index.find(ino) is not None or self._index.lost_names(ino) > 0


def _covered(stack: ComparedStack, rows: Iterable[Row]) -> Iterable[tuple[bytes, Entry]]:
    """Yield the old non-directories that have no rows because moved objects are at their places, with their paths."""
    places = Places(rows)
    for path in places.sources:
        home = places.home(path)
        old = stack.below.at(home) if home is not None and home not in places.moves else None
        if home is not None and old is not None:
            yield from names_in(stack.below, old, home, places.moves)
