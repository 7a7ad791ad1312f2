"""Layers for tests that compare a union with another tree, and their union, written by hand."""

from __future__ import annotations

import os

from tests.support.tree import Dir, Fifo, File, HardLink, Node, Opaque, Symlink, Whiteout

#: The modification time of every object at the start, and the end of the range of random times. An operation has set
#: each later time to the present, so it cannot be compared exactly.
OLD = 10**18
RECENT = 1_500_000_000 * 10**9

BOTTOM: dict[str, Node] = {
    "a": b"bottom a",
    "big": File(b"x" * 70_000, size=300_000),
    "d": {"a": b"d/a", "b": b"d/b", "sub": {"a": b"d/sub/a", "deep": {"x": b"x"}}, "link": Symlink(b"../a")},
    "e": {"a": b"hidden by the layer above", "gone": b"whited out above"},
    "f": {"only": b"in the bottom"},
    "hard1": b"three names",
    "hard2": HardLink("hard1"),
    "hd": {"hard3": HardLink("hard1")},
    "s": Symlink(b"d/a"),
    "p": Fifo(mode=0o640),
    "w": b"whited out above",
    "dir-then-file": {"x": b"x"},
    "file-then-dir": b"file",
    "mode": File(b"read only", mode=0o444, xattrs={"user.color": b"blue"}),
}
MIDDLE: dict[str, Node] = {
    "b": b"middle b",
    "d": Dir({"b": b"d/b from the middle", "c": b"d/c", "m": {"x": b"d/m/x"}}, mode=0o775),
    "e": Opaque({"b": b"e/b"}),
    "f": {"only": Whiteout(), "mine": b"f/mine"},
    "w": Whiteout(),
    "dir-then-file": b"now a file",
    "file-then-dir": {"y": b"y"},
}
#: The union of both layers, written by hand.
VISIBLE: dict[str, Node] = {
    "a": b"bottom a",
    "b": b"middle b",
    "big": File(b"x" * 70_000, size=300_000),
    "d": Dir(
        {
            "a": b"d/a",
            "b": b"d/b from the middle",
            "c": b"d/c",
            "m": {"x": b"d/m/x"},
            "sub": {"a": b"d/sub/a", "deep": {"x": b"x"}},
            "link": Symlink(b"../a"),
        },
        mode=0o775,
    ),
    "e": {"b": b"e/b"},
    "f": {"mine": b"f/mine"},
    "hard1": b"three names",
    "hard2": HardLink("hard1"),
    "hd": {"hard3": HardLink("hard1")},
    "s": Symlink(b"d/a"),
    "p": Fifo(mode=0o640),
    "dir-then-file": b"now a file",
    "file-then-dir": {"y": b"y"},
    "mode": File(b"read only", mode=0o444, xattrs={"user.color": b"blue"}),
}


def age(root: str | bytes | os.PathLike[str]) -> None:
    """Set the same old modification time on everything below *root*."""
    for directory, names, files in os.walk(os.fsencode(root), topdown=False):
        for name in [*names, *files]:
            os.utime(os.path.join(directory, name), ns=(OLD, OLD), follow_symlinks=False)
    os.utime(root, ns=(OLD, OLD))


def comparable_time(mtime_ns: int | None) -> int:
    """Return a modification time that can be compared between two directories: -1 for one that was set just now."""
    return mtime_ns if mtime_ns is not None and mtime_ns < RECENT else -1
