"""Collect facts about the launcher's private directories, which no program may reach, and the mounts that could expose them."""

from __future__ import annotations

import os
import stat

from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo, visible
from sandbox.kernel.walk import MAX_LINKS
from unionfs._stdlib.dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateDirectory:
    """A directory of the launcher that appears empty in every layer and every volume."""

    #: Its name in messages: "state directory".
    name: str
    #: Its path without symbolic links.
    path: str
    #: The environment variable that sets another path.
    variable: str
    #: Device and inode, as stat(2) returns them; None if it does not exist.
    identity: tuple[int, int] | None = None
    #: Its owner, if its mode grants access to no other user; None if it grants more, or the directory does not exist.
    only_for: int | None = None
    #: Whether a read-only volume may show a directory inside it that the file names.
    readable: bool = False
    #: The symbolic links that its name leads through, each by its own path without symbolic links.
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFacts:
    """The private directories, and the mounts of this mount namespace through which a volume could show them."""

    directories: tuple[PrivateDirectory, ...]
    #: The mounts that are reachable by a path.
    mounts: tuple[MountEntry, ...] = ()


def look(*, state: str, images: str, run: str, usual_run: str = "") -> PrivateFacts:
    """Return the facts about the state directory *state*, the image directory *images* and the run directory *run*.

    An empty path means that there is none. An image directory in the state directory is a part of that.

    *usual_run* is the run directory of starts without SANDBOX_RUN_DIR; it contains their layers and their key.

    Raises:
        OSError: /proc/self/mountinfo cannot be read.
    """
    found = []
    if state:
        found.append(_examine("state directory", state, "SANDBOX_STATE_DIR", readable=True))
    if images:
        kept = _examine("image directory", images, "SANDBOX_CACHE_DIR", readable=True)
        found += [] if found and kept.path.startswith(found[0].path + "/") else [kept]
    # A link at the default path may be another user's: a run directory is never reached through a link.
    if run and not os.path.islink(run):
        found.append(_examine("run directory", run, "SANDBOX_RUN_DIR", readable=False))
    if usual_run not in ("", run) and os.path.isdir(usual_run) and not os.path.islink(usual_run):
        usual = _examine("usual run directory", usual_run, "SANDBOX_RUN_DIR", readable=False)
        found += [usual] if all(usual.identity != one.identity for one in found) else []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = visible(parse_mountinfo(file.read()))
    return PrivateFacts(directories=tuple(found), mounts=tuple(mounts))


def _examine(name: str, path: str, variable: str, *, readable: bool) -> PrivateDirectory:
    real, links = resolve(path)
    found = PrivateDirectory(name=name, path=real, variable=variable, readable=readable, links=links)
    try:
        info = os.lstat(real)
    except OSError:
        return found
    if not stat.S_ISDIR(info.st_mode):
        return found
    only_for = None if info.st_mode & 0o077 else info.st_uid
    return replace(found, identity=(info.st_dev, info.st_ino), only_for=only_for)


def resolve(path: str) -> tuple[str, tuple[str, ...]]:
    """Return the absolute *path* without symbolic links, and the links that it leads through, in their order.

    A missing component counts as a directory, as for os.path.realpath().
    """
    at = "/"
    links: list[str] = []
    pending = path.split("/")[::-1]
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        below = os.path.join(at, name)
        try:
            link = os.readlink(below) if len(links) < MAX_LINKS else ""
        except OSError:
            link = ""
        if not link:
            at = below
            continue
        links.append(below)
        if link.startswith("/"):
            at = "/"
        pending += link.split("/")[::-1]
    return at, tuple(links)
