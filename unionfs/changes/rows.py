"""The changes of a writable layer as rows, and how old paths became new ones. Pure.

A *move* is a pair of paths: where an object was in the layers below, and where the union has it. Moves decide which old object
a new one is compared with: :meth:`Moves.new_path` follows an old path to where a consumer of the rows would look for its
object.
"""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.changes.merged_tree import Entry

ADDED, CHANGED, DELETED, MOVED = "A", "C", "D", "R"
#: The order of the rows of one path.
ORDER = {DELETED: 0, MOVED: 1, ADDED: 2, CHANGED: 3}


class Row:
    """One change. Paths have no leading slash; that of the root is empty."""

    __slots__ = ("kind", "new", "old", "old_path", "path", "replaced")

    def __init__(
        self, kind: str, path: bytes, new: Entry | None, old_path: bytes | None, old: Entry | None
    ) -> None:
        """Describe a change of *kind*.

        Args:
            kind: ADDED, CHANGED, DELETED or MOVED.
            path: where the union has the object; of a deleted one, where the layers below have it.
            new: what the union shows there; None if the object is deleted.
            old_path: where the layers below have the object; None if it is new.
            old: what they have there; None if it is new.
        """
        self.kind = kind
        self.path = path
        self.new = new
        self.old_path = old_path
        self.old = old
        #: Of a moved object: the path and object of the layers below that it replaces, and what was below that and has no row.
        self.replaced: list[tuple[bytes, Entry]] = []


class Moves:
    """The moves of one comparison: the paths in the layers below, and the paths to which they moved."""

    def __init__(self) -> None:
        """Start without moves."""
        self._targets: dict[bytes, bytes] = {}

    def add(self, old_path: bytes, new_path: bytes) -> bool:
        """Record a move; return False if *old_path* has moved to another path already, as only a damaged layer has it."""
        return self._targets.setdefault(old_path, new_path) == new_path

    def __contains__(self, old_path: bytes) -> bool:
        """Return whether the object at *old_path* itself moved, not only a directory above it."""
        return old_path in self._targets

    def new_path(self, old_path: bytes) -> bytes:
        """Return the path at which the union has the object at *old_path* if it still exists."""
        if not self._targets:
            return old_path
        at = old_path
        while at:
            target = self._targets.get(at)
            if target is not None:
                return target + old_path[len(at) :]
            at = at.rpartition(b"/")[0]
        return old_path

    def sources(self) -> list[bytes]:
        """Return the old paths of all moves, sorted."""
        return sorted(self._targets)
