"""Find the only layer that provides a directory, and check whether that directory can be bind-mounted without the union.

At a path, the union shows the object of the topmost layer that has it. If that is a directory, the union merges it with those
of lower layers, unless a whiteout or opaque mark hides them. :func:`find_only` applies these rules to one path, by
descriptors and without following symbolic links. :func:`obstacle` then looks in a stored layer for objects that a bind mount
would show differently than the union, or must not show: whiteouts, sockets, FIFOs and devices.

:func:`obstacle` walks the whole directory. Its result is therefore recorded beside the layer, with the inode and ctime of the
directory, which tell later whether the record is still valid.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

from sandbox.state.trusted_files import open_trusted, replace_json
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_HIDING = tuple(
    f"{owner}.{name}"
    for owner in ("trusted.overlay", "user.overlay", "user.fuseoverlayfs")
    for name in ("opaque", "redirect")
)
"""Extended attributes of a directory in a writable layer that stop its merge with lower directories of the same name."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RECORD = "native"
_MOST_RECORDED = 256
_LARGEST_RECORD = 4 << 20  # bytes; each path has at most 4096
_SUGGESTED = 4
_MOUNTED = "another file system is mounted on "

Marks = Literal["none", "aufs", "all"]
"""The marks that the server interprets in a layer: none, ``.wh.`` names, or all marks that a writable layer may contain."""


class DirectBindError(Exception):
    """A path cannot be bind-mounted without the union: *message* is the reason, *hint* the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        """Store both."""
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRoot:
    """A layer to examine: a descriptor of its root (O_PATH suffices), its name in messages, and the marks valid in it."""

    fd: int
    name: str
    marks: Marks
    #: Its directory in the store; None for a layer that is not of the store.
    place: str | None = None
    #: Whether this is the writable layer, with changes of earlier runs, which a bind mount would hide.
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The object that one layer has at a path."""

    kind: Literal["nothing", "directory", "deletion", "link", "other"]
    #: The path that decided the result: of a symbolic link on the way, or of a mark.
    at: str = ""
    #: Whether it hides the objects of lower layers at this path.
    covers: bool = False


def look(tree: LayerRoot, path: str) -> Seen:
    """Return what *tree* has at the absolute *path*; no symbolic link is followed.

    Raises:
        PermissionError: this process's ids may not search a directory on the way.
    """
    fd = os.open(".", _PLACE, dir_fd=tree.fd)
    covers, at = "", ""
    try:
        for name in _names(path):
            if not covers and _is_opaque(fd, tree.marks):
                covers = at or "/"
            at += f"/{name}"
            mode, device = _lstat(fd, name)
            marked = tree.marks != "none" and _lstat(fd, _WHITEOUT + name)[0] != 0
            if (mode == 0 and marked) or (stat.S_ISCHR(mode) and device == 0 and tree.marks == "all"):
                return Seen(kind="deletion", at=at, covers=True)
            if mode == 0:
                return Seen(kind="deletion" if covers else "nothing", at=covers, covers=bool(covers))
            if not stat.S_ISDIR(mode):
                return Seen(kind="link" if stat.S_ISLNK(mode) else "other", at=at, covers=True)
            covers = covers or (at if marked else "")
            below = os.open(name, _PLACE, dir_fd=fd)
            os.close(fd)
            fd = below
        return Seen(kind="directory", at=path, covers=bool(covers) or _is_opaque(fd, tree.marks))
    finally:
        os.close(fd)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _lstat(fd: int, name: str) -> tuple[int, int]:
    """Return mode and device number of *name* in the directory *fd*; zeros if it does not exist."""
    try:
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return 0, 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return 0, 0
        raise
    return info.st_mode, info.st_rdev


def _is_opaque(fd: int, marks: Marks) -> bool:
    if marks == "none":
        return False
    if _lstat(fd, _OPAQUE)[0] != 0:
        return True
    if marks != "all":
        return False
    try:
        return any(name in _HIDING for name in os.listxattr(f"/proc/self/fd/{fd}"))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return False


def find_only(trees: Sequence[LayerRoot], path: str) -> LayerRoot:
    """Return the one of *trees*, topmost first, that alone provides *path* in their union.

    Raises:
        DirectBindError: several layers or none provide *path*, or it is not a directory.
        PermissionError: this process's ids may not search a directory on the way.
    """
    having: list[LayerRoot] = []
    for tree in trees:
        seen = look(tree, path)
        if seen.kind == "nothing":
            continue
        if tree.writable:
            raise DirectBindError(
                f"an earlier run changed {seen.at or path}: a direct bind would hide the changes in {tree.name}",
                f"remove {path} from root.native, or discard the changes by removing that directory",
            )
        if not having:
            _refuse_other(tree, path, seen)
        if seen.kind != "directory":
            break  # the higher layer's directory hides it
        having.append(tree)
        if seen.covers:
            break
    if not having:
        raise DirectBindError(f"no layer has {path}", "name a directory of an archive among root.layers")
    if len(having) > 1:
        raise DirectBindError(
            f"more than one layer has {path}: {', '.join(tree.name for tree in reversed(having))}",
            _suggest(having, path),
        )
    return having[0]


def _refuse_other(tree: LayerRoot, path: str, seen: Seen) -> None:
    """Raise DirectBindError unless the union shows a directory at *path*."""
    if seen.kind == "deletion":
        raise DirectBindError(
            f"{tree.name} deletes {seen.at}, which hides {path} of the layers below",
            "name a directory that the root has, or remove that layer",
        )
    if seen.kind == "link":
        raise DirectBindError(
            f"{seen.at} is a symbolic link in {tree.name}", "name the directory to which it leads"
        )
    if seen.kind == "other":
        raise DirectBindError(
            f"{seen.at} in {tree.name} is not a directory", "name a directory: a file cannot be a direct bind"
        )


def _suggest(having: Sequence[LayerRoot], path: str) -> str:
    """Return a hint for layers that all have *path*: directories in it that only the stored layer has."""
    stored = next((tree for tree in reversed(having) if tree.place is not None), None)
    alone: list[str] = []
    for name in _directories_in(stored, path) if stored is not None else ():
        below = f"{path.rstrip('/')}/{name}"
        try:
            if find_only(having, below) is stored:
                alone.append(below)
        except (DirectBindError, OSError):
            continue
        if len(alone) == _SUGGESTED:
            break
    if alone:
        return f"name directories that only one of them has, such as {', '.join(alone)}"
    return "name directories below it that only one layer has"


def _directories_in(tree: LayerRoot, path: str) -> Iterator[str]:
    try:
        fd = open_below(tree.fd, path, _DIRECTORY)
    except OSError:
        return
    try:
        with os.scandir(fd) as found:
            names = sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
    finally:
        os.close(fd)
    yield from names


def open_below(tree_fd: int, path: str, flags: int = _PLACE) -> int:
    """Open the directory *path* below *tree_fd* with *flags*; "/" is *tree_fd* itself.

    Each component is opened from its parent, and no symbolic link is followed.
    """
    names = _names(path)
    fd = os.open(".", _PLACE if names else flags, dir_fd=tree_fd)
    try:
        for number, name in enumerate(names, 1):
            below = os.open(name, flags if number == len(names) else _PLACE, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def has(tree: LayerRoot, path: str, *, is_directory: bool) -> bool:
    """Tell whether *tree* has at *path* an object on which a directory (with *is_directory*) or a file can be mounted.

    Raises:
        PermissionError: this process's ids may not search a directory on the way.
    """
    seen = look(tree, path)
    return seen.kind == "directory" if is_directory else seen.kind == "other" and seen.at == path


def identify(tree: LayerRoot, path: str) -> list[int]:
    """Return inode number and ctime of the directory *path* of *tree*.

    They differ if another directory takes its place, or if entries are added to or removed from the same directory.
    """
    fd = open_below(tree.fd, path)
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    return [info.st_ino, info.st_ctime_ns]


def obstacle(tree: LayerRoot, path: str) -> str:
    """Return the reason why the content of *path* cannot be bind-mounted; "" if it can. Call this as root of the layer's ids.

    The walk keeps one directory open at any depth. It returns through "..", because no process moves directories of a stored
    layer.
    """
    top = os.fstat(tree.fd).st_dev
    fd = open_below(tree.fd, path, _DIRECTORY)
    at = path.rstrip("/")
    try:
        found, pending = _scan(fd, at, top)
        stack = [pending]
        while not found and stack:
            if stack[-1]:
                name = stack[-1].pop()
                fd = _move(fd, name)
                at = f"{at}/{name}"
                found, pending = _scan(fd, at, top)
                stack.append(pending)
                continue
            stack.pop()
            if stack:
                fd = _move(fd, "..")
                at = at.rpartition("/")[0]
        return found
    finally:
        os.close(fd)


def _move(fd: int, name: str) -> int:
    """Open the directory *name* in the directory *fd*, close *fd*, and return the new descriptor."""
    below = os.open(name, _DIRECTORY, dir_fd=fd)
    os.close(fd)
    return below


def _scan(fd: int, at: str, device: int) -> tuple[str, list[str]]:
    """Return the reason why an entry of the directory *fd* cannot be bind-mounted ("" if all can), and the directories in it."""
    if os.fstat(fd).st_dev != device:
        return f"{_MOUNTED}{at or '/'}", []
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.name.startswith(_WHITEOUT):
                return f"{at}/{entry.name} is a whiteout", []
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            elif not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
                return (
                    f"{at}/{entry.name} is a {_kind(os.stat(entry.name, dir_fd=fd, follow_symlinks=False))}",
                    [],
                )
    return "", directories


def _kind(info: os.stat_result) -> str:
    return "FIFO" if stat.S_ISFIFO(info.st_mode) else "socket" if stat.S_ISSOCK(info.st_mode) else "device"


def recorded(place: str, path: str, identity: list[int]) -> str | None:
    """Return the recorded result of :func:`obstacle` for *path* of the layer in *place*; None if there is none for *identity*."""
    entry = _read(place).get(path)
    if (
        not isinstance(entry, list)
        or entry[:2] != identity
        or len(entry) != 3
        or not isinstance(entry[2], str)
    ):
        return None
    return entry[2]


def record(place: str, path: str, identity: list[int], found: str) -> None:
    """Record the result of :func:`obstacle` beside the layer in *place*; if writing fails, the next start walks again."""
    if found.startswith(_MOUNTED):
        return  # the mount is no property of the layer, and may be gone at the next start
    known = _read(place)
    if len(known) >= _MOST_RECORDED:
        known = {}
    known[path] = [*identity, found]
    with suppress(OSError):
        replace_json(os.path.join(place, _RECORD), known)


def _read(place: str) -> dict[str, object]:
    """Return the record of the layer in *place*; an empty one if it is missing, malformed, or not a file of this user alone."""
    opened = open_trusted(os.path.join(place, _RECORD))
    if opened is None:
        return {}
    try:
        with open(opened[0], "rb") as file:
            value = json.loads(file.read(_LARGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
