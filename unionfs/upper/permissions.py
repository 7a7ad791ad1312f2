"""Store owner, mode and type of objects in the writable layer: on disk, or in an extended attribute (``override_stat``).

A server that owns a single id can neither give a file away nor make a device. With ``override_stat``
(formats/override_stat.py) the object on disk is an ordinary file of the server, and the attribute contains the visible
owner, mode and type. Objects that the disk can represent get no attribute. Whatever the visible mode, the owner on disk
keeps the right to read and write (and to search a directory). So ordinary tools can read, copy and remove the layer.
"""

from __future__ import annotations

import os
import stat

from unionfs.formats.override_stat import OVERRIDE_XATTR, Override, encode
from unionfs.formats.xattrs import stored_name
from unionfs.layer.directory import Ref
from unionfs.layer.objects import NO_XATTR, DescriptorRef, PathRef, at_path, follows

_CAPABILITY = stored_name("security.capability", override=True)
_SET_ID = stat.S_ISUID | stat.S_ISGID
_OWNERS = stat.S_IRUSR | stat.S_IWUSR


class NativePermissions:
    """Stores owner, mode and type on disk."""

    def __init__(self) -> None:
        """Record the user and group ids of the server, which own new objects."""
        self._euid, self._egid = os.geteuid(), os.getegid()

    def disk_kind(self, kind: int, uid: int, gid: int, *, links: int = 1) -> int:
        """Return the type (``stat.S_IFMT``) on disk of an object of type *kind* with that owner and *links* names."""
        del uid, gid, links
        return kind

    def is_complete_when_made(self, mode: int, uid: int, gid: int, *, inherits: bool) -> bool:
        """Return whether :meth:`settle` has nothing to do after the system call that makes an object of *mode* (with type).

        If there is something to do, the caller must not give the object its name before: the server might be killed in between.
        """
        mine = uid == self._euid and gid == self._egid
        return mine and not inherits and (stat.S_ISLNK(mode) or not mode & _SET_ID)

    def birth_mode(self, mode: int) -> int:
        """Return the permission bits for making a regular file that finally gets *mode*.

        They let its owner read and write, because the server still has to fill it.
        """
        bits = self._disk_bits(mode) & 0o777
        return bits if bits & _OWNERS == _OWNERS else _OWNERS

    def _disk_bits(self, mode: int) -> int:
        """Return the permission bits on disk of a regular file with the visible *mode*."""
        return stat.S_IMODE(mode)

    def own(
        self, dirfd: int, name: bytes, made: os.stat_result, uid: int, gid: int, mode: int, rdev: int = 0
    ) -> None:
        """Set the owner of the new object *name* in *dirfd*, whose attributes are *made*.

        *mode* (with type) and *rdev* are stored as well if the disk cannot represent them. The caller does this before it
        sets attributes and mode, because a change of owner clears file capabilities and set-id bits.
        """
        del mode, rdev
        if (made.st_uid, made.st_gid) != (uid, gid):
            os.chown(name, uid, gid, dir_fd=dirfd, follow_symlinks=False)

    def has_mode(self, made: os.stat_result, mode: int) -> bool:
        """Return whether :meth:`restrict` would not change a regular file whose attributes are *made*."""
        return stat.S_IMODE(made.st_mode) == self._disk_bits(mode)

    def restrict(self, dirfd: int, name: bytes, mode: int) -> None:
        """Set the permission bits of the new object *name* in *dirfd* to *mode*."""
        os.chmod(name, stat.S_IMODE(mode), dir_fd=dirfd)

    def settle(
        self, dirfd: int, name: bytes, uid: int, gid: int, mode: int, rdev: int, *, inherits: bool
    ) -> None:
        """Set owner and set-id bits of the object *name*, which was made with *mode* without its set-id bits.

        *inherits*: the directory determines the group.
        """
        del rdev
        if uid != self._euid or gid != self._egid or inherits:
            os.chown(name, uid, gid, dir_fd=dirfd, follow_symlinks=False)
        if mode & _SET_ID and not stat.S_ISLNK(mode):
            # After the owner, because chown clears these bits. The other bits stay as they were made, or as a default ACL
            # set them.
            made = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(made.st_mode) | mode & _SET_ID, dir_fd=dirfd)

    def settle_unnamed(self, ref: DescriptorRef, uid: int, gid: int, mode: int, *, inherits: bool) -> None:
        """Do the same as :meth:`settle` for the regular file *ref*, which has no name."""
        if uid != self._euid or gid != self._egid or inherits:
            os.chown(ref.proc_path(), uid, gid)
        if mode & _SET_ID:
            os.chmod(ref.proc_path(), stat.S_IMODE(ref.stat().st_mode) | mode & _SET_ID)

    def can_store_owner(self, ref: Ref, kind: int, uid: int, gid: int) -> bool:
        """Return whether the object *ref* of type *kind* can get that owner; otherwise a new object has to replace it."""
        del ref, kind, uid, gid
        return True

    def can_store_any_owner(self, ref: Ref, kind: int) -> bool:
        """Return whether the object can get any owner. It must before it gets a second name: a new object cannot replace
        one with several names.
        """
        del ref, kind
        return True

    def chown(self, ref: Ref, uid: int, gid: int) -> None:
        """Change the owner like chown(2); -1 leaves an id unchanged."""
        if isinstance(ref, PathRef):
            os.chown(ref.name, uid, gid, dir_fd=ref.directory.fd(), follow_symlinks=False)
        else:
            os.chown(ref.proc_path(), uid, gid)

    def chmod(self, ref: Ref, mode: int, fd: int | None = None) -> None:
        """Change the permission bits; *fd* is a descriptor of the object, if there is one."""
        if fd is None and isinstance(ref, PathRef):
            os.chmod(ref.name, stat.S_IMODE(mode), dir_fd=ref.directory.fd())
        else:
            os.chmod(ref.proc_path() if fd is None else fd, stat.S_IMODE(mode))


class OverridePermissions(NativePermissions):
    """Stores in the attribute what the disk cannot represent."""

    def disk_kind(self, kind: int, uid: int, gid: int, *, links: int = 1) -> int:
        """Return the type on disk. Objects that need an attribute, or may need one later, but cannot have one become
        regular files.
        """
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            return kind
        return kind if stat.S_ISLNK(kind) and links == 1 and self._is_mine(uid, gid) else stat.S_IFREG

    def is_complete_when_made(self, mode: int, uid: int, gid: int, *, inherits: bool) -> bool:
        """Return whether the object needs no attribute."""
        if stat.S_ISLNK(mode):
            return self._is_mine(uid, gid)
        kind = stat.S_IFMT(mode)
        return self.disk_kind(kind, uid, gid) == kind and self._fits_disk(uid, gid, mode) and not inherits

    def can_store_owner(self, ref: Ref, kind: int, uid: int, gid: int) -> bool:
        """Return whether the object can get that owner: all but symbolic links that are stored as such on disk."""
        return self._is_mine(uid, gid) or self.can_store_any_owner(ref, kind)

    def can_store_any_owner(self, ref: Ref, kind: int) -> bool:
        """Return whether the object can get any owner: all but symbolic links that are stored as such on disk."""
        return not stat.S_ISLNK(kind) or not stat.S_ISLNK(_on_disk(ref).st_mode)

    def _disk_bits(self, mode: int) -> int:
        return _disk_mode(mode, is_dir=False)

    def own(
        self, dirfd: int, name: bytes, made: os.stat_result, uid: int, gid: int, mode: int, rdev: int = 0
    ) -> None:
        """Write the attribute if the disk cannot represent owner, mode and type."""
        disk = made.st_mode
        if stat.S_ISLNK(disk):
            return
        if stat.S_IFMT(disk) != stat.S_IFMT(mode) or not self._fits_disk(uid, gid, mode):
            value = encode(Override(uid, gid, mode, rdev))
            os.setxattr(at_path(dirfd, name), OVERRIDE_XATTR, value, follow_symlinks=False)

    def restrict(self, dirfd: int, name: bytes, mode: int) -> None:
        """Set the permission bits on disk."""
        disk = os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode
        if not stat.S_ISLNK(disk):
            os.chmod(name, _disk_mode(mode, stat.S_ISDIR(disk)), dir_fd=dirfd)

    def settle(
        self, dirfd: int, name: bytes, uid: int, gid: int, mode: int, rdev: int, *, inherits: bool
    ) -> None:
        """Write the attribute and set the permission bits on disk."""
        del inherits
        self.own(dirfd, name, os.stat(name, dir_fd=dirfd, follow_symlinks=False), uid, gid, mode, rdev)
        self.restrict(dirfd, name, mode)

    def settle_unnamed(self, ref: DescriptorRef, uid: int, gid: int, mode: int, *, inherits: bool) -> None:
        """Write the attribute and set the permission bits on disk."""
        del inherits
        self._change(ref, ref.stat(), uid, gid, mode)

    def chown(self, ref: Ref, uid: int, gid: int) -> None:
        """Change the owner, and clear set-id bits and capabilities like chown(2)."""
        info = ref.stat()
        mode = info.st_mode
        if not stat.S_ISDIR(mode):
            mode = without_privileges(mode)
            try:
                os.removexattr(ref.proc_path(), _CAPABILITY, follow_symlinks=follows(ref))
            except OSError as error:
                if error.errno not in NO_XATTR:
                    raise
        self._change(ref, info, info.st_uid if uid == -1 else uid, info.st_gid if gid == -1 else gid, mode)

    def chmod(self, ref: Ref, mode: int, fd: int | None = None) -> None:
        """Change the permission bits. *fd* is not used, because the attribute contains them."""
        del fd
        info = ref.stat()
        self._change(ref, info, info.st_uid, info.st_gid, stat.S_IFMT(info.st_mode) | stat.S_IMODE(mode))

    def _change(self, ref: Ref, info: os.stat_result, uid: int, gid: int, mode: int) -> None:
        path, follow = ref.proc_path(), follows(ref)
        disk = _on_disk(ref)
        if stat.S_ISLNK(disk.st_mode):
            return
        value = encode(Override(uid, gid, mode, info.st_rdev))
        os.setxattr(path, OVERRIDE_XATTR, value, follow_symlinks=follow)
        wanted = _disk_mode(mode, stat.S_ISDIR(disk.st_mode))
        if stat.S_IMODE(disk.st_mode) != wanted:
            try:
                os.chmod(path, wanted)
            except OSError:
                value = encode(Override(info.st_uid, info.st_gid, info.st_mode, info.st_rdev))
                os.setxattr(path, OVERRIDE_XATTR, value, follow_symlinks=follow)
                raise

    def _is_mine(self, uid: int, gid: int) -> bool:
        return uid == self._euid and gid == self._egid

    def _fits_disk(self, uid: int, gid: int, mode: int) -> bool:
        return self._is_mine(uid, gid) and stat.S_IMODE(mode) == _disk_mode(mode, stat.S_ISDIR(mode))


Permissions = NativePermissions | OverridePermissions


def _on_disk(ref: Ref) -> os.stat_result:
    """Return the attributes of *ref* on disk, without the overriding extended attribute."""
    if isinstance(ref, DescriptorRef):
        return os.fstat(ref.fd)
    return os.stat(ref.proc_path(), follow_symlinks=follows(ref))


def _disk_mode(mode: int, is_dir: bool) -> int:
    """Return the permission bits on disk of an object with the visible *mode*."""
    return (mode & 0o777) | (0o700 if is_dir else 0o600)


def without_privileges(mode: int) -> int:
    """Return the *mode* of a file without the set-id bits that a change of its contents or owner clears."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def owns_single_id() -> bool:
    """Return whether this process's user namespace maps a single user id, so that it cannot give files away
    (user_namespaces(7)).
    """
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return sum(int(line.split()[2]) for line in file) == 1
