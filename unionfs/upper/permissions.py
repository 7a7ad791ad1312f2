"""How owner, mode and type are put on disk in the writable layer: as they are, or in an attribute.

A server that owns a single id cannot give a file away, nor make a device; with ``override_stat`` (override.py) the
file on disk is an ordinary one of its own, and the attribute says what is shown. What the disk can hold as it is
gets no attribute. On disk the owner keeps the right to read and write (and to search a directory), whatever mode is
shown, so that the layer can be read, copied and removed by plain tools.
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
    """Owner, mode and type are those on disk."""

    def __init__(self) -> None:
        """Remember who makes the objects."""
        self._euid, self._egid = os.geteuid(), os.getegid()

    def disk_kind(self, kind: int, uid: int, gid: int, *, links: int = 1) -> int:
        """Return the type (``stat.S_IFMT``) under which an object of type *kind* of that owner, which is going to
        have *links* names, is made on disk.
        """
        del uid, gid, links
        return kind

    def made_whole(self, mode: int, uid: int, gid: int, *, inherits: bool) -> bool:
        """Tell whether the call that makes an object of *mode* (with type) and that owner leaves :meth:`settle`
        nothing to do. Otherwise a kill in between must not leave its name.
        """
        mine = uid == self._euid and gid == self._egid
        return mine and not inherits and (stat.S_ISLNK(mode) or not mode & _SET_ID)

    def birth_mode(self, mode: int) -> int:
        """Return the permission bits with which a regular file that is to have *mode* is made: its owner may read and write
        it, for what is still to be done with it.
        """
        bits = self._disk_bits(mode) & 0o777
        return bits if bits & _OWNERS == _OWNERS else _OWNERS

    def _disk_bits(self, mode: int) -> int:
        """Return the permission bits on disk of a regular file that is shown with *mode*."""
        return stat.S_IMODE(mode)

    def own(
        self, dirfd: int, name: bytes, made: os.stat_result, uid: int, gid: int, mode: int, rdev: int = 0
    ) -> None:
        """Give the new object *name* of *dirfd*, which was *made* so, its owner; *mode* (with type) and *rdev* as far
        as the disk has none.

        Before its attributes and its mode: a change of owner clears file capabilities and set-id bits.
        """
        del mode, rdev
        if (made.st_uid, made.st_gid) != (uid, gid):
            os.chown(name, uid, gid, dir_fd=dirfd, follow_symlinks=False)

    def has_mode(self, made: os.stat_result, mode: int) -> bool:
        """Tell whether :meth:`restrict` would leave a regular file, which was *made* so, as it is."""
        return stat.S_IMODE(made.st_mode) == self._disk_bits(mode)

    def restrict(self, dirfd: int, name: bytes, mode: int) -> None:
        """Give the new object *name* of *dirfd* its permission bits *mode*."""
        os.chmod(name, stat.S_IMODE(mode), dir_fd=dirfd)

    def settle(
        self, dirfd: int, name: bytes, uid: int, gid: int, mode: int, rdev: int, *, inherits: bool
    ) -> None:
        """Give the object *name*, which was made with *mode* less its set-id bits, its owner and those bits.

        *inherits*: its directory gives it a group.
        """
        del rdev
        if uid != self._euid or gid != self._egid or inherits:
            os.chown(name, uid, gid, dir_fd=dirfd, follow_symlinks=False)
        if mode & _SET_ID and not stat.S_ISLNK(mode):
            # After the owner: chown clears them. The others are as they were made, or as a default ACL has them.
            made = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(made.st_mode) | mode & _SET_ID, dir_fd=dirfd)

    def settle_unnamed(self, ref: DescriptorRef, uid: int, gid: int, mode: int, *, inherits: bool) -> None:
        """Do what :meth:`settle` does for the regular file *ref*, which has no name."""
        if uid != self._euid or gid != self._egid or inherits:
            os.chown(ref.proc_path(), uid, gid)
        if mode & _SET_ID:
            os.chmod(ref.proc_path(), stat.S_IMODE(ref.stat().st_mode) | mode & _SET_ID)

    def holds_owner(self, ref: Ref, kind: int, uid: int, gid: int) -> bool:
        """Tell whether the object *ref* of *kind* can be given that owner as it is; else it has to be made anew."""
        del ref, kind, uid, gid
        return True

    def holds_any_owner(self, ref: Ref, kind: int) -> bool:
        """Tell whether that goes for every owner: one with several names cannot be made anew."""
        del ref, kind
        return True

    def chown(self, ref: Ref, uid: int, gid: int) -> None:
        """Change the owner as chown(2); -1 leaves one alone."""
        if isinstance(ref, PathRef):
            os.chown(ref.name, uid, gid, dir_fd=ref.directory.fd(), follow_symlinks=False)
        else:
            os.chown(ref.proc_path(), uid, gid)

    def chmod(self, ref: Ref, mode: int, fd: int | None = None) -> None:
        """Change the permission bits; *fd* is a descriptor of the object, where there is one."""
        if fd is None and isinstance(ref, PathRef):
            os.chmod(ref.name, stat.S_IMODE(mode), dir_fd=ref.directory.fd())
        else:
            os.chmod(ref.proc_path() if fd is None else fd, stat.S_IMODE(mode))


class OverridePermissions(NativePermissions):
    """What the disk cannot hold is in the attribute."""

    def disk_kind(self, kind: int, uid: int, gid: int, *, links: int = 1) -> int:
        """Return the type on disk: what can carry no attribute and needs one, or may come to, is a regular file."""
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            return kind
        return kind if stat.S_ISLNK(kind) and links == 1 and self._is_mine(uid, gid) else stat.S_IFREG

    def made_whole(self, mode: int, uid: int, gid: int, *, inherits: bool) -> bool:
        """So is what needs no attribute."""
        if stat.S_ISLNK(mode):
            return self._is_mine(uid, gid)
        kind = stat.S_IFMT(mode)
        return self.disk_kind(kind, uid, gid) == kind and self._fits_disk(uid, gid, mode) and not inherits

    def holds_owner(self, ref: Ref, kind: int, uid: int, gid: int) -> bool:
        """Only a symbolic link that is one on disk cannot."""
        return self._is_mine(uid, gid) or self.holds_any_owner(ref, kind)

    def holds_any_owner(self, ref: Ref, kind: int) -> bool:
        """Again, only a symbolic link that is one on disk cannot."""
        return not stat.S_ISLNK(kind) or not stat.S_ISLNK(_on_disk(ref).st_mode)

    def _disk_bits(self, mode: int) -> int:
        return _disk_mode(mode, is_dir=False)

    def own(
        self, dirfd: int, name: bytes, made: os.stat_result, uid: int, gid: int, mode: int, rdev: int = 0
    ) -> None:
        """Write the attribute, where the disk cannot hold all of it."""
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
        """Change the owner, and clear set-id bits and capabilities as chown(2) does."""
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
        """Change the permission bits; *fd* is of no use, as the attribute says what they are."""
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
    """Return the attributes of *ref* without what an attribute says instead."""
    if isinstance(ref, DescriptorRef):
        return os.fstat(ref.fd)
    return os.stat(ref.proc_path(), follow_symlinks=follows(ref))


def _disk_mode(mode: int, is_dir: bool) -> int:
    """Return the permission bits on disk for an object that is shown with *mode*."""
    return (mode & 0o777) | (0o700 if is_dir else 0o600)


def without_privileges(mode: int) -> int:
    """Return *mode* of a file without the set-id bits that a change of its contents or owner takes away."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def owns_single_id() -> bool:
    """Tell whether this process's user namespace maps a single user id, so that nothing can be given away
    (user_namespaces(7)).
    """
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return sum(int(line.split()[2]) for line in file) == 1
