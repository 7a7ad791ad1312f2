"""Lists the members of an OCI layer (image-spec, layer.md) that turns the layers below the writable one into the union.

A member is an object of the union, or a mark: ``.wh.NAME`` deletes NAME of the layers below, and ``.wh..wh..opq`` all names in
its directory. :class:`unionfs.changes.stream.Stream` writes the members.

A directory of the writable layer that merges with the one below at the same path has members for what the writable layer has.
Any other directory (new, moved, opaque, or in place of something else) is listed whole, with a mark if it hides a directory
below. The members are in depth-first order, because programs that unpack set the times of a directory when they leave it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from unionfs._stdlib.typing import NamedTuple
from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.equality import Equality
from unionfs.changes.merged_tree import Entry, MergedTree, joined, naming
from unionfs.changes.pax import is_supported
from unionfs.errors import UnionError
from unionfs.formats.whiteout import WH_OPAQUE, WH_PREFIX
from unionfs.formats.xattrs import parse_redirect
from unionfs.inode.numbers import Identity
from unionfs.layer.directory import LayerDir
from unionfs.upper.link_records import LinkRecords

#: The path of the root as a member.
ROOT = b"."


class LayerMember(NamedTuple):
    """One member. Its path has no leading slash."""

    path: bytes
    #: None for a mark.
    entry: Entry | None


class _Pair(NamedTuple):
    """What the union and the layers below have at one path; None for nothing."""

    path: bytes
    #: The directory that *new* is in, if it merges with the one below; None if all of it is listed.
    parent: Entry | None
    new: Entry | None
    old: Entry | None


class LayerMembers:
    """Lists the members of one layer. It borrows the stack."""

    def __init__(self, stack: ComparedStack) -> None:
        """List the members of a layer with the changes of *stack*."""
        self._union = stack.union
        self._below = stack.below
        self._records = stack.records
        self._has_earlier = bool(stack.earlier)
        self._equality = Equality(stack.union, stack.below)
        #: Names of changed hard links that no directory of the writable layer has, by the path of their directory.
        self._other_names: dict[bytes, dict[bytes, Entry]] = {}
        #: How many names are not yet listed of files with several names that moved with a directory, by identity on disk.
        self._unlisted: dict[Identity, int] = {}

    def of(self, paths: Iterable[bytes] | None = None) -> Iterator[LayerMember]:
        """Yield the members; with *paths*, only those for what is at and below them. A member may occur twice.

        Raises:
            UnionError: an object has a name that a layer cannot contain.
            PermissionError: a directory cannot be read.
        """
        tops = [b""] if paths is None else _outermost(paths)
        self._find_other_names(tops)
        for member in self._unchecked(tops):
            checked = member.path if member.entry is not None else member.path.rpartition(b"/")[0]
            if b"/" + WH_PREFIX in b"/" + checked:
                raise UnionError(
                    f"/{os.fsdecode(checked)} cannot be in a layer of an image, where names that begin with .wh. are marks: "
                    "rename it, or select other paths"
                )
            if member.entry is None or is_supported(member.entry.mode):
                yield member

    def _unchecked(self, tops: Iterable[bytes]) -> Iterator[LayerMember]:
        for top in tops:
            pairs = [self._pair_at(top)]
            if not top:
                root = pairs[0]
                if root.new is not None and root.old is not None:
                    with naming(b""):
                        is_equal = self._equality.equal(root.new, root.old)
                    if not is_equal:
                        yield LayerMember(ROOT, root.new)
                    pairs = self._entries(root.path, root.new, root.old)
            yield from self._expanded(pairs)
        for directory, names in sorted(self._other_names.items()):
            for name in sorted(names):
                yield LayerMember(joined(directory, name), names[name])
        yield from self._links_of_moved(tops)

    # -- pairs -------------------------------------------------------------------------------------

    def _pair_at(self, top: bytes) -> _Pair:
        """Return the pair at the path *top*."""
        root = self._union.root
        pair = _Pair(b"", root, root, self._below.root)
        for name in filter(None, top.split(b"/")):
            # All below a directory that does not merge is listed.
            parent = pair.new if self._merges(pair) else None
            at = joined(pair.path, name)
            with naming(at):
                new = self._union.find(pair.new.parts, name) if pair.new is not None else None
                old = self._below.find(pair.old.parts, name) if pair.old is not None else None
            pair = _Pair(at, parent, new, old)
        return pair

    def _merges(self, pair: _Pair) -> bool:
        """Return whether what is in *pair* is both in a directory of the union and in the one below that merges with it."""
        path, parent, new, old = pair
        if new is None or old is None or not (new.is_dir and old.is_dir):
            return False
        if not path:
            return True
        if parent is None:
            return False
        if not new.is_change:
            return True
        base = new.base_parts
        if not base:
            return False
        if self._has_earlier:  # these layers have no redirects
            return base[0].path() == path
        with naming(path):
            redirect = _upper(parent).redirect(path.rpartition(b"/")[2])
        if redirect is None:
            return True
        absolute, names = parse_redirect(redirect)
        return absolute and b"/".join(names) == path

    def _entries(self, path: bytes, new: Entry, old: Entry) -> list[_Pair]:
        """Return the pairs in the directory *new* of the writable layer, which merges with *old*."""
        try:
            with naming(path):
                names = {name for part in new.change_parts for name in part.names()}
        except FileNotFoundError:
            return []  # removed meanwhile
        if not new.base_parts:  # the root, which hides all layers below
            names.update(self._below.names(old.parts))
        others = self._other_names.pop(path, {})
        found = []
        for name in sorted(names | others.keys()):
            at = joined(path, name)
            if name in others:
                found.append(_Pair(at, None, others[name], None))
            else:
                with naming(at):
                    there, below = self._union.find(new.parts, name), self._below.find(old.parts, name)
                found.append(_Pair(at, new, there, below))
        return found

    # -- from pairs to members ---------------------------------------------------------------------

    def _expanded(self, pairs: Sequence[_Pair]) -> Iterator[LayerMember]:
        """Yield the members for *pairs* and all below them."""
        pending = list(reversed(pairs))
        while pending:
            pair = pending.pop()
            path, parent, new, old = pair
            if new is None or not is_supported(new.mode):
                if old is not None and (new is None or stat.S_IFMT(new.mode) != stat.S_IFMT(old.mode)):
                    yield from _whiteout(path)
            elif parent is not None and not new.is_change:
                continue  # only the layers below have it
            elif not new.is_dir:
                if parent is None or self._adds(path, new, old):
                    yield LayerMember(path, new)
            else:
                yield LayerMember(path, new)
                if old is not None and self._merges(pair):
                    pending += reversed(self._entries(path, new, old))
                    continue
                if old is not None and old.is_dir:
                    yield LayerMember(joined(path, WH_OPAQUE), None)
                for below, entry in self._union.walk(new, path, complete=True):
                    if not (entry.is_dir or entry.is_change) and entry.info.st_nlink > 1:
                        identity = _identity(entry)
                        self._unlisted[identity] = self._unlisted.get(identity, entry.info.st_nlink) - 1
                    yield LayerMember(below, entry)

    def _links_of_moved(self, tops: Iterable[bytes]) -> Iterator[LayerMember]:
        """Yield the other names of files that moved with a directory. Nothing else about these has changed, but a layer that
        has one name must have all.
        """
        if not any(left > 0 for left in self._unlisted.values()):
            return
        for path, old in _all_in(self._below, tops):
            if not old.is_dir and self._unlisted.get(_identity(old), 0) > 0:
                new = self._union.at(path)
                if new is not None and _identity(new) == _identity(old):
                    yield LayerMember(path, new)

    def _adds(self, path: bytes, new: Entry, old: Entry | None) -> bool:
        """Return whether a layer must have the non-directory *new*, as it or its links differ from *old*.

        Whether other names of a file are in the layer is not known, so a file with several names always counts.
        """
        if old is None or new.info.st_nlink > 1 or old.info.st_nlink > 1:
            return True
        with naming(path):
            return not self._equality.equal(new, old)

    def _find_other_names(self, tops: Iterable[bytes]) -> None:
        records = self._records
        left = sum(names for _, names, _ in records.copies()) if records is not None else 0
        if records is None or not left:
            return
        for path, new in self._indexed_in(tops, records):
            directory, _, name = path.rpartition(b"/")
            self._other_names.setdefault(directory, {})[name] = new
            left -= 1
            if not left:
                return

    def _indexed_in(self, tops: Iterable[bytes], records: LinkRecords) -> Iterator[tuple[bytes, Entry]]:
        """Yield the names at and below *tops* from which only the link index leads to a copy.

        Names in moved directories may be missing, because these are listed whole.
        """
        if self._has_earlier:  # the index also leads from names in earlier layers
            yield from (each for each in _all_in(self._union, tops) if records.is_entry(each[1].ref))
            return
        for path, old in _all_in(self._below, tops):
            if old.is_dir or old.info.st_nlink < 2 or records.find(self._below.number(old.info)) is None:
                continue
            new = self._union.at(path)
            if new is not None and records.is_entry(new.ref):
                yield path, new


def _all_in(tree: MergedTree, tops: Iterable[bytes]) -> Iterator[tuple[bytes, Entry]]:
    """Yield what *tree* has at and below *tops*."""
    for top in tops:
        entry = tree.at(top)
        if entry is not None:
            yield top, entry
            yield from tree.walk(entry, top)


def _identity(entry: Entry) -> Identity:
    return entry.info.st_dev, entry.info.st_ino


def _upper(entry: Entry) -> LayerDir:
    """Return the directory *entry* in the writable layer, which has it."""
    assert isinstance(entry.ref, LayerDir)
    return entry.ref


def _whiteout(path: bytes) -> Iterator[LayerMember]:
    directory, _, name = path.rpartition(b"/")
    if not name.startswith(WH_PREFIX):  # which no layer of an image has
        yield LayerMember(joined(directory, WH_PREFIX + name), None)


def _outermost(paths: Iterable[bytes]) -> list[bytes]:
    """Return *paths*, sorted, without those that are below another one."""
    chosen = set(paths)
    return [path for path in sorted(chosen) if not any(above in chosen for above in _directories_of(path))]


def _directories_of(path: bytes) -> Iterator[bytes]:
    while path:
        path = path.rpartition(b"/")[0]
        yield path
