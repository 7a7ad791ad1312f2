"""Open files and directory streams, numbered for the kernel."""

from __future__ import annotations

import errno
import itertools
import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.inode.inode import DirectoryInode, FileInode


class FileHandle:
    """One open(2) of a file: a descriptor of its own with its own access mode, used with positions only
    (pread, pwrite).
    """

    __slots__ = ("fd", "flags", "node", "ours")

    def __init__(self, node: FileInode, fd: int, flags: int) -> None:
        """Take over *fd*, opened with *flags*."""
        self.node = node
        self.fd = fd
        self.flags = flags
        #: Nobody opened it: it is kept for whoever reads or writes the file next, and holds nothing in use.
        self.ours = False

    def replace(self, fd: int) -> None:
        """Go on with *fd*, the same file after copy-up; the old descriptor is closed."""
        os.close(self.fd)
        self.fd = fd


class HandleTable:
    """All open handles by number."""

    def __init__(self) -> None:
        """Start empty; the first number is 1, as 0 is what a kernel without a handle sends."""
        self._numbers = itertools.count(1)
        self._files: dict[int, FileHandle] = {}
        #: A directory stream has no state of its own: the list of names and its offsets belong to the node (positions.py).
        self._directories: dict[int, DirectoryInode] = {}

    def __len__(self) -> int:
        """Return how many handles are open."""
        return len(self._files) + len(self._directories)

    def add_file(self, handle: FileHandle) -> int:
        """Number *handle* and attach it to its node."""
        number = next(self._numbers)
        self._files[number] = handle
        handle.node.handles = (*handle.node.handles, handle)
        return number

    def add_directory(self, node: DirectoryInode) -> int:
        """Open a stream of the directory *node* and return its number."""
        number = next(self._numbers)
        self._directories[number] = node
        return number

    def file(self, number: int) -> FileHandle:
        """Return the file handle of that number; EBADF where there is none, though the kernel names none such."""
        try:
            return self._files[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def directory(self, number: int) -> DirectoryInode:
        """Return the directory whose stream has that number; EBADF where no such stream is open."""
        try:
            return self._directories[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def close_file(self, number: int) -> None:
        """Close the file handle of that number."""
        handle = self.file(number)
        del self._files[number]
        handle.node.handles = tuple(other for other in handle.node.handles if other is not handle)
        os.close(handle.fd)

    def close_directory(self, number: int) -> None:
        """Close the directory stream of that number."""
        self.directory(number)
        del self._directories[number]

    def close(self) -> None:
        """Close everything: the file system goes away."""
        for number in list(self._files):
            self.close_file(number)
        self._directories.clear()
