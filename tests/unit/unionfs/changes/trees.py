"""Compares rows of changes with two full trees: what the layers below show, and what the union shows."""

from __future__ import annotations

import os
import stat
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.unit.unionfs.archived_client import ArchivedClient
from tests.unit.unionfs.client import Client
from tests.unit.unionfs.freezing import EarlierClient
from unionfs.assemble import LayerSource, StackSource
from unionfs.changes import report
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.merged_tree import MergedTree
from unionfs.changes.rows import ADDED, CHANGED, DELETED, MOVED, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.unionfs.support import Union

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Facts(NamedTuple):
    """What decides whether an object has changed."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int | None
    size: int | None
    data: int | None
    target: bytes | None
    rdev: int
    xattrs: tuple[tuple[str, bytes], ...]


def source_of(union: Union) -> StackSource:
    """Return the stack of *union* with descriptors of its own."""
    if isinstance(union, EarlierClient):
        return union.source_to_compare()
    if isinstance(union, ArchivedClient):
        return union._source(writable=True)
    lowers = tuple(LayerSource(fd=os.open(path, _OPEN_DIR), policy=union.policy) for path in union.lowers)
    return StackSource(
        lowers=lowers,
        upper_fd=os.open(union.upper, _OPEN_DIR),
        work_fd=os.open(union.work, _OPEN_DIR),
        form=union.form,
        **{key: value for key, value in union.more.items() if key == "ids"},  # type: ignore[arg-type]
    )


def compare(union: Union) -> list[Row]:
    """Return the changes of the writable layer of *union*."""
    stack = open_stack_to_compare(source_of(union))
    try:
        return Comparison(stack).rows()
    finally:
        stack.close()


def facts(union: Union) -> list[dict[str, Any]]:
    """Return the changes as JSON values with facts."""
    stack = open_stack_to_compare(source_of(union))
    try:
        of = report.Facts(stack).of
        return [of(row) for row in Comparison(stack).rows()]
    finally:
        stack.close()


def below_of(union: Union) -> dict[bytes, Facts]:
    """Return the tree of the layers below, by path."""
    stack = open_stack_to_compare(source_of(union))
    try:
        return _facts_of(stack.below)
    finally:
        stack.close()


def shown_by(union: Union) -> dict[bytes, Facts]:
    """Return the tree that *union* shows, read through its file system."""
    found: dict[bytes, Facts] = {}
    pending = [""]
    while pending:
        path = pending.pop()
        inode = union.inode(path)
        shown = union.fs.attributes.of(inode)
        is_dir, is_file = stat.S_ISDIR(shown.mode), stat.S_ISREG(shown.mode)
        names = union.fs.xattrs.list(inode.ino)
        found[os.fsencode(path.lstrip("/"))] = Facts(
            mode=shown.mode,
            uid=shown.uid,
            gid=shown.gid,
            mtime_ns=None if is_dir else shown.mtime_ns,
            size=None if is_dir else shown.size,
            data=zlib.crc32(union.read(path)) if is_file else None,
            target=union.fs.files.readlink(inode.ino) if stat.S_ISLNK(shown.mode) else None,
            rdev=shown.rdev,
            xattrs=tuple((name, union.fs.xattrs.get(inode.ino, name)) for name in names),
        )
        if is_dir:
            pending += [f"{path}/{name}" for name in union.names(path)]
    if isinstance(union, Client):
        union.end_request()
    return found


def _facts_of(tree: MergedTree) -> dict[bytes, Facts]:
    found = {}
    for path, entry in [(b"", tree.root), *tree.walk(tree.root, b"")]:
        data = None
        if entry.is_file:
            with tree.open(entry) as file:
                data = zlib.crc32(file.read(entry.info.st_size, 0))
        found[path] = Facts(
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime_ns=None if entry.is_dir else entry.info.st_mtime_ns,
            size=None if entry.is_dir else entry.info.st_size,
            data=data,
            target=tree.target(entry) if stat.S_ISLNK(entry.mode) else None,
            rdev=entry.info.st_rdev if not entry.is_dir else 0,
            xattrs=tuple(sorted(tree.attributes(entry).items())),
        )
    return found


def check(rows: Sequence[Row], before: dict[bytes, Facts], after: dict[bytes, Facts]) -> None:
    """Assert that *rows* are exactly the difference of the trees *before* and *after*, given the moves among them."""
    moves = {row.old_path: row.path for row in rows if row.kind == MOVED}
    assert len(moves) == len([row for row in rows if row.kind == MOVED]), "two moves of one object"
    assert len(set(moves.values())) == len(moves), "two moves to one path"
    assert all(old in before and new in after for old, new in moves.items()), moves

    def followed(path: bytes) -> tuple[bytes, int]:
        """Return where *path* is expected now, and how much of that a move decided."""
        at = path
        while at:
            if at in moves:
                target = moves[at]
                return target + path[len(at) :], len(target)
            at = at.rpartition(b"/")[0]
        return path, -1

    best: dict[bytes, tuple[int, bytes]] = {}
    for new, weight, old in sorted((*followed(old), old) for old in before):
        if new not in after or (new in best and weight <= best[new][0]):
            continue
        # In a directory that moved to the place of another one, nothing is what that had under the same name.
        above = best.get(new.rpartition(b"/")[0])
        if not old or old in moves or (above is not None and above[1] == old.rpartition(b"/")[0]):
            best[new] = weight, old
    expected = {(DELETED, old) for old in before if followed(old)[0] not in after}
    expected |= {(ADDED, new) for new in after if new not in best}
    expected |= {(MOVED, new) for new in moves.values()}
    expected |= {(CHANGED, new) for new, (_, old) in best.items() if _differ(before[old], after[new])}
    replaced = [old for row in rows for old, _ in row.replaced]
    assert all(row.kind == MOVED for row in rows if row.replaced)
    assert len(set(replaced)) == len(replaced), "an object is replaced twice"
    matched = {old for _, old in best.values()}
    displaced = {old for old in before if followed(old)[0] in after and old not in matched}
    assert set(replaced) == displaced
    found = [(row.kind, row.path) for row in rows]
    assert len(set(found)) == len(found), "a row occurs twice"
    assert set(found) == expected, (sorted(set(found) - expected), sorted(expected - set(found)))


def _differ(old: Facts, new: Facts) -> bool:
    return old != new
