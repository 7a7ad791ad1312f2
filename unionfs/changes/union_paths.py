"""Finds inodes and directories of an unmounted union by path, and removes them, for commands that change its writable layer."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from unionfs.changes.merged_tree import joined
from unionfs.changes.places import parent_of
from unionfs.copyup.transaction import times_of
from unionfs.inode.inode import DirectoryInode, Inode
from unionfs.layer.directory import LayerDir
from unionfs.vfs.filesystem import UnionFs


class UnionPaths:
    """The paths of one file system, which it borrows. Paths have no leading slash."""

    def __init__(self, fs: UnionFs) -> None:
        """Find paths in *fs*, which has a writable layer."""
        self._fs = fs
        self._inode_table = fs.inode_table
        self._copy_up = fs.parts().copy_up

    def inode(self, path: bytes) -> Inode:
        """Return the inode of *path*. No symbolic link is followed.

        Raises:
            OSError: ENOENT or ENOTDIR.
        """
        inode: Inode = self._inode_table.root
        for name in filter(None, path.split(b"/")):
            if not isinstance(inode, DirectoryInode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), b"/" + path)
            inode = self._inode_table.lookup(inode, name)
        return inode

    def directory_of(self, path: bytes) -> tuple[DirectoryInode, LayerDir, bytes]:
        """Return the directory of *path*, its directory in the writable layer, which is made if it is missing, and the name.

        Raises:
            OSError: ENOENT or ENOTDIR, or the directory cannot be made.
        """
        above = self.inode(parent_of(path))
        if not isinstance(above, DirectoryInode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), b"/" + parent_of(path))
        self._copy_up.directory(above)
        assert above.upper is not None
        return above, above.upper, path.rpartition(b"/")[2]

    def remove(self, path: bytes) -> None:
        """Remove *path*, if it exists, with everything in it. A kill may leave some of that.

        Raises:
            OSError: an object cannot be removed.
        """
        above, directory, name = self.directory_of(path)
        if self._inode_table.exists(above, name):
            with kept_times(directory):
                self._remove([path])

    def empty(self, path: bytes) -> None:
        """Remove everything in *path*, if it is a directory. A kill may leave some of that.

        Raises:
            OSError: an object cannot be removed.
        """
        above, _, name = self.directory_of(path)
        inode = self._inode_table.lookup(above, name) if self._inode_table.exists(above, name) else None
        if isinstance(inode, DirectoryInode):
            self._remove([joined(path, each) for each in self._inode_table.listing(inode)])

    def _remove(self, paths: Iterable[bytes]) -> None:
        pending = [(path, False) for path in paths]
        while pending:
            path, is_empty = pending.pop()
            above, _, name = self.directory_of(path)
            inode = self._inode_table.lookup(above, name)
            if not isinstance(inode, DirectoryInode):
                self._fs.names.unlink(above, name)
            elif is_empty or self._inode_table.is_empty(inode):
                self._fs.names.rmdir(above, name)
            else:
                inside = [(joined(path, each), False) for each in self._inode_table.listing(inode)]
                pending += [(path, True), *inside]
            self._fs.trim()


@contextmanager
def kept_times(directory: LayerDir) -> Iterator[None]:
    """Restore the times of *directory*, of whose entries the body of the ``with`` statement changes one."""
    times = times_of(directory.stat())
    yield
    with suppress(OSError):  # this user may write the directory without owning it
        os.utime(directory.proc_path(), ns=times)
