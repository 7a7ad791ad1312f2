"""Finding and opening files whose path another user may change at any time."""

from __future__ import annotations

import errno
import os
import stat

from sandbox.kernel import mounts
from sandbox.kernel.walk import walk
from unionfs._stdlib.dataclasses import dataclass


class NotRegularError(OSError):
    """What was found at a path is no regular file."""


def open_regular(path: str, *, links: bool = True) -> int:
    """Open the regular file *path* for reading and return its descriptor; without *links*, none may be on the path.

    Nothing else is ever opened for reading: a FIFO would wait for a writer, and opening some devices does something. Nor is a
    lease waited for (O_NONBLOCK: EAGAIN instead of up to 45 seconds), which whoever owns the file may hold.

    Raises:
        NotRegularError: there is something else, with EINVAL.
        OSError: it cannot be opened; ELOOP for a symbolic link where there may be none.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC) if links else mounts.open_real(path)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise NotRegularError(errno.EINVAL, "is not a regular file", path)
        try:
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What a path leads to: the path without symbolic links, device and inode, and whether another user leads there."""

    real: str
    identity: tuple[int, int]
    #: What belongs to a user who is neither root nor the caller, and leads to *closed*; "" if there is none.
    led_by: str = ""
    #: What that user may not read or pass: it is neither theirs nor open to everybody.
    closed: str = ""


def follow(path: str, uid: int) -> Followed:
    """Follow the absolute *path*, with its symbolic links, for the user *uid*.

    A user who owns a directory or a link on the path chooses what it leads to, by links, renames and hard links. The caller may
    be able to read more than that user: then the path leads astray. This is the rule of CHASE_SAFE of systemd (chase.c), but
    that what everybody may read is no secret.

    What is found may be replaced at once. So open *real* without links, and compare *identity*.

    Raises:
        OSError: as :func:`sandbox.kernel.walk.walk`.
    """
    owners: dict[int, str] = {}
    led_by = closed = ""

    def visit(here: str, info: os.stat_result) -> None:
        nonlocal led_by, closed
        is_link = stat.S_ISLNK(info.st_mode)
        needed = stat.S_IXOTH if stat.S_ISDIR(info.st_mode) else stat.S_IROTH
        if owners and not closed and info.st_uid not in owners and not is_link and not info.st_mode & needed:
            led_by, closed = next(reversed(owners.values())), here
        if info.st_uid not in (0, uid):
            owners.setdefault(info.st_uid, here)

    fd, place = walk(path, [], visit)
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    real = os.path.realpath(path) if place is None else place.path
    return Followed(real=real, identity=(info.st_dev, info.st_ino), led_by=led_by, closed=closed)
