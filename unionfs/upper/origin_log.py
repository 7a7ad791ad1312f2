"""Records the inode numbers of copied-up objects that have no ``user.*`` attributes, and that leave the link index.

Linux has no ``user.*`` attributes on symbolic links and special files, so an entry of the link index records what such an object is
a copy of (upper/link_index.py). The index moves on when the layer is frozen (vfs/freezing.py). This file stays with the layer: it
is ``WORK/unionfs/origins``, to which the server appends a line before it removes an entry::

    INODE NUMBER BORN.

INODE is the inode number of the copy on disk, NUMBER the inode number of the copied object, BORN the birth time of the copy in
nanoseconds since the epoch, or nothing if it is unknown. All are hexadecimal. A line without its full stop was cut off by a full
disk or a kill, and is ignored.

Before the layer is frozen, the copy may be removed, and another object may get its number INODE. The record counts only for an
object with the birth time BORN. If that is unknown, the record was made at the freeze, and counts for a frozen layer.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable

from unionfs._stdlib.typing import NamedTuple
from unionfs.types import Ino

ORIGINS_FILE = b"origins"
_RECORD = re.compile(rb"([0-9a-f]{1,16}) ([0-9a-f]{1,16}) (-?[0-9a-f]{1,16})?\.\n")
_WRITE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Origin(NamedTuple):
    """What is recorded about one copy."""

    #: The inode number of the object that was copied.
    number: Ino
    #: The birth time of the copy in nanoseconds since the epoch; None if it is unknown.
    born: int | None


def read_origins(home_fd: int) -> dict[int, Origin]:
    """Return the records in *home_fd*, the directory ``unionfs`` in the work directory, by inode number on disk.

    Raises:
        OSError: they cannot be read.
    """
    try:
        fd = os.open(ORIGINS_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home_fd)
    except FileNotFoundError:
        return {}
    found: dict[int, Origin] = {}
    with open(fd, "rb") as file:
        for line in file:
            match = _RECORD.fullmatch(line)
            if match is not None:
                born = None if match[3] is None else int(match[3], 16)
                found[int(match[1], 16)] = Origin(Ino(int(match[2], 16)), born)
    return found


def append_origins(home_fd: int, records: Iterable[tuple[int, Origin]]) -> None:
    """Append *records*, pairs of an inode number on disk and its origin, to those in *home_fd*.

    Raises:
        OSError: they cannot be written.
    """
    lines = [
        b"%x %x %s.\n" % (inode, origin.number, b"" if origin.born is None else b"%x" % origin.born)
        for inode, origin in records
    ]
    if not lines:
        return
    fd = os.open(ORIGINS_FILE, _WRITE, 0o600, dir_fd=home_fd)
    try:
        data = b"\n" + b"".join(lines)  # the first newline ends a line that was cut off
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def remove_origins(home_fd: int) -> None:
    """Remove all records in *home_fd*, because they are about other layers.

    Raises:
        OSError: they cannot be removed.
    """
    try:
        os.unlink(ORIGINS_FILE, dir_fd=home_fd)
    except FileNotFoundError:
        pass
