"""Create entries of the union: files, devices, symbolic links, directories and hard links.

:class:`~unionfs.vfs.names.Names` creates a :class:`Creation` and passes the requests of the FUSE front ends to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from unionfs.copyup.copyup import CopyUp
from unionfs.copyup.plan import Contents
from unionfs.formats import acl
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import NO_XATTR, PathRef, at_path
from unionfs.layer.ownership import Ownership
from unionfs.types import Mark
from unionfs.upper.permissions import Permissions
from unionfs.upper.quota import Quota
from unionfs.upper.upper import Maker, Upper
from unionfs.vfs.entries import count_entry, hard_link, require_room

_SET_ID = stat.S_ISUID | stat.S_ISGID


class Creation:
    """MKNOD, CREATE, SYMLINK, MKDIR and LINK in one writable mount. It has no state of its own."""

    def __init__(
        self,
        inode_table: InodeTable,
        upper: Upper,
        copy_up: CopyUp,
        ownership: Ownership,
        permissions: Permissions,
        quota: Quota | None,
    ) -> None:
        """Join the parts; *quota* limits the number and size of new objects."""
        self._inode_table = inode_table
        self._upper = upper
        self._copy_up = copy_up
        self._ownership = ownership
        self._permissions = permissions
        self._quota = quota

    def mknod(
        self, parent: DirectoryInode, name: bytes, mode: int, rdev: int, owner: tuple[int, int]
    ) -> FileInode:
        """Create a file, FIFO, socket or device of type and permissions *mode*.

        Raises:
            OSError: EPERM for a character device 0:0, because that is a whiteout.
        """
        if stat.S_ISCHR(mode) and rdev == 0:
            raise OSError(errno.EPERM, "a character device 0:0 is a whiteout", name)

        kind = self._permissions.disk_kind(stat.S_IFMT(mode), *owner)

        def make(dirfd: int, at: bytes) -> None:
            os.mknod(at, kind | stat.S_IMODE(mode) & ~_SET_ID, rdev, dir_fd=dirfd)

        return self._make(parent, name, mode, owner, make, rdev)

    def symlink(
        self, parent: DirectoryInode, name: bytes, target: bytes, owner: tuple[int, int]
    ) -> FileInode:
        """Create a symbolic link to *target*."""
        kind = self._permissions.disk_kind(stat.S_IFLNK, *self._group_of(parent, owner))

        def make(dirfd: int, at: bytes) -> None:
            if stat.S_ISLNK(kind):
                os.symlink(target, at, dir_fd=dirfd)
            else:
                fd = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dirfd)
                try:
                    os.write(fd, target)
                finally:
                    os.close(fd)

        return self._make(parent, name, stat.S_IFLNK | 0o777, owner, make)

    def create(
        self, parent: DirectoryInode, name: bytes, mode: int, flags: int, owner: tuple[int, int]
    ) -> tuple[FileInode, int]:
        """Create a regular file and open it with *flags* (access mode). Return its inode and the descriptor."""
        opened = -1

        def make(dirfd: int, at: bytes) -> None:
            nonlocal opened
            making = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            opened = os.open(at, making, stat.S_IMODE(mode) & ~_SET_ID, dir_fd=dirfd)

        try:
            kind = stat.S_IFREG | stat.S_IMODE(mode)
            return self._make(parent, name, kind, owner, make, look=lambda: os.fstat(opened)), opened
        except OSError:
            if opened >= 0:
                os.close(opened)
            raise

    def mkdir(self, parent: DirectoryInode, name: bytes, mode: int, owner: tuple[int, int]) -> DirectoryInode:
        """Create a directory. Over a whiteout it is opaque, so that deleted entries of lower layers stay hidden."""
        directory = self._prepare(parent, name)

        def make(dirfd: int, at: bytes) -> None:
            os.mkdir(at, stat.S_IMODE(mode) & ~_SET_ID, dir_fd=dirfd)

        complete, whole = self._maker(parent, directory, stat.S_IFDIR | stat.S_IMODE(mode), owner, make)
        opaque = directory.mark(name) is Mark.WHITEOUT
        blocks = require_room(self._quota, directory)
        made = self._upper.create_directory(directory, name, complete, opaque=opaque, whole=whole)
        parent.touch()
        inode = self._inode_table.add_new_directory(parent, name, made)
        count_entry(self._quota, inode, directory, blocks)
        return inode

    def link(self, inode: FileInode, parent: DirectoryInode, name: bytes) -> FileInode:
        """Give *inode* the additional name *name* in *parent*."""
        directory = self._prepare(parent, name)
        self._copy_up.file(inode, Contents.LATER)
        self._copy_up.settle_contents(inode)
        if not self._permissions.can_store_any_owner(inode.ref, inode.kind):
            self._copy_up.remake(inode, links=2)
        blocks = require_room(self._quota, directory, 0)
        self._upper.create(directory, name, lambda dirfd, at: hard_link(inode, dirfd, at))
        count_entry(self._quota, None, directory, blocks)
        inode.touch()
        parent.touch()
        self._inode_table.attach(inode, parent, name)
        return inode

    def owner_for_new(
        self, parent: DirectoryInode, owner: tuple[int, int], mode: int
    ) -> tuple[int, int, int, bool]:
        """Return user, group and *mode* on disk of an object that the caller *owner* creates in *parent*.

        The last value is whether *parent* determines the group.
        """
        above = self._owner_of(parent)
        return (*self._ownership.for_new(*owner, mode, above), bool(above[2] & stat.S_ISGID))

    def _make(
        self,
        parent: DirectoryInode,
        name: bytes,
        mode: int,
        owner: tuple[int, int],
        make: Maker,
        rdev: int = 0,
        look: Callable[[], os.stat_result] | None = None,
    ) -> FileInode:
        """Create an object with *make*. *look* returns its status on disk, if that costs less than a stat of its name."""
        directory = self._prepare(parent, name)
        complete, whole = self._maker(parent, directory, mode, owner, make, rdev)
        blocks = require_room(self._quota, directory)
        self._upper.create(directory, name, complete, whole=whole)
        parent.touch()
        ref = PathRef(directory, name)
        info = ref.stat() if look is None or directory.layer.policy.override_stat else look()
        inode = self._inode_table.add_new_file(parent, name, ref, info)
        count_entry(self._quota, inode, directory, blocks)
        return inode

    def _maker(
        self,
        parent: DirectoryInode,
        directory: LayerDir,
        mode: int,
        owner: tuple[int, int],
        make: Maker,
        rdev: int = 0,
    ) -> tuple[Maker, bool]:
        """Return a function that creates a complete object of *mode* (with type), and whether *make* alone suffices.

        The object belongs to the caller *owner*. *directory* is the upper directory of *parent*. *make* creates the
        object without set-id bits.
        """
        uid, gid, mode, inherits = self.owner_for_new(parent, owner, mode)
        whole = self._permissions.is_complete_when_made(mode, uid, gid, inherits=inherits)

        def complete(dirfd: int, at: bytes) -> None:
            make(dirfd, at)
            if whole and dirfd == directory.fd():
                return
            try:
                self._permissions.settle(dirfd, at, uid, gid, mode, rdev, inherits=inherits)
                if dirfd != directory.fd() and not directory.layer.policy.override_stat:
                    _inherit_acl(directory, dirfd, at, mode)
            except OSError:
                (os.rmdir if stat.S_ISDIR(mode) else os.unlink)(at, dir_fd=dirfd)
                raise

        return complete, whole

    def _prepare(self, parent: DirectoryInode, name: bytes) -> LayerDir:
        """Check that *name* can be created in *parent*, and copy *parent* up. Return its upper directory."""
        if parent.removed:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        self._upper.refuse_reserved(name)
        if self._inode_table.exists(parent, name):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._copy_up.directory(parent)
        directory = parent.upper
        assert directory is not None
        return directory

    def _group_of(self, parent: DirectoryInode, owner: tuple[int, int]) -> tuple[int, int]:
        uid, gid, _ = self._ownership.for_new(*owner, 0, self._owner_of(parent))
        return uid, gid

    def _owner_of(self, inode: DirectoryInode) -> tuple[int, int, int]:
        info = inode.info
        if info is None:
            info = inode.info = inode.parts[0].stat()
        return self._ownership.for_copy(info, inode.parts[0].layer)


def _inherit_acl(directory: LayerDir, dirfd: int, name: bytes, mode: int) -> None:
    """Give the object *name*, created with *mode* elsewhere, the ACLs that it would have inherited from *directory*."""
    if stat.S_ISLNK(mode):
        return
    try:
        default = os.getxattr(directory.proc_path(), acl.DEFAULT)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return
    path = at_path(dirfd, name)
    access, mode = acl.inherit(default, mode)
    os.chmod(path, stat.S_IMODE(mode))
    if access is not None:
        os.setxattr(path, acl.ACCESS, access, follow_symlinks=False)
    if stat.S_ISDIR(mode):
        os.setxattr(path, acl.DEFAULT, default, follow_symlinks=False)
