"""Open files and directory streams, numbered for the kernel."""

from __future__ import annotations

import errno
import itertools
import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.nodes import DirNode, FileNode


class FileHandle:
    """One open(2) of a file: a descriptor of its own with its own access mode, used with positions only
    (pread, pwrite).
    """

    __slots__ = ("fd", "flags", "node", "ours")

    def __init__(self, node: FileNode, fd: int, flags: int) -> None:
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


class DirHandle:
    """One opendir(3): the names as they were when the stream was first read from its start, or last rewound.

    The offset of an entry is its place in that list, so an offset stays good however the directory changes:
    nothing is reported twice or left out that was there all along, as POSIX asks of readdir.
    """

    __slots__ = ("info", "names", "node")

    def __init__(self, node: DirNode, names: list[bytes]) -> None:
        """Open a stream on *node*, which has *names* now."""
        self.node = node
        self.names = names
        #: The node's attributes when the names were read. Every change of names replaces them (``Node.touch``), so
        #: that a reading from the start knows whether it has to read the names again.
        self.info = node.info


class HandleTable:
    """All open handles by number."""

    def __init__(self) -> None:
        """Start empty; the first number is 1, as 0 is what a kernel without a handle sends."""
        self._numbers = itertools.count(1)
        self._files: dict[int, FileHandle] = {}
        self._directories: dict[int, DirHandle] = {}

    def __len__(self) -> int:
        """Return how many handles are open."""
        return len(self._files) + len(self._directories)

    def add_file(self, handle: FileHandle) -> int:
        """Number *handle* and attach it to its node."""
        number = next(self._numbers)
        self._files[number] = handle
        handle.node.handles = (*handle.node.handles, handle)
        return number

    def add_directory(self, handle: DirHandle) -> int:
        """Number *handle*."""
        number = next(self._numbers)
        self._directories[number] = handle
        return number

    def file(self, number: int) -> FileHandle:
        """Return the file handle of that number; EBADF where there is none, though the kernel names none such."""
        try:
            return self._files[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def directory(self, number: int) -> DirHandle:
        """Return the directory handle of that number; EBADF where there is none."""
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
        """Close the directory handle of that number."""
        self.directory(number)
        del self._directories[number]

    def close(self) -> None:
        """Close everything: the file system goes away."""
        for number in list(self._files):
            self.close_file(number)
        self._directories.clear()
