"""Removes, moves and links names while changes of an earlier layer are discarded. That layer never changes.

The writable layer hides what an earlier layer has: an added object is removed, and a moved one is moved back, as a program
would do it. The union then leaves a whiteout, copies a directory up with a redirect, and keeps its records of hard links.

An old object that an earlier layer hides has to be copied. If it has several names, all of them become links of one copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from unionfs.changes.discard_steps import Exchange, Move
from unionfs.changes.hidden import names_in
from unionfs.changes.merged_tree import Entry, MergedTree
from unionfs.changes.places import Places
from unionfs.changes.rows import MOVED, Row
from unionfs.changes.union_paths import UnionPaths, kept_times
from unionfs.copyup.plan import Contents
from unionfs.inode.inode import FileInode
from unionfs.inode.numbers import Identity
from unionfs.types import Ino, Mark
from unionfs.vfs.entries import hard_link
from unionfs.vfs.filesystem import UnionFs
from unionfs.vfs.rename_plan import RENAME_EXCHANGE, RENAME_NOREPLACE


class NamesOverEarlier:
    """The names of one union with earlier layers, while one plan is executed. It borrows the file system and the tree below."""

    def __init__(self, fs: UnionFs, below: MergedTree, rows: Collection[Row]) -> None:
        """Change names of *fs*. *below* is the tree below the earlier layers, and *rows* are all changes of it."""
        self._fs = fs
        self._inode_table = fs.inode_table
        self._index = fs.parts().index
        self._paths = UnionPaths(fs)
        self._below = below
        self._rows = rows
        #: Where the union has each old object that moved. The steps move these back.
        self._places = Places(rows)
        #: Old paths at which the union shows what they had, by the identity of the old file, and the identity of what it
        #: shows; None: it has not changed.
        self._same: dict[Identity, list[tuple[bytes, Identity | None]]] = {}
        self._has_searched = False

    # -- moves --------------------------------------------------------------------------------------

    def move(self, step: Move) -> None:
        """Rename *step.path* to *step.to*, where nothing is.

        Raises:
            OSError: it cannot be renamed.
        """
        self._rename(step.path, step.to, RENAME_NOREPLACE)
        self._places.remove(step.path)

    def exchange(self, step: Exchange) -> None:
        """Let *step.path* and *step.other* change places.

        Raises:
            OSError: they cannot be renamed.
        """
        self._rename(step.path, step.other, RENAME_EXCHANGE)
        self._places.remove(step.path)
        self._places.remove(step.other)
        if self._places.place(step.other_old_path) != step.path:
            self._places.add(step.other_old_path, step.path)

    def _rename(self, path: bytes, to: bytes, flags: int) -> None:
        above, directory, name = self._paths.directory_of(path)
        to_above, to_directory, to_name = self._paths.directory_of(to)
        with kept_times(directory), kept_times(to_directory):
            self._fs.names.rename(above, name, to_above, to_name, flags)
        self._fs.trim()

    # -- hard links --------------------------------------------------------------------------------

    def link(self, path: bytes, old: Entry) -> bool:
        """Make *path* one more name of a file that is the same as the old one *old*, in place of any non-directory there.

        Return False if no other name of *old* leads to such a file.

        Raises:
            OSError: the link cannot be made.
        """
        if old.info.st_nlink < 2:
            return False
        self._search(old)
        for old_path, shown in self._same.get(_identity(old.info), ()):
            inode = self._same_file(self._places.new_path(old_path), shown, old)
            if inode is not None:
                self._link(inode, path)
                return True
        return False

    def note_same(self, old: Entry, old_path: bytes, path: bytes) -> None:
        """Remember that *path* leads to the same file as the old one *old*, at *old_path* in the layers below, or to a copy."""
        if old.info.st_nlink > 1 and not old.is_dir:
            inode = self._paths.inode(path)
            assert isinstance(inode, FileInode)
            shown = _identity(inode.ref.stat())
            self._same.setdefault(_identity(old.info), []).append((old_path, shown))

    def replacing(self, path: bytes) -> Callable[[], None]:
        """Return a function that records in the link index that the non-directory at *path* has lost that name.

        The caller calls it after it has replaced the object.
        """
        above, directory, name = self._paths.directory_of(path)
        inode = self._inode_table.lookup(above, name) if self._inode_table.exists(above, name) else None
        if not isinstance(inode, FileInode):
            return lambda: None
        ino = inode.ino
        if inode.indexed:
            was_link = directory.mark(name) is Mark.OTHER
            return lambda: self._lose_name_of_copy(ino, was_link=was_link)
        if inode.layer.writable:
            return lambda: None
        links, born = inode.ref.stat().st_nlink, inode.ref.birth_time_ns()
        number = self._inode_table.recorded_number(inode)

        def lose() -> None:
            if links > self._index.lost_names(ino) + 1:
                lasting = self._inode_table.numbers.lasts(number)
                self._index.lose_name(ino, lasting=lasting, born=born, number=number)
            else:
                self._index.settle_lost_names(ino)

        return lose

    def _lose_name_of_copy(self, ino: Ino, *, was_link: bool) -> None:
        if not was_link:
            self._index.lose_lower_name(ino)
        copy = self._index.find(ino)
        if copy is not None and not self._index.lower_names(ino) and copy.stat().st_nlink == 1:
            self._index.remove(ino)

    def _link(self, inode: FileInode, path: bytes) -> None:
        parts = self._fs.parts()
        parts.copy_up.file(inode, Contents.LATER)
        parts.copy_up.settle_contents(inode)
        if not parts.permissions.can_store_any_owner(inode.ref, inode.kind):
            parts.copy_up.remake(inode, links=2)
        _, directory, name = self._paths.directory_of(path)
        replaced = self.replacing(path)
        with kept_times(directory), parts.upper.workdir.building() as (tmp_fd, tmp):
            hard_link(inode, tmp_fd, tmp)
            parts.upper.publish(tmp, directory, name)
        replaced()
        self._fs.trim()

    def _same_file(self, path: bytes, shown: Identity | None, old: Entry) -> FileInode | None:
        """Return the file at *path* if it has the identity *shown*, or, with None, if it still looks like *old*."""
        try:
            inode = self._paths.inode(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not isinstance(inode, FileInode):
            return None
        if shown is not None:
            return inode if _identity(inode.ref.stat()) == shown else None
        now = self._fs.attributes.of(inode)
        is_same = (now.mode, now.uid, now.gid, now.size, now.mtime_ns) == (
            old.mode, old.uid, old.gid, old.info.st_size, old.info.st_mtime_ns,
        )  # fmt: skip
        return inode if is_same else None

    def _search(self, old: Entry) -> None:
        """Search the layers below for unchanged names of *old*, and of the other old files with changes, once."""
        if self._has_searched:
            return
        changed: dict[Identity, set[bytes]] = {}
        for row in self._rows:
            hidden = [] if row.old is None or row.kind == MOVED else [(row.old_path or b"", row.old)]
            for old_path, entry in hidden + row.replaced:
                if entry.info.st_nlink > 1 and not entry.is_dir:
                    changed.setdefault(_identity(entry.info), set()).add(old_path)
        if len(changed.get(_identity(old.info), ())) >= old.info.st_nlink:
            return  # it has no unchanged name
        self._has_searched = True
        for old_path, entry in names_in(self._below, self._below.root, b""):
            known = changed.get(_identity(entry.info))
            if known is not None and old_path not in known:
                self._same.setdefault(_identity(entry.info), []).append((old_path, None))


def _identity(info: os.stat_result) -> Identity:
    return info.st_dev, info.st_ino
