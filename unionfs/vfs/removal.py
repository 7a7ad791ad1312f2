"""Remove entries of the union, and keep their inodes reachable while clients use them.

:class:`~unionfs.vfs.names.Names` creates a :class:`Removal` and passes UNLINK and RMDIR to it.
:class:`~unionfs.vfs.renaming.Renaming` uses it for the entry that a rename replaces.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from unionfs.copyup.copyup import CopyUp
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.table import InodeTable
from unionfs.layer.objects import DescriptorRef, PathRef
from unionfs.types import Mark
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.upper import Upper

_OPEN_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Removal:
    """UNLINK and RMDIR in one writable mount. It has no state of its own."""

    def __init__(self, inode_table: InodeTable, upper: Upper, index: LinkIndex, copy_up: CopyUp) -> None:
        """Join the parts; *index* counts the names of files that have several."""
        self._inode_table = inode_table
        self._upper = upper
        self._index = index
        self._copy_up = copy_up

    def unlink(self, parent: DirectoryInode, name: bytes) -> None:
        """Remove the name of a non-directory. The object continues to exist while it is open or has other names."""
        inode = self._inode_table.lookup(parent, name)
        if not isinstance(inode, FileInode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        self._copy_up.directory(parent)
        directory = parent.upper
        assert directory is not None
        lower = self._inode_table.below(parent, name) is not None
        in_upper = directory.mark(name) is Mark.OTHER
        with self.keep_reachable(inode, parent, name):
            if in_upper:
                self._upper.remove(directory, name, whiteout=lower)
            elif lower and directory.mark(name) is None:
                self._upper.whiteout(directory, name)
                self.note_hidden(inode, parent, name)
        self._inode_table.drop_from_skeleton(parent, name)
        self._inode_table.detach(parent, name)
        parent.touch()
        self.lost_name(inode, was_link=in_upper)
        self._inode_table.drop_if_unused(inode)

    def rmdir(self, parent: DirectoryInode, name: bytes) -> None:
        """Remove an empty directory."""
        inode = self._inode_table.lookup(parent, name)
        if not isinstance(inode, DirectoryInode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        if not self._inode_table.is_empty(inode):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        self._copy_up.directory(parent)
        directory = parent.upper
        assert directory is not None
        lower = self._inode_table.below(parent, name) is not None
        with self.keep_reachable(inode, parent, name):
            if inode.upper is not None:
                self._upper.remove_directory(directory, name, whiteout=lower)
            elif lower and directory.mark(name) is None:
                self._upper.whiteout(directory, name)
                self.note_hidden(inode, parent, name)
        self._inode_table.drop_from_skeleton(parent, name)
        self._inode_table.detach(parent, name)
        inode.touch()
        parent.touch()
        self._inode_table.drop_if_unused(inode)

    def note_hidden(self, inode: Inode, parent: DirectoryInode, name: bytes) -> None:
        """Record *inode*, which the layers below have as *name* of *parent*, where the upper layer now hides it.

        A copy to which the name led is recorded under the name that was copied. An object of an earlier layer is not recorded,
        because the records of that layer describe the object below.
        """
        if self._upper.below_facts is not None and not (inode.layer.has_changes or inode.layer.skeleton):
            info = inode.info or inode.ref.info()
            self._upper.note_below(self._inode_table.base_path(parent) + b"/" + name, info)

    @contextmanager
    def keep_reachable(self, inode: Inode, parent: DirectoryInode, name: bytes) -> Iterator[None]:
        """Keep *inode* reachable while the caller removes *name*. If that fails, restore the reference to *inode*.

        A directory keeps its descriptor open. A file is reached by another of its names, or by a descriptor.
        """
        if isinstance(inode, DirectoryInode):
            top = inode.parts[0]
            if top.shown_empty:
                yield
                return
            top.pin()
            try:
                yield
            except BaseException:
                top.unpin()
                raise
            return
        before = inode.ref
        self._leave_name(inode, parent, name)
        try:
            yield
        except BaseException:
            if isinstance(inode.ref, DescriptorRef) and inode.ref is not before:
                inode.ref.close()
            inode.ref = before
            raise

    def lost_name(self, inode: FileInode, *, was_link: bool) -> None:
        """Update the index after a name of *inode* was removed.

        If that fails, the entry remains or counts one name too many, which does no harm.
        """
        with suppress(OSError):
            self._count_lost_name(inode, was_link=was_link)
        inode.touch()

    def _leave_name(self, inode: FileInode, parent: DirectoryInode, name: bytes) -> None:
        ref = inode.ref
        if not isinstance(ref, PathRef) or ref.directory is not parent.upper or ref.name != name:
            return
        for other, other_name in inode.names:
            upper = other.upper
            if (
                upper is not None
                and (other, other_name) != (parent, name)
                and upper.mark(other_name) is Mark.OTHER
            ):
                inode.ref = PathRef(upper, other_name)
                return
        inode.ref = DescriptorRef(os.open(name, _OPEN_PATH, dir_fd=ref.directory.fd()), ref.directory.layer)

    def _count_lost_name(self, inode: FileInode, *, was_link: bool) -> None:
        if inode.indexed:
            if not was_link:
                inode.ref = self._index.lose_lower_name(inode.ino) or inode.ref
            if inode.ref.stat().st_nlink == 1 and self._index.lower_names(inode.ino) == 0:
                assert isinstance(inode.ref, PathRef)
                at = inode.ref.directory
                pinned = DescriptorRef(os.open(inode.ref.name, _OPEN_PATH, dir_fd=at.fd()), at.layer)
                self._index.remove(inode.ino)
                inode.ref, inode.indexed = pinned, False
        elif not inode.layer.writable:
            links = inode.ref.stat().st_nlink
            if links > self._index.lost_names(inode.ino) + 1:
                number = self._inode_table.recorded_number(inode)
                lasting = self._inode_table.numbers.lasts(number)
                born = inode.ref.birth_time_ns()
                self._index.lose_name(inode.ino, lasting=lasting, born=born, number=number)
            else:
                self._index.settle_lost_names(inode.ino)
