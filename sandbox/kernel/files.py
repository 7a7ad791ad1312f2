"""Find and open files whose path another user may change at any time."""

from __future__ import annotations

import errno
import os
import stat

from sandbox.kernel import open_paths
from sandbox.kernel.walk import walk
from unionfs._stdlib.dataclasses import dataclass


class NotRegularError(OSError):
    """The object at a path is not a regular file."""


def open_regular(path: str, *, links: bool = True) -> int:
    """Open the regular file *path* for reading and return its descriptor. Without *links*, symbolic links are refused.

    The function never opens another type of file for reading. Opening a FIFO would block, and opening some devices has side
    effects. Nor does it wait for a lease that the owner of the file may have (O_NONBLOCK: EAGAIN instead of up to 45 seconds).

    Raises:
        NotRegularError: EINVAL: the object is not a regular file.
        OSError: the file cannot be opened; ELOOP for a symbolic link if *links* is False.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC) if links else open_paths.open_real(path)
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
    """The object that a path leads to: its path without symbolic links, device and inode, and whether another user chose it."""

    real: str
    identity: tuple[int, int]
    #: A directory or link of a user other than root and the caller, through which the path leads to *closed*; "" if none.
    redirected_by: str = ""
    #: The object that this user may not read or search: it belongs to another user and is not open to everybody.
    closed: str = ""


def follow(path: str, uid: int) -> Followed:
    """Follow the absolute *path* and its symbolic links on behalf of the user *uid*.

    The owner of a directory or link on the path can change what the path leads to, by links, renames and hard links. If the
    caller may read more than this owner, the owner can lead the caller to a file that the owner may not read. The rule is that
    of CHASE_SAFE of systemd (chase.c), except that files that everybody may read are allowed.

    Other users can replace the result at any time. So open *real* without following links, and compare *identity*.

    Raises:
        OSError: as :func:`sandbox.kernel.walk.walk`.
    """
    owners: dict[int, str] = {}
    redirected_by = closed = ""

    def visit(here: str, info: os.stat_result) -> None:
        nonlocal redirected_by, closed
        is_link = stat.S_ISLNK(info.st_mode)
        needed = stat.S_IXOTH if stat.S_ISDIR(info.st_mode) else stat.S_IROTH
        if owners and not closed and info.st_uid not in owners and not is_link and not info.st_mode & needed:
            redirected_by, closed = next(reversed(owners.values())), here
        if info.st_uid not in (0, uid):
            owners.setdefault(info.st_uid, here)

    fd, place = walk(path, [], visit)
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    real = os.path.realpath(path) if place is None else place.path
    return Followed(
        real=real, identity=(info.st_dev, info.st_ino), redirected_by=redirected_by, closed=closed
    )
