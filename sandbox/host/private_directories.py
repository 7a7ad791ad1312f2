"""Facts about the private directories of the launcher, which no program may reach, and about the mounts that could show them."""

from __future__ import annotations

import os
import stat

from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo, visible
from unionfs._stdlib.dataclasses import dataclass, replace

_MAX_LINKS = 40  # as many as the kernel follows; path_resolution(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateDirectory:
    """A directory that appears empty in every layer and every volume."""

    #: What messages call it: "state directory".
    name: str
    #: Its path without symbolic links.
    path: str
    #: The environment variable that puts it elsewhere.
    variable: str
    #: Device and inode, as stat(2) has them; None where it does not exist.
    identity: tuple[int, int] | None = None
    #: The user who alone may enter it, by its mode; None where others may, or it does not exist.
    only_for: int | None = None
    #: Whether a read-only volume may show a directory in it, where the file names that.
    readable: bool = False
    #: The symbolic links that its name leads through, each by its own path without symbolic links.
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFacts:
    """The private directories, and the mounts of this mount namespace by which a volume could show them."""

    directories: tuple[PrivateDirectory, ...]
    #: Those that a path leads to.
    mounts: tuple[MountEntry, ...] = ()


def look(*, state: str, run: str, usual_run: str = "") -> PrivateFacts:
    """Return the facts of the state directory *state* and the run directory *run*, paths; an empty path stands for none.

    *usual_run* is the run directory of starts without SANDBOX_RUN_DIR, with their layers and their key.

    Raises:
        OSError: /proc/self/mountinfo cannot be read.
    """
    found = []
    if state:
        found.append(_examine("state directory", state, "SANDBOX_STATE_DIR", readable=True))
    # Another user can put a link at the default path: the run directory is never behind one.
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

    What does not exist counts as a directory, as for os.path.realpath().
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
            link = os.readlink(below) if len(links) < _MAX_LINKS else ""
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
