"""Record the directories of a tree that is being unpacked."""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NO_XATTRS: Mapping[bytes, bytes] = {}


class Directory:
    """A directory of the tree: the attributes to set once unpacking has finished, and the known directories in it.

    An archive may have millions of directories. A path or an empty dictionary for each would take most of the memory, so a
    directory has neither.
    """

    __slots__ = ("children", "gid", "lacks_lower", "listed", "mode", "mtime_ns", "parent", "uid", "xattrs")

    def __init__(self, parent: Directory | None) -> None:
        self.parent = parent
        self.children: dict[bytes, Directory] | None = None
        self.mode = 0o755
        self.uid = 0
        self.gid = 0
        self.mtime_ns: int | None = None
        self.xattrs: Mapping[bytes, bytes] = NO_XATTRS
        #: Whether to set these attributes: not for a directory that existed before.
        self.listed = False
        #: Whether the layers below are known to have no directory here.
        self.lacks_lower = False

    def child(self, name: bytes) -> Directory | None:
        """Return the directory *name* in this one; None if it is not known."""
        return None if self.children is None else self.children.get(name)

    def add(self, name: bytes) -> Directory:
        """Record the directory *name* in this one, and return it."""
        if self.children is None:
            self.children = {}
        made = self.children[name] = Directory(self)
        return made
