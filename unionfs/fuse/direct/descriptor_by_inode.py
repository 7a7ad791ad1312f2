"""Descriptors by inode number, for FUSE without OPEN and RELEASE.

In this mode, READ and WRITE name only the inode. One descriptor serves all clients that read the file. From the first write
on, which copies the file up, it serves the writers, too. The server opens it when it is first needed. It closes it when
other files need its place, or when the kernel forgets the inode.
"""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict
from collections.abc import Callable

from unionfs._stdlib.typing import TypeVar
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.vfs.filesystem import UnionFs

T = TypeVar("T")

_MOST = 512
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE))


class DescriptorsByInode:
    """The file handles of one mount by inode number, in order of use, least recently used first.

    The INIT handler creates it when it negotiates FUSE without OPEN. The handles are closed with the handle table of the mount.
    """

    def __init__(self, fs: UnionFs, limit: int | None = None) -> None:
        """Keep at most *limit* files open; None: an eighth of the process's limit of descriptors, at least 8 and at most 512."""
        self._fs = fs
        self._limit = limit or max(8, min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
        self._numbers: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of open files."""
        return len(self._numbers)

    def reading(self, ino: int) -> int:
        """Return the number of a handle that can read *ino*; errors are those of open(2)."""
        number = self._numbers.get(ino)
        if number is None:
            return self._open(ino, os.O_RDONLY)
        self._numbers.move_to_end(ino)
        return number

    def writing(self, ino: int) -> int:
        """Return the number of a handle that can read and write *ino*, which is copied up; errors are those of open(2)."""
        number = self._numbers.get(ino)
        if number is not None:
            handle = self._fs.handles.file(number)
            # The contents of a metadata copy are in a lower file, which the descriptor may refer to if its layer was frozen.
            if handle.flags & os.O_ACCMODE == os.O_RDWR and not handle.inode.metacopy:
                self._numbers.move_to_end(ino)
                return number
            self.close(ino)
        return self._open(ino, os.O_RDWR)

    def make(self, parent: int, name: bytes, mode: int, owner: tuple[int, int]) -> FileInode:
        """Create a file and keep its descriptor for the writes that usually follow; errors are those of open(2)."""
        number, inode = self._with_room(lambda: self._fs.files.create(parent, name, mode, os.O_RDWR, owner))
        self._keep(inode.ino, number)
        return inode

    def make_unnamed(self, parent: DirectoryInode, mode: int, owner: tuple[int, int]) -> FileInode:
        """Create a file without a name, and keep its descriptor as :meth:`make` does; errors are those of open(2)."""
        number, inode = self._with_room(lambda: self._fs.files.create_unnamed(parent, mode, os.O_RDWR, owner))
        self._keep(inode.ino, number)
        return inode

    def close(self, ino: int) -> None:
        """Close the handle of *ino*, if there is one."""
        number = self._numbers.pop(ino, None)
        if number is not None:
            self._fs.handles.close_file(number)

    def _open(self, ino: int, flags: int) -> int:
        number = self._with_room(lambda: self._fs.files.open_late(ino, flags))
        self._keep(ino, number)
        return number

    def _with_room(self, opening: Callable[[], T]) -> T:
        """Return what *opening* returns. After EMFILE or ENFILE, close half of the descriptors kept here and the
        preallocated file, and try again.
        """
        try:
            return opening()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._fs.make_room()
            self._shrink(len(self._numbers) // 2)
            return opening()

    def _keep(self, ino: int, number: int) -> None:
        self.close(ino)
        self._fs.handles.file(number).internal = True
        self._numbers[ino] = number
        self._shrink(self._limit)

    def _shrink(self, most: int) -> None:
        while len(self._numbers) > most:
            _, number = self._numbers.popitem(last=False)
            self._fs.handles.close_file(number)
