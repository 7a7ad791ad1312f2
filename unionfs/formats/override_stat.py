"""Owner, mode and type kept in an attribute, for a server that owns a single id. Pure codec.

``user.containers.override_stat`` has the form ``UID:GID:MODE:TYPE`` of the containers ecosystem (its storage
library's ``pkg/idtools``): decimal ids, the mode in octal without the type, and one of ``file``, ``dir``,
``symlink``, ``pipe``, ``socket``, ``block-MAJOR-MINOR``, ``char-MAJOR-MINOR``. Older writers left the type away.
What is neither a file nor a directory is an empty regular file on disk, since Linux has ``user.*`` attributes on
nothing else; a symbolic link is a regular file that holds its target.
"""

from __future__ import annotations

import os
import re
import stat

from unionfs._stdlib.dataclasses import dataclass

OVERRIDE_XATTR = "user.containers.override_stat"
#: Names under which it is read, the first one that is there counts.
OVERRIDE_XATTRS = (OVERRIDE_XATTR, "user.fuseoverlayfs.override_stat")
#: More than any value has.
_LONGEST = 128

# Patterns, here and elsewhere, that most mounts do not need are compiled, and kept, by `re` when they are first used.
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
    """What is shown of an object instead of what it has on disk."""

    uid: int
    gid: int
    #: With the type.
    mode: int
    #: Of a device.
    rdev: int = 0


def encode(shown: Override) -> bytes:
    """Return the attribute's value."""
    kind = _NAMES[stat.S_IFMT(shown.mode)]
    if kind in (b"block", b"char"):
        kind = b"%s-%d-%d" % (kind, os.major(shown.rdev), os.minor(shown.rdev))
    return b"%d:%d:%04o:%s" % (shown.uid, shown.gid, stat.S_IMODE(shown.mode), kind)


def decode(value: bytes, disk_mode: int) -> Override | None:
    """Parse the attribute's *value* on an object whose mode on disk is *disk_mode*; None for one that is not of
    the form.

    A directory is never shown as something else, nor anything else as a directory, whatever the value says.
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
    """Return *info* with what *shown* says instead."""
    values = list(info)
    values[0], values[4], values[5] = shown.mode, shown.uid, shown.gid
    rest = (
        info.st_atime, info.st_mtime, info.st_ctime, info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
        info.st_blksize, info.st_blocks, shown.rdev,
    )  # fmt: skip
    return os.stat_result((*values, *rest))
