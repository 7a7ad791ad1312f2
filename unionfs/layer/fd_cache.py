"""A bounded cache of open directory descriptors, shared by all layers of a mount."""

from __future__ import annotations

from collections import OrderedDict

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer.directory import LayerDir


class FdCache:
    """The open directory descriptors of all layers, least recently used first.

    A directory whose descriptor was closed is opened again through its parent. `unionfs.assemble` creates the cache.
    """

    def __init__(self, capacity: int) -> None:
        """Keep at most *capacity* descriptors (at least 16) between two calls of :meth:`trim`."""
        self.capacity = max(16, capacity)
        self._open: OrderedDict[LayerDir, None] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of open descriptors."""
        return len(self._open)

    def add(self, directory: LayerDir) -> None:
        """Keep the descriptor that *directory* has just opened."""
        self._open[directory] = None

    def touch(self, directory: LayerDir) -> None:
        """Record that the descriptor of *directory* was just used. Descriptors that are not in the cache are ignored: those of
        roots and of pinned directories.
        """
        if directory in self._open:
            self._open.move_to_end(directory)

    def drop(self, directory: LayerDir) -> None:
        """Close the descriptor of *directory*, if it has one."""
        if self._open.pop(directory, 0) is None:
            directory.close()

    def release(self, directory: LayerDir) -> None:
        """Remove *directory* from the cache, but leave its descriptor open. The directory now has to close it."""
        self._open.pop(directory, None)

    def is_full(self) -> bool:
        """Return whether one more descriptor would exceed the capacity."""
        return len(self._open) >= self.capacity

    def trim(self) -> None:
        """Close the descriptors that exceed the capacity. Call it only between requests, because a request uses several at
        once.
        """
        while len(self._open) > self.capacity:
            directory, _ = self._open.popitem(last=False)
            directory.close()
