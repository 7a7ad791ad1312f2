"""Set owner, extended attributes, mode and times of an object of a host directory, exactly as wanted or with an error.

sandbox/changes/host_tree.py calls this with a descriptor of the object: one that it has just created, or a directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from sandbox.errors import SandboxError
from sandbox.images.attributes import ACLS, AttributeRefusedError, is_unpacked, set_attribute
from unionfs._stdlib.dataclasses import dataclass, field

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.images.tar import Member

#: Returns the ids of the host for a user and a group of the archive.
Owners = Callable[[int, int], tuple[int, int]]

_MAX_ID = 0xFFFFFFFE  # 0xFFFFFFFF means "unchanged" to chown(2)
_SET_ID = stat.S_ISUID | stat.S_ISGID
_NO_XATTRS = {errno.ENOTSUP, errno.ENODATA, errno.ENOSYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What an object is to have. Ids are those of the host."""

    uid: int
    gid: int
    mode: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, member: Member, owners: Owners) -> Attributes:
        """Return those of *member*, with the ids that *owners* returns."""
        uid, gid = owners(member.uid, member.gid)
        return cls(uid=uid, gid=gid, mode=member.mode, mtime_ns=member.mtime_ns, xattrs=member.xattrs)


class RefusedError(Exception):
    """An attribute cannot be set. The text gives the reason, *hint* the remedy."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint

    def about(self, path: str) -> SandboxError:
        """Return the error for the object at *path*."""
        return SandboxError(f"{path}: {self}", hint=self.hint)


def proc_path(fd: int) -> bytes:
    """Return a path of the object that *fd* refers to, for calls that take no descriptor opened with O_PATH.

    The kernel follows it to that object, also to a symbolic link, and no further.
    """
    return b"/proc/self/fd/%d" % fd


def set_attributes(fd: int, wanted: Attributes, *, created: bool, keep_acls: bool) -> tuple[bytes, ...]:
    """Set all attributes of the object that *fd* refers to, also if it was opened with O_PATH.

    Without *created* the object is an old one, which loses the extended attributes that are not wanted. Access control lists that
    a new one has from its directory go in any case, unless *keep_acls* is set.

    Returns the names of the extended attributes that the file system or this user cannot set, and that may be left out.

    Raises:
        RefusedError: an attribute cannot be set.
        OSError: any other failure.
    """
    info = os.fstat(fd)
    target = proc_path(fd)
    _set_owner(target, info, wanted)
    try:
        left_out = _set_xattrs(target, wanted.xattrs, created=created, keep_acls=keep_acls)
    except PermissionError as error:
        if error.errno != errno.EACCES or stat.S_ISLNK(info.st_mode):
            raise
        # User attributes need write permission, which the owner of a directory may lack. The mode is set next.
        os.chmod(target, stat.S_IRWXU)
        left_out = _set_xattrs(target, wanted.xattrs, created=created, keep_acls=keep_acls)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, wanted.mode)
        # chmod(2) ignores the bit without an error for a caller that is not in the group.
        if wanted.mode & _SET_ID and stat.S_IMODE(os.fstat(fd).st_mode) != wanted.mode:
            raise RefusedError(
                f"its mode {wanted.mode:o} cannot be set: this user is not in the group {wanted.gid}",
                "run the command as root, or exclude this path",
            )
    set_time(fd, wanted.mtime_ns)
    return left_out


def set_time(fd: int, mtime_ns: int) -> None:
    """Set the times of the object that *fd* refers to.

    Raises:
        RefusedError: the time is out of range.
    """
    try:
        os.utime(proc_path(fd), ns=(mtime_ns, mtime_ns))
    except OverflowError:
        raise RefusedError(
            f"its time, {mtime_ns // 10**9} seconds from 1970, is out of range", "exclude this path"
        ) from None


def _set_owner(target: bytes, info: os.stat_result, wanted: Attributes) -> None:
    uid, gid = wanted.uid, wanted.gid
    if not (0 <= uid <= _MAX_ID and 0 <= gid <= _MAX_ID):
        raise RefusedError(f"its owner {uid}:{gid} is no valid user and group", "exclude this path")
    if (info.st_uid, info.st_gid) == (uid, gid):
        return
    try:
        os.chown(target, uid, gid)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
        raise RefusedError(
            f"its owner {uid}:{gid} cannot be set by user {os.geteuid()}: {reason_of(error)}",
            "run the command as root, or exclude this path",
        ) from None


def _set_xattrs(
    target: bytes, wanted: Mapping[bytes, bytes], *, created: bool, keep_acls: bool
) -> tuple[bytes, ...]:
    try:
        present = {os.fsencode(name) for name in os.listxattr(target)}
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise
        present = set()
    for name in present - wanted.keys():
        if is_unpacked(name) and not (keep_acls and name in ACLS):
            os.removexattr(target, name)
    left_out = []
    for name, value in wanted.items():
        if not created and name in present and os.getxattr(target, name) == value:
            continue
        try:
            if not set_attribute(target, name, value, follow=True):
                left_out.append(name)
        except AttributeRefusedError as error:
            raise RefusedError(str(error), "exclude this path") from None
    return tuple(left_out)


def reason_of(error: OSError) -> str:
    """Return the reason of *error* in words, without its path and call."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
