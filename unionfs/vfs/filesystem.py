"""The facade of the file system. Its methods take inode numbers and raise OSError. It imports neither pyfuse3 nor trio.

    attributes     GETATTR, SETATTR
    names          MKNOD, CREATE, MKDIR, LINK, UNLINK, RENAME (the inode table does LOOKUP)
    files          OPEN, CREATE, READ, WRITE, FSYNC (file_ranges: FALLOCATE, LSEEK, COPY_FILE_RANGE)
    directories    OPENDIR, READDIR, FSYNCDIR
    xattrs         GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR

A FUSE front end calls these parts and the inode table only. Methods are atomic: none waits for another request.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from unionfs._stdlib.dataclasses import dataclass
from unionfs.copyup.copyup import CopyUp
from unionfs.inode.handles import HandleTable
from unionfs.inode.numbers import Identity
from unionfs.inode.table import InodeTable
from unionfs.layer.ownership import Ownership
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions
from unionfs.upper.quota import Quota, StatvfsResult
from unionfs.upper.upper import Upper
from unionfs.vfs.attributes import FileAttributes
from unionfs.vfs.directories import Directories
from unionfs.vfs.files import Files
from unionfs.vfs.freezing import freeze, leave_index, link_remaining_names
from unionfs.vfs.names import Names
from unionfs.vfs.xattrs import Xattrs

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer_index.store import Store


class UnionFs:
    """One union, mounted or not. It owns the inodes, the open files and the writable parts.

    `unionfs.assemble` creates it, and the server closes it.
    """

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
        """Combine the parts. Without *writable*, the file system is read-only.

        Args:
            inode_table: the inodes.
            ownership: how owners are shown.
            writable: the additional parts of a writable mount.
            volatile: nothing is ever synced.
            static_nlink: every directory has a link count of 1.
            acls: POSIX access control lists are shown and can be set; the front end makes the kernel check them.
            layer_indexes: the store of the layer indexes; closed with the file system.
        """
        self.inode_table = inode_table
        self.handles = HandleTable()
        self.writable = writable
        self.quota = writable.quota if writable is not None else None
        self.ownership = ownership
        #: Nothing is ever synced.
        self.volatile = volatile
        self.static_nlink = static_nlink
        self.acls = acls
        #: Called before the writable layer is frozen, to wait for threads that change files in it. May refuse with EBUSY.
        self.before_freeze: list[Callable[[], None]] = []
        self._layer_indexes = layer_indexes
        self.attributes = FileAttributes(self)
        self.files = Files(self)
        self.directories = Directories(self)
        self.xattrs = Xattrs(self)

    @property
    def names(self) -> Names:
        """The operations that change names; EROFS if there is no writable layer."""
        return self.parts().names

    def parts(self) -> WritableParts:
        """Return the parts of a writable mount; EROFS if this mount is read-only."""
        if self.writable is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.writable

    def trim(self) -> None:
        """Drop inodes that no reply contained, close descriptors over the limit, and finish deferred work of a copy-up.

        The front end calls it between requests.
        """
        if self.writable is not None:
            self.writable.copy_up.finish()
        self.inode_table.settle()
        self.inode_table.layers[0].fds.trim()

    def prepare_copies(self) -> None:
        """After each copy-up, preallocate a file for the next one.

        The caller calls :meth:`trim` after each reply. If a request fails with ENOSPC, it calls :meth:`make_room` before it
        repeats the request.
        """
        if self.writable is not None:
            self.writable.copy_up.prepare_next()

    def make_room(self) -> None:
        """Release the space that is preallocated in the writable layer, because the layer is full."""
        if self.writable is not None:
            self.writable.copy_up.make_room()

    @property
    def search_stamp(self) -> int:
        """The stamp for :meth:`freeze`. The caller reads it before it searches for remaining names."""
        return self.parts().index.search_stamp

    def link_remaining_names(self, paths: Iterable[bytes]) -> int:
        """Make the names *paths*, relative to the root, links of the copies to which only the link index leads from them.

        Return the number of new links. Paths that are something else by now are left out. Programs cannot see the change.

        Raises:
            OSError: EROFS, or a link cannot be made. The links before it stay.
        """
        return link_remaining_names(self, paths)

    def leave_index(self, most: int) -> bool:
        """Remove up to *most* copies from the link index that need no entry in it, and return whether there are more.

        :meth:`freeze` removes all, which takes longer the more there are. A copy needs no entry if all of its names are links of it,
        and if it records its inode number. If the layer is not frozen then, no name and no number changes.

        Raises:
            OSError: EROFS, or an entry cannot be removed.
        """
        return leave_index(self, most)

    def freeze(self, upper_fd: int, work_fd: int, *, searched: int | None = None) -> None:
        """Make the writable layer the topmost lower layer, which never changes again, and continue with an empty one.

        The front end calls it between two requests. Programs cannot see the change. Its time does not depend on the size of the
        layer (docs/unionfs/internals.md, "Freezing").

        Args:
            upper_fd: an empty directory, on the same file system as the present writable layer; taken over.
            work_fd: its work directory; taken over.
            searched: the :attr:`search_stamp` before a search for remaining names, all of which were then linked; None: there was
                no search.

        Raises:
            OSError: EBUSY if names may remain that are not links of their copies, or if threads change files for long; EROFS;
                EXDEV for a directory of another file system; ENOTEMPTY. The layer is still writable.
            UnionError: the new directories cannot hold what the present ones can. The layer is still writable.
        """
        freeze(self, upper_fd, work_fd, searched)

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

    def statfs(self) -> StatvfsResult:
        """Return statvfs(3) of the file system that has the top layer, reduced to the limits of the quota."""
        info = os.fstatvfs(self.inode_table.root.layer.file_system_fd)
        found = StatvfsResult(
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

    def report_when_full(self, report: Callable[[str], None]) -> None:
        """Call *report* once for each limit of the writable layer that is reached, with "size" or "inodes"."""
        if self.quota is not None:
            self.quota.on_full = report

    def report_closed_directories(self, report: Callable[[bytes], None], *, host_root: Identity) -> None:
        """Call *report* once for each directory of a layer that a request needs but the server may not search, with its path.

        *host_root* is the root directory of this machine. As a layer, it is exempt: the user cannot search its
        directories outside of the mount, either.
        """
        for part in self.inode_table.root.parts:
            info = os.fstat(part.layer.file_system_fd)
            if (info.st_dev, info.st_ino) != host_root:
                part.layer.closed.report = report


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableParts:
    """The parts that only a writable mount has."""

    upper: Upper
    index: LinkIndex
    copy_up: CopyUp
    names: Names
    permissions: Permissions
    quota: Quota | None = None
