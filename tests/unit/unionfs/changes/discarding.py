"""Discards changes of a union of a test, and judges the result by the rows before and after."""

from __future__ import annotations

import os
import re
import shutil
import stat
from typing import TYPE_CHECKING

from tests.unit.unionfs.changes.trees import compare, source_of
from unionfs.changes.discard import discard
from unionfs.changes.rows import ADDED, CHANGED, DELETED, MOVED, Row
from unionfs.errors import UnionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.unit.unionfs.support import Union

Key = tuple[str, bytes, bytes | None]
_ADVICE = re.compile(r"; discard (/.*|the directory that contains both), too\Z")


def keys(rows: Iterable[Row]) -> set[Key]:
    """Return what identifies *rows*."""
    return {(row.kind, row.path, row.old_path) for row in rows}


def discard_from(union: Union, *paths: str | bytes) -> list[Row]:
    """Discard changes of *union*, which is closed meanwhile."""
    union.close()
    try:
        return discard(source_of(union), [os.fsencode(path) for path in paths])
    finally:
        union.fs = union._open()


def discard_and_check(union: Union, paths: Sequence[bytes]) -> set[Key]:
    """Discard the changes at and below *paths*, and check that exactly these are gone. Return their keys.

    If something else is in the way, nothing may change; then discard what the error names, too.
    """
    before = compare(union)
    chosen = list(paths)
    while isinstance(discarded := _discard(union, chosen), str):
        assert keys(compare(union)) == keys(before), f"refused, but something changed: {discarded}"
        advice = _ADVICE.search(discarded)
        assert advice is not None, discarded
        more = os.fsencode(advice[1].encode().decode("unicode_escape").strip("/"))
        chosen.append(more if advice[1].startswith("/") else b"")
        assert len(set(chosen)) == len(chosen), discarded
    after = compare(union)
    assert keys(before) - keys(after) == discarded, (
        keys(before) - keys(after) - discarded,
        discarded - (keys(before) - keys(after)),
    )
    assert keys(after) <= keys(before), keys(after) - keys(before)
    _check_selection(before, discarded, chosen)
    assert union.leftovers() == []
    return discarded


def _discard(union: Union, paths: Iterable[bytes]) -> set[Key] | str:
    """Return the keys of the rows that were discarded, or the message of the refusal."""
    try:
        return keys(discard_from(union, *(b"/" + path for path in paths)))
    except UnionError as error:
        return str(error)


def _check_selection(rows: Sequence[Row], discarded: set[Key], chosen: Sequence[bytes]) -> None:
    """Check that the rows of *chosen* are *discarded*, and no others without a reason."""
    gone = [row for row in rows if (row.kind, row.path, row.old_path) in discarded]
    moved = [row.path for row in gone if row.kind == MOVED]
    identities = [_identity(row) for row in gone if row.kind == CHANGED]
    deleted = [row.path for row in gone if row.kind == DELETED]
    for row in rows:
        is_chosen = any(_is_in(row.path, top) for top in chosen)
        if row.kind == MOVED and row.old_path is not None:
            is_chosen = is_chosen or any(_is_in(row.old_path, top) for top in chosen)
        is_needed = (
            (row.kind != DELETED and any(_is_in(row.path, top) for top in moved))
            or (row.kind == CHANGED and _identity(row) is not None and _identity(row) in identities)
            or (row.kind == DELETED and any(_is_in(path, row.path) for path in deleted))
        )
        is_gone = (row.kind, row.path, row.old_path) in discarded
        assert is_gone or not is_chosen, f"{row.kind} {row.path!r} is chosen, but still there"
        assert is_chosen or is_needed or not is_gone, f"{row.kind} {row.path!r} was not chosen"
        assert row.kind in (ADDED, CHANGED, DELETED, MOVED)


def _identity(row: Row) -> object:
    """Return the identity of the changed object, if it has several names."""
    assert row.new is not None
    assert row.old is not None
    if row.new.is_dir or row.old.is_dir or max(row.new.info.st_nlink, row.old.info.st_nlink) < 2:
        return None
    return row.new.info.st_dev, row.new.info.st_ino, row.old.info.st_dev, row.old.info.st_ino


def _is_in(path: bytes, top: bytes) -> bool:
    return not top or path == top or path.startswith(top + b"/")


def copy_out(union: Union, target: str) -> None:
    """Make *target* a plain directory with the tree that *union* shows, with its hard links."""
    shutil.rmtree(target)
    os.mkdir(target)
    names: dict[int, str] = {}
    directories = [""]
    for path in directories:
        for name in union.names(path):
            child = f"{path}/{name}"
            inode = union.inode(child)
            shown = union.fs.attributes.of(inode)
            if stat.S_ISDIR(shown.mode):
                os.mkdir(target + child)
                directories.append(child)
                continue
            first = names.setdefault(inode.ino, child)
            if first != child:
                os.link(target + first, target + child, follow_symlinks=False)
                continue
            if stat.S_ISREG(shown.mode):
                with open(target + child, "wb") as file:
                    file.write(union.read(child))
            elif stat.S_ISLNK(shown.mode):
                os.symlink(union.fs.files.readlink(inode.ino), os.fsencode(target + child))
            else:
                os.mknod(target + child, shown.mode, shown.rdev)
            _copy_attributes(union, child, target)
    for path in reversed(directories):
        _copy_attributes(union, path, target)


def _copy_attributes(union: Union, path: str, target: str) -> None:
    inode = union.inode(path)
    shown = union.fs.attributes.of(inode)
    os.chown(target + path, shown.uid, shown.gid, follow_symlinks=False)
    for name in union.fs.xattrs.list(inode.ino):
        os.setxattr(target + path, name, union.fs.xattrs.get(inode.ino, name), follow_symlinks=False)
    if not stat.S_ISLNK(shown.mode):
        os.chmod(target + path, stat.S_IMODE(shown.mode))
    os.utime(target + path, ns=(shown.atime_ns, shown.mtime_ns), follow_symlinks=False)
