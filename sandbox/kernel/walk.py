"""Resolving a path component by component, as path_resolution(7) has it, with every symbolic link on the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from sandbox.kernel.mounts import mount_id
from unionfs._stdlib.dataclasses import dataclass

Identity = tuple[int, int]
"""Device and inode, as stat(2) has them."""

MAX_LINKS = 40
"""Symbolic links of one path that the kernel follows (MAXSYMLINKS)."""

_OPEN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an object is: by its path, on which there is no symbolic link, and by what lies on that path.

    *chain* has the identity of ``/`` and of the object at each name of *path*, the last of them included. *mount* is the id
    of the mount that the last directory on the way was reached through, as in mountinfo.
    """

    path: str
    chain: tuple[Identity, ...]
    mount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A symbolic link that was followed: where it is, and what readlink(2) returns."""

    place: Place
    target: str
    #: Its size is 0, as that of links of /proc is: they may lead to what has no path.
    empty: bool = False


Visit = Callable[[str, os.stat_result], None]
"""Takes the path, without links but at its end, and the status of each object that a walk meets."""


def walk(path: str, links: list[Link], visit: Visit = lambda _path, _info: None) -> tuple[int, Place | None]:
    """Open what the absolute *path* leads to, O_PATH, and add to *links* every symbolic link that is followed, in order.

    *visit* is called with each object on the way, the last included and ``/`` not.

    Returns the descriptor and where the object is; None for an object of /proc that only the kernel finds. After a failure
    *links* has those that were followed until then.

    Raises:
        OSError: as open(2), fs.protected_symlinks included; ESTALE if a link changed meanwhile.
    """
    try:
        fd, place = _walk(path, links, visit)
    except OSError:
        if not any(link.empty for link in links):
            raise
        return os.open(path, os.O_PATH | os.O_CLOEXEC), None
    if links:
        # The kernel must agree: it refuses some links that can be read.
        try:
            found = _identity(os.stat(path))
        except OSError:
            os.close(fd)
            raise
        if found != place.chain[-1]:
            os.close(fd)
            raise OSError(errno.ESTALE, "changed while it was resolved", path)
    return fd, place


def _walk(path: str, links: list[Link], visit: Visit) -> tuple[int, Place]:
    todo = path.split("/")[::-1]
    names: list[str] = []
    fd = os.open("/", _OPEN)
    chain = [_identity(os.fstat(fd))]
    try:
        while todo:
            name = todo.pop()
            if name in ("", "."):
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                continue
            if name == ".." and not names:
                continue
            found = os.open(name, _OPEN, dir_fd=fd)
            info = os.fstat(found)
            if name != "..":
                visit("/" + "/".join([*names, name]), info)
            if stat.S_ISLNK(info.st_mode):
                try:
                    target = os.readlink("", dir_fd=found)
                finally:
                    os.close(found)
                at = Place(
                    path="/" + "/".join([*names, name]), chain=(*chain, _identity(info)), mount=mount_id(fd)
                )
                links.append(Link(place=at, target=target, empty=info.st_size == 0))
                if len(links) > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    os.close(fd)
                    fd = -1
                    fd = os.open("/", _OPEN)
                    names, chain = [], chain[:1]
                todo += target.split("/")[::-1]
                continue
            os.close(fd)
            fd = found
            if name == "..":
                names.pop()
                chain.pop()
                if _identity(info) != chain[-1]:
                    raise OSError(errno.ESTALE, "changed while it was resolved", path)
            else:
                names.append(name)
                chain.append(_identity(info))
        return fd, Place(path="/" + "/".join(names), chain=tuple(chain), mount=mount_id(fd))
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise


def _identity(info: os.stat_result) -> Identity:
    return info.st_dev, info.st_ino
