"""Extended attributes of the union: those of the underlying object, without the marks of union file systems."""

from __future__ import annotations

import errno
import os

from unionfs.copyup.plan import Contents
from unionfs.formats import acl
from unionfs.formats.xattrs import shown_name, stored_name
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.layer.objects import NO_XATTR, follows
from unionfs.upper.quota import counted

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.vfs.filesystem import UnionFs

NO_XATTRS: frozenset[str] = frozenset()
_ACLS = frozenset((acl.ACCESS, acl.DEFAULT))


class Xattrs:
    """Lists, reads and changes extended attributes. The facade creates it; it has no state of its own."""

    def __init__(self, fs: UnionFs) -> None:
        """Serve *fs*."""
        self._fs = fs
        self._inode_table = fs.inode_table
        self._quota = fs.quota

    def _names(self, inode: Inode) -> frozenset[str]:
        names = inode.xattrs
        if names is None:
            if _has_no_contents(inode):
                return frozenset()
            found = [] if inode.ref.known_no_xattrs else listed_xattrs(inode)
            override = inode.layer.policy.override_stat
            shown = (shown_name(name, override=override) for name in found)
            names = frozenset(filter(None, shown)) if found else NO_XATTRS
            inode.xattrs = names = names if self._fs.acls else names - _ACLS
        return names

    def has_default_acl(self, inode: DirectoryInode) -> bool:
        """Return whether *inode* has a default ACL, which replaces the umask for new objects in the directory."""
        return self._fs.acls and acl.DEFAULT in self._names(inode)

    def list(self, ino: int) -> list[str]:
        """Return the names of the extended attributes, without those of union file systems."""
        return sorted(self._names(self._inode_table.inode(ino)))

    def get(self, ino: int, name: str) -> bytes:
        """Return an extended attribute; ENODATA, without a system call, if the cached names do not contain it."""
        self._refuse_acl(name)
        inode = self._inode_table.inode(ino)
        if name not in self._names(inode):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        value = inode.ref.get_xattr(_stored_name(inode, name))
        return acl.mapped(value) if name in _ACLS else value

    def set(self, ino: int, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute. A name that is also a mark of a union file system is stored under another (formats/xattrs.py).

        *flags*: XATTR_CREATE or XATTR_REPLACE of setxattr(2).
        """
        self._refuse_acl(name)
        if flags:
            there = name in self._names(self._inode_table.inode(ino))
            if flags & os.XATTR_CREATE and there:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            if flags & os.XATTR_REPLACE and not there:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        inode = self._for_change(ino)
        path, follow = inode.ref.proc_path(), follows(inode.ref)
        if self._quota is not None:
            self._quota.require(1)
        with counted(self._quota, inode.ref.stat):
            os.setxattr(path, _stored_name(inode, name), value, follow_symlinks=follow)
        _changed(inode)

    def _refuse_acl(self, name: str) -> None:
        if name in _ACLS and not self._fs.acls:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), name)

    def remove(self, ino: int, name: str) -> None:
        """Remove an extended attribute; ENODATA, without a copy-up, if there is none."""
        if name not in self._names(self._inode_table.inode(ino)):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        inode = self._for_change(ino)
        path, follow = inode.ref.proc_path(), follows(inode.ref)
        os.removexattr(path, _stored_name(inode, name), follow_symlinks=follow)
        _changed(inode)

    def _for_change(self, ino: int) -> Inode:
        inode = self._inode_table.inode(ino)
        copy_up = self._fs.parts().copy_up
        if isinstance(inode, DirectoryInode):
            copy_up.directory(inode)
        else:
            copy_up.file(inode, Contents.LATER)
        return inode


def listed_xattrs(inode: Inode) -> list[str]:
    """Return the names of all extended attributes of the underlying object of *inode*."""
    try:
        return inode.ref.list_xattrs()
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return []


def _has_no_contents(inode: Inode) -> bool:
    return inode.is_mount_point or (isinstance(inode, DirectoryInode) and inode.parts[0].shown_empty)


def _changed(inode: Inode) -> None:
    inode.xattrs = None
    inode.touch()
    if isinstance(inode, FileInode):
        inode.privileged = None


def _stored_name(inode: Inode, name: str) -> str:
    return stored_name(name, override=inode.layer.policy.override_stat)
