"""List and sync directories (OPENDIR, READDIR, FSYNCDIR)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from unionfs.inode.directory_offsets import DirectoryOffsets
from unionfs.inode.inode import DirectoryInode, Inode

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.vfs.filesystem import UnionFs


class Directories:
    """Lists and syncs directories. The facade creates it; open streams are in its handle table."""

    def __init__(self, fs: UnionFs) -> None:
        """Serve *fs*."""
        self._fs = fs
        self._inode_table = fs.inode_table
        self._handles = fs.handles

    def open(self, ino: int) -> int:
        """Open a directory stream and return the number of its handle.

        Raises:
            OSError: EACCES if the server may not read a layer's directory.
        """
        inode = self._inode_table.directory(ino)
        if not inode.removed:
            for part in inode.parts:
                part.names()
        return self._handles.add_directory(inode)

    def entries(self, number: int, start: int) -> Iterator[tuple[bytes, Inode, int]]:
        """Return the entries of the stream *number* as :meth:`entries_of` does; EBADF if no such stream is open."""
        return self._entries_from(self._handles.directory(number), start)

    def entries_of(self, ino: int, start: int) -> Iterator[tuple[bytes, Inode, int]]:
        """Yield name, inode and next offset of the entries of the directory *ino* from *start* on, ``.`` and ``..`` first.

        A read from offset 0 lists the directory again if it has changed. Entries that were removed since are left out. All
        streams of a directory share one list, which belongs to the inode, so a stream needs no memory for the entries.
        Offsets stay valid as long as the inode is in the table, hence while a stream is open (inode/directory_offsets.py).

        Raises:
            OSError: EACCES if the server may not read a layer's directory.
        """
        return self._entries_from(self._inode_table.directory(ino), start)

    def _entries_from(self, inode: DirectoryInode, start: int) -> Iterator[tuple[bytes, Inode, int]]:
        offsets = inode.offsets
        if offsets is None:
            offsets = inode.offsets = DirectoryOffsets()
            inode.listed = None
        if start <= 0 and (inode.info is None or inode.info is not inode.listed):
            offsets.update(() if inode.removed else self._inode_table.listing(inode))
            inode.listed = self._fs.attributes.info(inode)
        return self._entries(inode, start, offsets.since(max(0, start - 2)))

    def _entries(
        self, inode: DirectoryInode, start: int, numbered: Iterable[tuple[bytes, int]]
    ) -> Iterator[tuple[bytes, Inode, int]]:
        if start <= 0:
            yield b".", inode, 1
        if start <= 1:
            yield b"..", inode.parent or inode, 2
        for name, number in numbered:
            self._fs.trim()  # no descriptor is in use between two entries, and a reply may contain many
            try:
                child = self._inode_table.lookup(inode, name)
            except FileNotFoundError:
                continue
            yield name, child, number + 3

    def fsync(self, number: int) -> None:
        """Sync the upper part of the directory with the open stream *number*."""
        self.sync(self._handles.directory(number))

    def sync(self, inode: DirectoryInode) -> None:
        """Sync the parts of *inode* that this mount wrote."""
        for fd in self.descriptors_to_sync(inode):
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def descriptors_to_sync(self, inode: DirectoryInode) -> list[int]:
        """Return new descriptors of the parts of *inode* that this mount wrote; none if nothing needs to be synced."""
        found: list[int] = []
        if self._fs.volatile:
            return found
        with ExitStack() as undo:
            for part in inode.parts:
                if part.layer.writable or part.layer.frozen:
                    found.append(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=part.fd()))
                    undo.callback(os.close, found[-1])
            undo.pop_all()
        return found
