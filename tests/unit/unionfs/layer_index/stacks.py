"""Stacks of lower layers, opened with or without an index, and the listing of such a stack."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.tree import Dir, Fifo, File, HardLink, Opaque, Socket, Symlink, Whiteout, make_tree
from unionfs.assemble import LayerSource, StackSource, build_indexes, open_stack
from unionfs.formats.whiteout import ALL_MARKS, MarkPolicy
from unionfs.inode.inode import DirectoryInode
from unionfs.layer_index.merged_directory import MergedDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.vfs.filesystem import UnionFs


OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
AUFS = MarkPolicy(overlay=False, aufs=True)
Seen = dict[str, tuple[Any, ...]]


class Layers:
    """Lower layers on disk, opened with or without an index."""

    def __init__(self, base: Path, *trees: Any, policy: MarkPolicy = ALL_MARKS) -> None:
        """Write *trees*, top first, below *base*."""
        self.base = base
        self.paths = [base / f"lower{number}" for number in range(len(trees))]
        for path, tree in zip(self.paths, trees, strict=True):
            make_tree(path, tree)
        (base / "upper").mkdir()
        (base / "work").mkdir()
        self.policies = [policy] * len(trees)
        self.unchanging = True
        #: The layers to index; None for all.
        self.indexed: Sequence[bool] | None = None

    def source(self, *, writable: bool = False) -> StackSource:
        """Open the directories."""
        return StackSource(
            lowers=tuple(
                LayerSource(fd=os.open(path, OPEN_DIR), policy=policy, unchanging=self.unchanging)
                for path, policy in zip(self.paths, self.policies, strict=True)
            ),
            upper_fd=os.open(self.base / "upper", OPEN_DIR) if writable else None,
            work_fd=os.open(self.base / "work", OPEN_DIR) if writable else None,
        )

    def open(self, *, indexed: bool = True, writable: bool = False, build: bool = True) -> UnionFs:
        """Open the stack with an index. *build*: build the index if it is missing."""
        source = self.source(writable=writable)
        if indexed:
            (self.base / "indexes").mkdir(mode=0o700, exist_ok=True)
            wanted = self.indexed or [True] * len(source.lowers)
            lowers = zip(source.lowers, wanted, strict=True)
            source = replace(
                source,
                lowers=tuple(replace(lower, indexed=want) for lower, want in lowers),
                index_fd=os.open(self.base / "indexes", OPEN_DIR),
            )
            try:
                if build:
                    build_indexes(source, wait=True)
            except OSError:
                open_stack(source).close()
                raise
        return open_stack(source)

    def files(self) -> list[Path]:
        """Return the names of the existing indexes."""
        return sorted((self.base / "indexes").glob("*.index"))


def seen(fs: UnionFs, *, data: bool = True) -> Seen:
    """Return everything that *fs* shows, by path, in the order of its listings, without access times, which reads change."""
    found: Seen = {}
    pending: list[tuple[str, int]] = [("", 1)]
    while pending:
        path, ino = pending.pop(0)
        inode = fs.inode_table.inode(ino)
        inode.lookups += 1
        shown = fs.attributes.of(inode)._replace(atime_ns=0)
        content: Any = None
        if isinstance(inode, DirectoryInode):
            number = fs.directories.open(ino)
            names = []
            for name, child, after in fs.directories.entries(number, 0):
                if after > 2:
                    child.lookups += 1
                    names.append(name)
                    pending.append((f"{path}/{os.fsdecode(name)}", child.ino))
            fs.handles.close_directory(number)
            content = names
        elif stat.S_ISLNK(shown.mode):
            content = fs.files.readlink(ino)
        elif stat.S_ISREG(shown.mode) and data:
            number = fs.files.open(ino, os.O_RDONLY)
            content = fs.files.read(number, 0, shown.size)
            fs.handles.close_file(number)
        xattrs = tuple((name, fs.xattrs.get(ino, name)) for name in fs.xattrs.list(ino))
        found[path] = (shown, content, xattrs)
        fs.trim()
    return found


def show(layers: Layers, **how: Any) -> Seen:
    """Open *layers*, read everything, and close them."""
    fs = layers.open(**how)
    try:
        return seen(fs)
    finally:
        fs.close()


def is_indexed(fs: UnionFs) -> bool:
    """Return whether *fs* trusts one index for all of its lower layers."""
    root = fs.inode_table.root.parts[-1]
    return isinstance(root, MergedDirectory) and root._stack.trusted


RICH = {
    "file": File(b"data", mode=0o4751, xattrs={"user.one": b"1"}),
    "link": Symlink(target=b"nowhere"),
    "long": Symlink(target=b"x" * 300),
    "pipe": Fifo(mode=0o640),
    "socket": Socket(mode=0o604),
    "d": Dir({"a": b"1", "deep": {"er": {"f": b"2"}}}, mode=0o1750, xattrs={"user.two": b"2"}),
    "both": {"low": b"l"},
    "gone": b"gone",
    "hidden": {"x": b"x"},
    "as dir": {"y": b""},
    "as file": b"",
}
ABOVE = {
    "gone": Whiteout(),
    "both": {"high": b"h", "low": b"L"},
    "hidden": Opaque({"new": b"n"}),
    ".wh.pipe": b"",
    "d": {".wh..wh..opq": b"", "only": b"o"},
    "as dir": b"file",
    "as file": {"z": b""},
    "twice": File(b"2"),
    "again": HardLink("twice"),
    b"\xff\xfe\n": b"odd",
}
