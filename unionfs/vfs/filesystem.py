"""The facade of the file system, in terms of inode numbers. Raises OSError; imports neither pyfuse3 nor trio.

    attributes     what the mount shows of an inode; SETATTR
    names          lookup is the inode table's; MKDIR, LINK, UNLINK, RENAME and their like
    files          OPEN, CREATE, READ, WRITE, FSYNC; ranges of open files are in file_ranges
    directories    OPENDIR, READDIR, FSYNCDIR
    xattrs         GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR

A FUSE front end calls these and nothing below them. Every method is atomic to every other: none waits for another request.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from unionfs._stdlib.dataclasses import dataclass
from unionfs.copyup.copyup import CopyUp
from unionfs.inode.handles import HandleTable
from unionfs.inode.numbers import Identity
from unionfs.inode.table import InodeTable
from unionfs.layer.ownership import Ownership
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions
from unionfs.upper.quota import FileSystemFigures, Quota
from unionfs.upper.upper import Upper
from unionfs.vfs.attributes import FileAttributes
from unionfs.vfs.directories import Directories
from unionfs.vfs.files import Files
from unionfs.vfs.names import Names
from unionfs.vfs.xattrs import Xattrs

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer_index.store import Store


class UnionFs:
    """One union, mounted or not: its inodes, its open files, and its writable parts. `assemble` creates it; close it."""

    def __init__(
        self,
        inode_table: InodeTable,
        ownership: Ownership,
        writable: WritableParts | None,
        *,
        volatile: bool = False,
        static_nlink: bool = False,
        acls: bool = False,
        layer_indexes: Store | None = None,
    ) -> None:
        """Join the parts; without *writable* the file system is read-only.

        Args:
            inode_table: the inodes.
            ownership: how owners are shown.
            writable: what a writable mount has besides.
            volatile: nothing is ever synced.
            static_nlink: every directory has a link count of 1.
            acls: POSIX access control lists are shown and can be set; who asks honours them.
            layer_indexes: what the indexes of layers come from, to be closed with them.
        """
        self.inode_table = inode_table
        self.handles = HandleTable()
        self.writable = writable
        self.quota = writable.quota if writable is not None else None
        self.ownership = ownership
        #: Whether nothing is ever synced.
        self.volatile = volatile
        self.static_nlink = static_nlink
        self.acls = acls
        self._layer_indexes = layer_indexes
        self.attributes = FileAttributes(self)
        self.files = Files(self)
        self.directories = Directories(self)
        self.xattrs = Xattrs(self)

    @property
    def names(self) -> Names:
        """The changes of names; EROFS where there is no writable layer."""
        return self.parts().names

    def parts(self) -> WritableParts:
        """Return what a writable mount has; EROFS where this is none."""
        if self.writable is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.writable

    def trim(self) -> None:
        """Let go of what no reply has told the kernel of, and of descriptors over the limit; do what of a copy-up could
        wait. Called between requests.
        """
        if self.writable is not None:
            self.writable.copy_up.finish()
        self.inode_table.settle()
        self.inode_table.layers[0].fds.trim()

    def prepare_copies(self) -> None:
        """Begin each copy-up before it is needed, where copies come in a row: for whoever calls :meth:`trim` when a request
        has been answered, and :meth:`make_room` before one that there was no room for is tried again.
        """
        if self.writable is not None:
            self.writable.copy_up.prepare_next()

    def make_room(self) -> None:
        """Take no room in the writable layer, where there is none, but for what is in it."""
        if self.writable is not None:
            self.writable.copy_up.make_room()

    def close(self) -> None:
        """Close every descriptor."""
        if self.writable is not None:
            self.writable.copy_up.close()
        self.handles.close()
        self.inode_table.close()
        fds = self.inode_table.layers[0].fds
        fds.capacity = 0
        fds.trim()
        for layer in self.inode_table.layers:
            layer.close()
        if self.writable is not None:
            self.writable.index.close()
            self.writable.upper.close()
        if self._layer_indexes is not None:
            self._layer_indexes.close()

    def statfs(self) -> FileSystemFigures:
        """Return the figures of the file system below the top layer, within the bounds of the layer's own."""
        info = os.fstatvfs(self.inode_table.root.parts[0].fd())
        found = FileSystemFigures(
            f_bsize=info.f_bsize,
            f_frsize=info.f_frsize,
            f_blocks=info.f_blocks,
            f_bfree=info.f_bfree,
            f_bavail=info.f_bavail,
            f_files=info.f_files,
            f_ffree=info.f_ffree,
            f_favail=info.f_favail,
            f_namemax=info.f_namemax,
        )
        return found if self.quota is None else self.quota.within(found)

    def tell_when_full(self, tell: Callable[[str], None]) -> None:
        """Have *tell* called once for each bound of the writable layer that is reached: "size" or "inodes"."""
        if self.quota is not None:
            self.quota.on_full = tell

    def report_closed_directories(self, report: Callable[[bytes], None], *, host_root: Identity) -> None:
        """Call *report* with the path of each directory of a layer that a request needs and the server may not search, once.

        *host_root* is the root of this machine. Its directories as a layer are closed to the user as they are outside.
        """
        for part in self.inode_table.root.parts:
            info = os.fstat(part.fd())
            if (info.st_dev, info.st_ino) != host_root:
                part.layer.closed.report = report


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableParts:
    """What a writable mount has and a read-only one has not."""

    upper: Upper
    index: LinkIndex
    copy_up: CopyUp
    names: Names
    permissions: Permissions
    quota: Quota | None = None
