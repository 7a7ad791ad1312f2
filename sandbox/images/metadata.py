"""Set owner, extended attributes, mode and times of the files and directories that an archive creates.

`unpack` calls it, in a child process with id 0 of a user namespace: owners that the namespace does not map cannot be set.
"""

from __future__ import annotations

import errno
import os

from sandbox.images.attributes import ACLS, set_attribute
from sandbox.images.destination import RefusedError
from sandbox.images.tar import Kind

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.directories import Directory
    from sandbox.images.report import LeftOut
    from sandbox.images.tar import Member

MAX_ID = 0xFFFFFFFE  # 0xFFFFFFFF means "unchanged" to chown(2)
# Seconds are 64-bit numbers; the kernel clamps times that a file system cannot store.
_MAX_TIME_NS = 10**9 << 62


class MetadataWriter:
    """Sets attributes. The unpacker of one archive creates it; nothing has to be closed."""

    def __init__(self, left_out: LeftOut, *, single_id: bool) -> None:
        """Count those that cannot be set in *left_out*."""
        self._left_out = left_out
        self._single_id = single_id

    def set_opened(self, name: bytes, fd: int, attributes: Member | Directory) -> None:
        """Set owner, extended attributes, mode and times, in this order.

        chown(2) and writing clear set-id bits and file capabilities.
        """
        if not self._single_id:
            self._chown(fd, None, attributes)
        for key, value in attributes.xattrs.items():
            self._set_xattr(name, fd, key, value, follow=True)
        os.fchmod(fd, attributes.mode)
        if attributes.mtime_ns is not None:
            time = time_of(attributes.mtime_ns)
            os.utime(fd, ns=(time, time))

    def set_unopened(self, member: Member, parent_fd: int, leaf: bytes) -> None:
        """Set them, in the same order, by name for a symbolic link or FIFO that this process has just created."""
        if not self._single_id:
            self._chown(leaf, parent_fd, member)
        for key, value in member.xattrs.items():
            # lsetxattr(2) takes no directory descriptor. Only the last component of this path comes from the archive.
            self._set_xattr(member.name, b"/proc/self/fd/%d/%s" % (parent_fd, leaf), key, value, follow=False)
        if member.kind is not Kind.SYMLINK:
            os.chmod(leaf, member.mode, dir_fd=parent_fd)
        time = time_of(member.mtime_ns)
        os.utime(leaf, ns=(time, time), dir_fd=parent_fd, follow_symlinks=False)

    def _chown(self, target: int | bytes, parent_fd: int | None, attributes: Member | Directory) -> None:
        uid, gid = attributes.uid, attributes.gid
        for what, number in (("user", uid), ("group", gid)):
            if not 0 <= number <= MAX_ID:
                raise RefusedError(f"its owner, {what} {number}, is not a valid id")
        try:
            if isinstance(target, int):
                os.fchown(target, uid, gid)
            else:
                os.chown(target, uid, gid, dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise not_mapped(uid, gid) from None

    def _set_xattr(self, name: bytes, target: int | bytes, key: bytes, value: bytes, *, follow: bool) -> None:
        # In a user namespace with one id, an access control list can name no other user or group.
        if (self._single_id and key in ACLS) or not set_attribute(target, key, value, follow=follow):
            self._left_out.add_xattrs(name, key)


def not_mapped(uid: int, gid: int) -> RefusedError:
    """Return the error for a member whose owner the user namespace does not map."""
    return RefusedError(
        f"its owner {uid}:{gid} is not among the ids of the sandbox: extend the ranges in /etc/subuid and "
        '/etc/subgid, or set ids.map = "single"'
    )


def time_of(nanoseconds: int) -> int:
    """Return *nanoseconds* since 1970 if a file can have this time.

    Raises:
        RefusedError: the kernel has no such time.
    """
    if not -_MAX_TIME_NS <= nanoseconds <= _MAX_TIME_NS:
        raise RefusedError(f"its time, {nanoseconds // 1_000_000_000} seconds from 1970, is out of range")
    return nanoseconds
