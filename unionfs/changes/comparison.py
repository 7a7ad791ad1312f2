"""Compares the union with the layers below the writable one, and returns what differs as rows.

If the writable layer lies on earlier ones, which were writable before (vfs/freezing.py), they count as parts of it. In this
package, "the layers below" are those below the earlier layers, too.

The comparison reads the directories of the writable layer, and of the layers below only what these directories hide, so its
time depends on the number of changes. There are two exceptions. The entries of deleted and replaced directories are read,
because each is a row. And the other names of a changed hard link are in no directory of the writable layer: if the link index
has such names, the layers below are searched for them.

It has these steps:

1. :meth:`Comparison._walk` pairs each object of the writable layer with the old object at the same path, or, in a directory that
   was moved, at the path below the old place. It collects the moves of directories, and what no longer is at its old path.
2. With all moves known, pairs are dissolved whose old object moved elsewhere.
3. The entries of deleted and replaced directories are listed.
4. Files that moved are found by the inode number that their copy-up recorded, or by the redirect of a metadata-only copy
   (:mod:`unionfs.changes.moved_files`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from unionfs._stdlib.dataclasses import dataclass
from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.equality import Equality
from unionfs.changes.merged_tree import VANISHED, Entry, joined
from unionfs.changes.moved_files import MovedFiles
from unionfs.changes.rows import ADDED, CHANGED, DELETED, MOVED, ORDER, Moves, Row
from unionfs.formats.xattrs import parse_redirect
from unionfs.layer.directory import LayerDir
from unionfs.upper.link_records import LinkRecords


@dataclass(slots=True)
class _Pair:
    """A directory of the writable layer, and the old directory with whose entries its entries are compared."""

    path: bytes
    entry: Entry
    old_path: bytes
    #: The parts of the old directory; empty if there is none.
    old_parts: tuple[LayerDir, ...]
    #: Whether the directory hides the old one, so that all old names are to be compared.
    hides: bool


@dataclass(slots=True)
class _Gone:
    """An old object that is no longer at the path where it is expected."""

    old_path: bytes
    old: Entry
    #: The path at which it is expected, and what the union has there now; None if there is nothing.
    path: bytes
    new: Entry | None


class Comparison:
    """One comparison. It borrows the stack, and is used once."""

    def __init__(self, stack: ComparedStack, *, contents: bool = True) -> None:
        """Compare the two trees of *stack*. Without *contents*, objects at the same path count as different, unread."""
        self._contents = contents
        self._union = stack.union
        self._below = stack.below
        self._records = stack.records
        self._equality = Equality(stack.union, stack.below)
        #: The layers below have no redirects then (:mod:`unionfs.changes.compared_stack`).
        self._has_earlier = bool(stack.earlier)
        self.moves = Moves()
        #: Objects of the writable layer with their old objects, and whether these are equal.
        self._matched: list[tuple[Row, bool]] = []
        self._gone: list[_Gone] = []

    def rows(self) -> list[Row]:
        """Return the changes, sorted by path."""
        self._walk_all()
        for path, new, old_path, old in self._other_names():
            if old_path is not None:
                self._match(path, new, old_path, old)
        rows = self._settled()
        files = MovedFiles(self._union, self._below, self._equality, self.moves, earlier=self._has_earlier)
        rows = files.joined_rows(rows, self._deleted(rows))
        rows.sort(key=lambda row: (row.path, ORDER[row.kind]))
        return rows

    def remaining_names(self) -> list[bytes]:
        """Return the paths from which only the link index leads to a copy (`UnionFs.link_remaining_names`)."""
        if not self._has_earlier:
            self._walk_all()  # the search depends on the moves
        return [path for path, _, _, _ in self._other_names()]

    # -- step 1: pairs -----------------------------------------------------------------------------

    def _walk_all(self) -> None:
        root, old = self._union.root, self._below.root
        if old.parts:
            self._match(b"", root, b"", old)
        pending: list[_Pair] = [_Pair(b"", root, b"", old.parts, hides=not root.base_parts)]
        while pending:
            pending += self._walk(pending.pop())

    def _walk(self, pair: _Pair) -> list[_Pair]:
        """Compare the entries of one directory of the writable layer; return its directories, to be compared in turn."""
        upper = pair.entry.ref
        assert isinstance(upper, LayerDir)
        try:
            names = {name for part in pair.entry.change_parts for name in part.names()}
        except (*VANISHED, PermissionError):
            return []  # removed meanwhile, or closed even to its owner
        if pair.hides:
            names.update(self._below.names(pair.old_parts))
        found = []
        for name in sorted(names):  # which of several links counts as moved must not depend on the process
            try:
                below = self._walk_name(pair, upper, name)
            except VANISHED:
                continue  # removed meanwhile
            if below is not None:
                found.append(below)
        return found

    def _walk_name(self, pair: _Pair, upper: LayerDir, name: bytes) -> _Pair | None:
        path, old_path = joined(pair.path, name), joined(pair.old_path, name)
        old = self._below_at(pair.old_parts, name)
        new = self._union.find_top(pair.entry.parts, name)
        if new is None:
            if old is not None:
                self._gone.append(_Gone(old_path, old, path, None))
            return None
        if not new.is_change:
            return None
        if not new.is_dir:
            self._match(path, new, old_path, old)
            if old is not None and old.is_dir:
                self._gone.append(_Gone(old_path, old, path, new))
            return None
        place = self._old_place(upper, name, new, pair)
        if place is not None and place != old_path:
            return self._moved(path, new, place, old_path, old)
        self._match(path, new, old_path, old)
        if old is None or not old.is_dir:
            return _Pair(path, new, old_path, (), hides=False)
        return _Pair(path, new, old_path, old.parts, hides=place is None)

    def _below_at(self, parts: tuple[LayerDir, ...], name: bytes) -> Entry | None:
        """Return what the layers below have for *name*, None for what the caller may not read there."""
        try:
            return self._below.find(parts, name) if parts else None
        except PermissionError:
            return None

    def _old_place(self, upper: LayerDir, name: bytes, new: Entry, pair: _Pair) -> bytes | None:
        """Return the path in the layers below whose directory merges with the directory *new* of the writable layer.

        None: no directory merges with it.
        """
        base = new.base_parts
        if not base:
            return None
        if self._has_earlier:
            return base[0].path()
        redirect = upper.redirect(name)
        if redirect is None:
            return joined(pair.old_path, name)
        absolute, names = parse_redirect(redirect)  # resolving has accepted it
        return b"/".join(names) if absolute else joined(pair.old_path, names[0])

    def _moved(
        self, path: bytes, new: Entry, place: bytes, old_path: bytes, old: Entry | None
    ) -> _Pair | None:
        """Record that the directory at *place* of the layers below is at *path* now, where *old* was."""
        if old is not None:
            self._gone.append(_Gone(old_path, old, path, new))
        source = self._below.at(place)
        if source is None or not self.moves.add(place, path):
            # Another directory claims the same place, as only a damaged layer has it: everything here is a copy.
            self._match(path, new, place, None)
            self._matched += [
                (Row(ADDED, each, entry, None, None), False) for each, entry in self._union.walk(new, path)
            ]
            return None
        self._matched.append((Row(MOVED, path, new, place, source), False))
        if not self._equality.equal(new, source):
            self._matched.append((Row(CHANGED, path, new, place, source), False))
        return _Pair(path, new, place, source.parts, hides=False)

    def _match(self, path: bytes, new: Entry, old_path: bytes, old: Entry | None) -> None:
        if old is None:
            self._matched.append((Row(ADDED, path, new, None, None), False))
        else:
            equal = self._contents and self._equality.equal(new, old)
            self._matched.append((Row(CHANGED, path, new, old_path, old), equal))

    def _other_names(self) -> Iterator[tuple[bytes, Entry, bytes | None, Entry | None]]:
        """Yield the names of changed hard links that are in no directory of the writable layer: paths and entries, new and old.

        The old ones are None if an earlier layer has the name: the walk has compared it.
        """
        records, below = self._records, self._below
        left = sum(names for _, names, _ in records.copies()) if records is not None else 0
        if records is None or not left:
            return
        if self._has_earlier:
            yield from islice(self._indexed_names(records), left)
            return
        for old_path, old in below.walk(below.root, b""):
            if old.is_dir or not records.lower_names(below.number(old.info)):
                continue
            path = self.moves.new_path(old_path)
            new = self._union.at(path)
            if new is not None and records.is_entry(new.ref):
                yield path, new, old_path, old
                left -= 1
                if not left:
                    return

    def _indexed_names(
        self, records: LinkRecords
    ) -> Iterator[tuple[bytes, Entry, bytes | None, Entry | None]]:
        """Yield what :meth:`_other_names` does, by a search of the union: the index leads from earlier layers, too."""
        pending = [(b"", self._union.root)]
        while pending:
            above, directory = pending.pop()
            base, changes = directory.base_parts, directory.change_parts
            children = []
            for name in self._union.names(directory.parts):
                path, new = joined(above, name), self._union.find(directory.parts, name)
                if new is None:
                    continue  # removed meanwhile
                if new.is_dir:
                    children.append((path, new))
                elif records.is_entry(new.ref):
                    is_compared = any(part.mark(name) is not None for part in changes)
                    old = None if is_compared else self._below_at(base, name)
                    yield path, new, None if old is None else joined(base[0].path(), name), old
            pending += reversed(children)

    # -- step 2: pairs that moves dissolve ---------------------------------------------------------

    def _settled(self) -> list[Row]:
        """Return the rows of step 1 with all moves of directories taken into account, without those that are equal."""
        rows = []
        for row, equal in self._matched:
            if row.old_path is not None and self.moves.new_path(row.old_path) != row.path:
                # Another object is where the old one was, which moved: what is at the path now is new.
                rows.append(Row(ADDED, row.path, row.new, None, None))
            elif not equal:
                rows.append(row)
        return rows

    # -- step 3: entries of directories that are gone ----------------------------------------------

    def _deleted(self, others: list[Row]) -> list[Row]:
        """Return a row for each old object that is gone, also below deleted and replaced directories.

        Those that a moved directory replaces, and that have no row, are added to its row, which is among *others*.
        """
        rows: list[Row] = []
        moved = {row.path: row for row in others if row.kind == MOVED}
        for gone in self._gone:
            # An object that moved is compared at its new place, with all below it.
            if gone.old_path in self.moves or self.moves.new_path(gone.old_path) != gone.path:
                continue
            replaced: list[tuple[bytes, Entry]] = []
            if gone.new is None:
                rows.append(Row(DELETED, gone.old_path, None, gone.old_path, gone.old))
            elif gone.path in moved:
                replaced = moved[gone.path].replaced
                replaced.append((gone.old_path, gone.old))
            if gone.old.is_dir:
                rows += self._deleted_below(gone, replaced)
        return rows

    def _deleted_below(self, gone: _Gone, replaced: list[tuple[bytes, Entry]]) -> list[Row]:
        """Return a row for each object that was below *gone*; add those to *replaced* at whose path is another one now."""
        rows: list[Row] = []
        pending = [(gone.old_path, gone.old, gone.new)]
        while pending:
            path, old, new = pending.pop()
            new_parts = new.parts if new is not None else ()
            for name in self._below.names(old.parts):
                child_path, child = joined(path, name), self._below.find(old.parts, name)
                if child is None or child_path in self.moves:
                    continue
                present = self._union.find(new_parts, name) if new_parts else None
                if present is None:
                    rows.append(Row(DELETED, child_path, None, child_path, child))
                else:
                    replaced.append((child_path, child))
                if child.is_dir:
                    pending.append((child_path, child, present))
        return rows
