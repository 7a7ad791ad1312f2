"""The directories of a tree that is being unpacked."""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NO_XATTRS: Mapping[bytes, bytes] = {}


class Directory:
    """A directory of the tree: what it will get when nothing is made in it any more, and the directories in it.

    There may be millions: a path for each, or a dictionary that is empty, would be most of the memory.
    """

    __slots__ = ("children", "gid", "listed", "mode", "mtime_ns", "parent", "uid", "xattrs")

    def __init__(self, parent: Directory | None) -> None:
        self.parent = parent
        self.children: dict[bytes, Directory] | None = None
        self.mode = 0o755
        self.uid = 0
        self.gid = 0
        self.mtime_ns: int | None = None
        self.xattrs: Mapping[bytes, bytes] = NO_XATTRS
        #: Whether it is to get these: not one that was there before.
        self.listed = False

    def child(self, name: bytes) -> Directory | None:
        """Return the directory *name* in this one, if it is known."""
        return None if self.children is None else self.children.get(name)

    def add(self, name: bytes) -> Directory:
        """Note that there is a directory *name* in this one."""
        if self.children is None:
            self.children = {}
        made = self.children[name] = Directory(self)
        return made
