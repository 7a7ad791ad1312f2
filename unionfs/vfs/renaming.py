"""Rename and exchange entries of the union. `rename_plan` decides what a rename needs; this module does it.

:class:`~unionfs.vfs.names.Names` creates a :class:`Renaming` and passes RENAME and RENAME2 to it.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress

from unionfs.copyup.copyup import CopyUp
from unionfs.copyup.plan import Contents
from unionfs.copyup.transaction import restore_times, times_of
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import PathRef
from unionfs.types import Mark
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.quota import Quota
from unionfs.upper.upper import Upper
from unionfs.vfs.entries import count_entry, hard_link, require_room
from unionfs.vfs.removal import Removal
from unionfs.vfs.rename_plan import RENAME_EXCHANGE, End, plan_rename


class Renaming:
    """RENAME in one writable mount. It has no state of its own."""

    def __init__(
        self,
        inode_table: InodeTable,
        upper: Upper,
        index: LinkIndex,
        copy_up: CopyUp,
        quota: Quota | None,
        removal: Removal,
    ) -> None:
        """Join the parts; *removal* takes care of the entry that a rename replaces."""
        self._inode_table = inode_table
        self._upper = upper
        self._index = index
        self._copy_up = copy_up
        self._quota = quota
        self._removal = removal

    def rename(
        self, old: DirectoryInode, old_name: bytes, new: DirectoryInode, new_name: bytes, flags: int
    ) -> None:
        """Rename as renameat2(2) with *flags* 0, RENAME_NOREPLACE or RENAME_EXCHANGE.

        Raises:
            OSError: as :func:`~unionfs.vfs.rename_plan.plan_rename`, or an error of the underlying file system.
        """
        self._upper.refuse_reserved(new_name)
        if new.removed:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), new_name)
        source = self._inode_table.lookup(old, old_name)
        target = self._inode_table.lookup(new, new_name) if self._inode_table.exists(new, new_name) else None
        moved = (source, target if flags & RENAME_EXCHANGE else None)
        # The skeleton of a directory cannot be moved: the caller receives EXDEV and copies the directory.
        kept = any(isinstance(inode, DirectoryInode) and inode.skeleton is not None for inode in moved)
        plan = plan_rename(
            self._end(old, old_name, source),
            self._end(new, new_name, target, replaced=not flags & RENAME_EXCHANGE),
            flags,
            redirects=self._upper.redirect and not kept,
        )
        if source is target:  # two names of one file: rename(2) does nothing then
            return
        _refuse_loop(source, new)
        if plan.exchange:
            assert target is not None
            _refuse_loop(target, old)
        self._copy_up.directory(old)
        self._copy_up.directory(new)
        old_dir, new_dir = old.upper, new.upper
        assert old_dir is not None
        assert new_dir is not None
        if plan.redirect or plan.redirect_second:
            self._index.search_stamp += 1  # a search for lower names may meet them at neither place
        if plan.copy_up:
            self._put_in_upper(source, old, old_name)
        self._keep_below(source, old is new, redirect=plan.redirect)
        if plan.opaque:
            self._make_opaque(old_dir, old_name)
        if plan.exchange:
            assert target is not None
            if plan.copy_up_second:
                self._put_in_upper(target, new, new_name)
            self._keep_below(target, old is new, redirect=plan.redirect_second)
            if plan.opaque_second:
                self._make_opaque(new_dir, new_name)
            self._upper.exchange((old_dir, old_name), (new_dir, new_name))
            self._swap(old, old_name, new, new_name)
        else:
            self._move(source, (old, old_name), target, (new, new_name), whiteout=plan.whiteout)
        self._inode_table.drop_from_skeleton(old, old_name)
        self._inode_table.drop_from_skeleton(new, new_name)
        for inode in (old, new, source, target):
            if inode is not None:
                inode.touch()
        if target is not None and not plan.exchange:
            self._inode_table.drop_if_unused(target)

    def _end(
        self, parent: DirectoryInode, name: bytes, inode: Inode | None, *, replaced: bool = False
    ) -> End:
        lower = self._inode_table.below(parent, name) is not None
        if inode is None:
            return End(exists=False, lower_has_name=lower)
        upper = parent.upper
        in_upper = upper is not None and upper.mark(name) not in (None, Mark.WHITEOUT)
        if isinstance(inode, DirectoryInode):
            return End(
                exists=True,
                is_dir=True,
                merged_below=not inode.parts[-1].layer.writable,
                in_upper=in_upper,
                lower_has_name=lower,
                # Needed only for a directory that is replaced, because it reads the directory.
                empty=not replaced or self._inode_table.is_empty(inode),
            )
        return End(exists=True, in_upper=in_upper, lower_has_name=lower)

    def _put_in_upper(self, inode: Inode, parent: DirectoryInode, name: bytes) -> None:
        """Make *name* of *parent* an entry of the upper layer. A hard link that was copied already gets a link to the copy.

        The contents of directories and of large files are not copied.
        """
        if isinstance(inode, DirectoryInode):
            self._copy_up.directory(inode)
            return
        self._copy_up.file(inode, Contents.LATER)
        directory = parent.upper
        assert directory is not None
        if directory.mark(name) is not Mark.OTHER:
            self._link_to_copy(inode, directory, name)

    def _link_to_copy(self, inode: FileInode, directory: LayerDir, name: bytes) -> None:
        self._upper.create(directory, name, lambda dirfd, at: hard_link(inode, dirfd, at))
        if inode.indexed:
            inode.ref = self._index.lose_lower_name(inode.ino) or inode.ref

    def link_known_names(self, inode: FileInode) -> None:
        """Make all known names of *inode*, a copy in the link index, links of the copy, as far as the layer permits it."""
        for parent, name in list(inode.names):
            if not self._index.lower_names(inode.ino):
                return
            with suppress(OSError):  # the next mount shows the lower file under this name
                self.link_remaining(inode, parent, name)

    def link_remaining(self, inode: FileInode, parent: DirectoryInode, name: bytes) -> bool:
        """Make the lower name *name* of *parent*, from which the link index leads to the copy *inode*, a link of the copy.

        Return False if it is one already. The times of *parent* stay.
        """
        self._copy_up.directory(parent)
        directory = parent.upper
        assert directory is not None
        if directory.mark(name) is Mark.OTHER:
            return False
        times = times_of(directory.stat())
        blocks = require_room(self._quota, directory, 0)
        try:
            self._link_to_copy(inode, directory, name)
        finally:
            restore_times(parent, directory, times)
        count_entry(self._quota, None, directory, blocks)
        inode.touch()
        return True

    def _keep_below(self, inode: Inode, same_parent: bool, *, redirect: bool) -> None:
        """Before *inode* of the upper layer moves, make its lower parts reachable from the new place."""
        if isinstance(inode, FileInode):
            self._copy_up.settle_contents(inode)
        elif redirect:
            directory = inode.upper
            assert directory is not None
            present = directory.redirected()
            if present is not None and (same_parent or present.startswith(b"/")):
                return
            place = inode.name if same_parent else self._inode_table.lower_path(inode)
            blocks = require_room(self._quota, directory, 0)
            self._upper.set_redirect(directory, place)
            count_entry(self._quota, None, directory, blocks)

    def _make_opaque(self, directory: LayerDir, name: bytes) -> None:
        self._upper.marks.set_opaque(directory.fd(), name)
        directory.child(name).note_opaque()

    def _move(
        self,
        source: Inode,
        start: tuple[DirectoryInode, bytes],
        target: Inode | None,
        end: tuple[DirectoryInode, bytes],
        *,
        whiteout: bool,
    ) -> None:
        """Rename *source*, which is in the upper layer, over *target*."""
        (old, old_name), (new, new_name) = start, end
        old_dir, new_dir = old.upper, new.upper
        assert old_dir is not None
        assert new_dir is not None
        target_mark = new_dir.mark(new_name)
        was_link = target_mark is Mark.OTHER
        with ExitStack() as keeping:
            if target is not None:
                keeping.enter_context(self._removal.keep_reachable(target, new, new_name))
            self._upper.rename(
                (old_dir, old_name),
                (new_dir, new_name),
                whiteout=whiteout,
                is_dir=isinstance(source, DirectoryInode),
            )
            if target is not None and target_mark is None:
                self._removal.note_hidden(target, new, new_name)
        if target is not None:
            self._inode_table.detach(new, new_name)
        self._inode_table.move(old, old_name, new, new_name)
        if isinstance(source, FileInode) and _is_at(source, old_dir, old_name):
            source.ref = PathRef(new_dir, new_name)
        if isinstance(target, FileInode):
            self._removal.lost_name(target, was_link=was_link)

    def _swap(self, old: DirectoryInode, old_name: bytes, new: DirectoryInode, new_name: bytes) -> None:
        placeholder = b"/exchange"  # no name contains a slash, so it cannot collide
        old_dir, new_dir = old.upper, new.upper
        assert old_dir is not None
        assert new_dir is not None
        first, second = old.children[old_name], new.children[new_name]
        self._inode_table.move(old, old_name, new, placeholder)
        self._inode_table.move(new, new_name, old, old_name)
        self._inode_table.move(new, placeholder, new, new_name)
        moved_first = isinstance(first, FileInode) and _is_at(first, old_dir, old_name)
        moved_second = isinstance(second, FileInode) and _is_at(second, new_dir, new_name)
        if moved_first and isinstance(first, FileInode):
            first.ref = PathRef(new_dir, new_name)
        if moved_second and isinstance(second, FileInode):
            second.ref = PathRef(old_dir, old_name)


def _refuse_loop(inode: Inode, parent: DirectoryInode) -> None:
    """Raise EINVAL if *inode* is *parent* or above it: it would become its own descendant."""
    at: DirectoryInode | None = parent
    while at is not None:
        if at is inode:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        at = at.parent


def _is_at(inode: FileInode, directory: LayerDir, name: bytes) -> bool:
    return isinstance(inode.ref, PathRef) and inode.ref.directory is directory and inode.ref.name == name
