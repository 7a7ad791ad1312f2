"""Owner, mode and type of an object in an extended attribute, for a server that has a single id. Pure codec.

``user.containers.override_stat`` has the form ``UID:GID:MODE:TYPE`` of containers/storage (``pkg/idtools``): decimal
ids, the mode in octal without the type, and one of ``file``, ``dir``, ``symlink``, ``pipe``, ``socket``,
``block-MAJOR-MINOR``, ``char-MAJOR-MINOR``. Older writers omitted the type. An object that is neither a regular file
nor a directory is stored as an empty regular file, because Linux allows ``user.*`` attributes on nothing else. A
symbolic link is stored as a regular file that contains its target.
"""

from __future__ import annotations

import os
import re
import stat

from unionfs._stdlib.dataclasses import dataclass

OVERRIDE_XATTR = "user.containers.override_stat"
#: Attributes that are read, in this order; the first that exists counts.
OVERRIDE_XATTRS = (OVERRIDE_XATTR, "user.fuseoverlayfs.override_stat")
#: Bytes. A longer value is malformed.
_LONGEST = 128

# Most mounts do not need this pattern. `re` compiles and caches it at first use; other modules do the same.
_FORM = rb"(\d{1,10}):(\d{1,10}):(?:0o)?([0-7]{1,6})(?::(file|dir|symlink|pipe|socket|(?:block|char)-(\d{1,10})-(\d{1,10})))?"
_TYPES = {
    b"file": stat.S_IFREG,
    b"dir": stat.S_IFDIR,
    b"symlink": stat.S_IFLNK,
    b"pipe": stat.S_IFIFO,
    b"socket": stat.S_IFSOCK,
    b"block": stat.S_IFBLK,
    b"char": stat.S_IFCHR,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Override:
    """The attributes to show for an object instead of those on disk."""

    uid: int
    gid: int
    #: Including the file type.
    mode: int
    #: The device number of a device node.
    rdev: int = 0


def encode(shown: Override) -> bytes:
    """Return the attribute value for *shown*."""
    kind = _NAMES[stat.S_IFMT(shown.mode)]
    if kind in (b"block", b"char"):
        kind = b"%s-%d-%d" % (kind, os.major(shown.rdev), os.minor(shown.rdev))
    return b"%d:%d:%04o:%s" % (shown.uid, shown.gid, stat.S_IMODE(shown.mode), kind)


def decode(value: bytes, disk_mode: int) -> Override | None:
    """Parse *value*, the attribute of an object whose mode on disk is *disk_mode*. Return None if *value* is malformed.

    A directory is never shown as another type, and another object never as a directory, whatever the value contains.
    """
    match = re.fullmatch(_FORM, value) if len(value) <= _LONGEST else None
    if match is None:
        return None
    uid, gid, mode = int(match[1]), int(match[2]), int(match[3], 8) & 0o7777
    kind = stat.S_IFMT(disk_mode)
    rdev = 0
    if match[4] is not None and stat.S_ISREG(disk_mode):
        kind = _TYPES[match[4].partition(b"-")[0]]
        if match[5] is not None:
            major, minor = int(match[5]), int(match[6])
            if major >= 1 << 12 or minor >= 1 << 20:
                return None
            rdev = os.makedev(major, minor)
    if kind == stat.S_IFDIR and not stat.S_ISDIR(disk_mode):
        return None
    if max(uid, gid) >= (1 << 32) - 1:
        return None
    return Override(uid, gid, mode | kind, rdev)


def applied(info: os.stat_result, shown: Override) -> os.stat_result:
    """Return *info* with the owner, mode, type and device number of *shown*."""
    values = list(info)
    values[0], values[4], values[5] = shown.mode, shown.uid, shown.gid
    rest = (
        info.st_atime, info.st_mtime, info.st_ctime, info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
        info.st_blksize, info.st_blocks, shown.rdev,
    )  # fmt: skip
    return os.stat_result((*values, *rest))
