"""Open files and directory streams, numbered for the kernel."""

from __future__ import annotations

import errno
import itertools
import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.inode.inode import DirectoryInode, FileInode
    from unionfs.layer.contents import FileContents


class OpenContents:
    """An open file: a descriptor, or contents without one. It is used with explicit offsets only (pread, pwrite)."""

    __slots__ = ("contents", "fd")

    #: -1 if the file has no descriptor.
    fd: int
    #: What is read instead of the descriptor; None if there is one.
    contents: FileContents | None

    def read(self, size: int, offset: int) -> bytes:
        """Return up to *size* bytes at *offset*."""
        contents = self.contents
        return os.pread(self.fd, size, offset) if contents is None else contents.read(size, offset)

    def seek(self, offset: int, whence: int) -> int:
        """Return the next data or hole from *offset* on, as lseek(2) with SEEK_DATA or SEEK_HOLE."""
        contents = self.contents
        return os.lseek(self.fd, offset, whence) if contents is None else contents.seek(offset, whence)

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class FileHandle(OpenContents):
    """One open(2) of a file, with its own access mode. It has no descriptor if the file is one of an archive, until it is copied up."""

    __slots__ = ("flags", "inode", "internal")

    def __init__(self, inode: FileInode, fd: int, flags: int, contents: FileContents | None = None) -> None:
        """Take over *fd*, opened with *flags*. For a file of an archive, *fd* is -1, and *contents* are read instead."""
        self.inode = inode
        self.fd = fd
        self.contents = contents
        self.flags = flags
        #: No client opened it: the server keeps it for the next read or write of the file. It does not count as a use of the
        #: file.
        self.internal = False

    def replace(self, fd: int) -> None:
        """Continue with *fd*, a descriptor of the same file after copy-up, and close the old descriptor."""
        self.close()
        self.fd, self.contents = fd, None


class HandleTable:
    """All open handles by number. `UnionFs` creates and closes the table."""

    def __init__(self) -> None:
        """Start empty. The first number is 1, because the kernel sends 0 if it has no handle."""
        self._numbers = itertools.count(1)
        self._files: dict[int, FileHandle] = {}
        #: A directory stream has no state of its own. Its names and their offsets belong to the inode (directory_offsets.py).
        self._directories: dict[int, DirectoryInode] = {}

    def __len__(self) -> int:
        """Return the number of open handles."""
        return len(self._files) + len(self._directories)

    def add_file(self, handle: FileHandle) -> int:
        """Assign a number to *handle* and add it to the handles of its inode."""
        number = next(self._numbers)
        self._files[number] = handle
        handle.inode.handles = (*handle.inode.handles, handle)
        return number

    def add_directory(self, inode: DirectoryInode) -> int:
        """Open a stream of the directory *inode* and return its number."""
        number = next(self._numbers)
        self._directories[number] = inode
        return number

    def file(self, number: int) -> FileHandle:
        """Return the file handle *number*; EBADF if there is none, although the kernel never sends such a number."""
        try:
            return self._files[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def directory(self, number: int) -> DirectoryInode:
        """Return the directory whose stream has the number *number*; EBADF if there is no such stream."""
        try:
            return self._directories[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def close_file(self, number: int) -> None:
        """Close the file handle *number*."""
        handle = self.file(number)
        del self._files[number]
        handle.inode.handles = tuple(other for other in handle.inode.handles if other is not handle)
        handle.close()

    def close_directory(self, number: int) -> None:
        """Close the directory stream *number*."""
        self.directory(number)
        del self._directories[number]

    def close(self) -> None:
        """Close all handles when the file system is closed."""
        for number in list(self._files):
            self.close_file(number)
        self._directories.clear()
