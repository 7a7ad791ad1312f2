"""Resolve a path component by component, as path_resolution(7) describes, and record every symbolic link on the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from sandbox.kernel.open_paths import mount_id
from unionfs._stdlib.dataclasses import dataclass

Identity = tuple[int, int]
"""Device and inode number, as in stat(2)."""

MAX_LINKS = 40
"""The number of symbolic links in one path that the kernel follows (MAXSYMLINKS)."""

_OPEN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The location of an object: its path without symbolic links, and the objects on that path.

    *chain* has the identity of ``/`` and of the object at each component of *path*, including the last. *mount* is the id, as in
    mountinfo, of the mount of the last directory that the walk passed.
    """

    path: str
    chain: tuple[Identity, ...]
    mount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A symbolic link that the walk followed: its place, and the result of readlink(2)."""

    place: Place
    target: str
    #: Its size is 0. Links of /proc are like that, and may lead to objects without a path.
    empty: bool = False


Visit = Callable[[str, os.stat_result], None]
"""Called with the status and the path of each object that a walk passes. Only the last component may be a symbolic link."""


def walk(path: str, links: list[Link], visit: Visit = lambda _path, _info: None) -> tuple[int, Place | None]:
    """Open the absolute *path* with O_PATH, and add every symbolic link that is followed to *links*, in order.

    *visit* is called with each object on the way, including the last, but not with ``/``.

    Returns the descriptor and the place of the object. The place is None for an object of /proc that only the kernel can find.
    After a failure *links* contains the links that were followed until then.

    Raises:
        OSError: as open(2), including fs.protected_symlinks; ESTALE if a link changed meanwhile.
    """
    try:
        fd, place = _walk(path, links, visit)
    except OSError:
        if not any(link.empty for link in links):
            raise
        return os.open(path, os.O_PATH | os.O_CLOEXEC), None
    if links:
        # Check that the kernel arrives at the same object: it refuses to follow some links that can be read.
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


class TooManyLinksError(Exception):
    """There are more symbolic links on the way than the kernel follows."""


class LeadsOutError(Exception):
    """A path leads out of the directory that it must stay in, by ".." or by an absolute link."""


def follow_links(path: str, link_at: Callable[[str], str | None], *, beneath: bool = False) -> str:
    """Return *path*, without links, relative to a root that *link_at* knows: each link is followed by its text, also the last.

    The object need not exist. *link_at* returns the target of the symbolic link at a path relative to the root, whose parents
    have no links; None or "" if there is no link. Absolute links begin at the root, and ".." does not lead above it, as in
    chroot(2). With *beneath*, both are refused, as by RESOLVE_BENEATH of openat2(2).

    Raises:
        TooManyLinksError: more than MAX_LINKS links are on the way.
        LeadsOutError: *beneath* is set, and the path leads out.
    """
    pending = path.split("/")[::-1]
    at: list[str] = []
    links = 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            if beneath and not at:
                raise LeadsOutError
            del at[-1:]
            continue
        target = link_at("/".join([*at, name]))
        if not target:
            at.append(name)
            continue
        links += 1
        if links > MAX_LINKS:
            raise TooManyLinksError
        if target.startswith("/"):
            if beneath:
                raise LeadsOutError
            at = []
        pending += target.split("/")[::-1]
    return "/".join(at)
