"""The compared properties of an object, in a union that is not mounted, on disk, or on a mount."""

from __future__ import annotations

import os
import stat
import zlib
from typing import TYPE_CHECKING, NamedTuple

from tests.support.layers import comparable_time
from unionfs.formats.xattrs import is_private

if TYPE_CHECKING:
    from tests.unit.unionfs.support import Union


class Seen(NamedTuple):
    """The compared properties of one object; None if the object has no such property."""

    mode: int
    uid: int
    gid: int
    nlink: int | None
    data: tuple[int, int, bytes] | None
    target: bytes | None
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]


def brief(data: bytes) -> tuple[int, int, bytes]:
    """Return length, checksum and beginning of *data*, for comparison and for readable failures."""
    return len(data), zlib.crc32(data), data[:20]


def in_union(union: Union, path: str) -> Seen:
    """Return the properties of *path* in *union*, which is not mounted."""
    inode = union.inode(path)
    shown = union.fs.attributes.of(inode)
    is_dir, is_file = stat.S_ISDIR(shown.mode), stat.S_ISREG(shown.mode)
    return Seen(
        mode=shown.mode,
        uid=shown.uid,
        gid=shown.gid,
        nlink=None if is_dir else shown.nlink,
        data=brief(union.read(path)) if is_file else None,
        target=union.fs.files.readlink(inode.ino) if stat.S_ISLNK(shown.mode) else None,
        mtime_ns=comparable_time(shown.mtime_ns),
        xattrs=tuple(
            (name, union.fs.xattrs.get(inode.ino, name)) for name in union.fs.xattrs.list(inode.ino)
        ),
    )


def on_disk(at: str) -> Seen:
    """Return the properties of the object at the path *at*."""
    info = os.lstat(at)
    is_dir, is_link = stat.S_ISDIR(info.st_mode), stat.S_ISLNK(info.st_mode)
    data = None
    if stat.S_ISREG(info.st_mode):
        with open(at, "rb") as file:
            data = brief(file.read())
    names = sorted(os.listxattr(at, follow_symlinks=False))
    return Seen(
        mode=info.st_mode,
        uid=info.st_uid,
        gid=info.st_gid,
        nlink=None if is_dir else info.st_nlink,
        data=data,
        target=os.readlink(os.fsencode(at)) if is_link else None,
        mtime_ns=comparable_time(info.st_mtime_ns),
        xattrs=tuple((name, os.getxattr(at, name, follow_symlinks=False)) for name in names),
    )


def tree_in_union(union: Union) -> dict[str, Seen]:
    """Return all objects of *union*, by path."""
    found: dict[str, Seen] = {}
    pending = [""]
    while pending:
        path = pending.pop()
        found[path] = in_union(union, path)
        if stat.S_ISDIR(found[path].mode):
            pending += [f"{path}/{name}" for name in union.names(path)]
    return found


def tree_on_disk(root: str) -> dict[str, Seen]:
    """Return all objects below *root*, by path."""
    found: dict[str, Seen] = {}
    pending = [""]
    while pending:
        path = pending.pop()
        found[path] = on_disk(root + path)
        if stat.S_ISDIR(found[path].mode):
            pending += [f"{path}/{name}" for name in os.listdir(root + path)]
    return found


def differences(
    ours: dict[str, Seen], theirs: dict[str, Seen], *, but_for: set[str] = frozenset()
) -> dict[str, tuple[Seen | None, Seen | None]]:
    """Return the differences, by path. For the paths *but_for*, only the type is compared.

    Not compared are link counts, which only the link index knows, and attributes with names of marks, which other
    implementations escape differently.
    """

    def comparable(tree: dict[str, Seen], path: str) -> object:
        seen = tree.get(path)
        if seen is None or path in but_for:
            return seen and stat.S_IFMT(seen.mode)
        public = tuple((name, value) for name, value in seen.xattrs if not is_private(name))
        return seen._replace(nlink=None, xattrs=public)

    return {
        path: (ours.get(path), theirs.get(path))
        for path in ours.keys() | theirs.keys()
        if comparable(ours, path) != comparable(theirs, path)
    }
