"""The open descriptors of directories, bounded over all layers of a mount."""

from __future__ import annotations

from collections import OrderedDict

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer.directory import LayerDir


class FdCache:
    """The open directory descriptors of all layers, oldest use first. Bounded: a closed one is opened again
    through its parent.
    """

    def __init__(self, capacity: int) -> None:
        """Keep at most *capacity* descriptors (at least 16) between two calls of :meth:`trim`."""
        self.capacity = max(16, capacity)
        self._open: OrderedDict[LayerDir, None] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of descriptors that are open."""
        return len(self._open)

    def add(self, directory: LayerDir) -> None:
        """Keep the descriptor that *directory* has just opened."""
        self._open[directory] = None

    def touch(self, directory: LayerDir) -> None:
        """Note that *directory*'s descriptor was used just now; those that are not kept here (roots, pinned
        ones) do not count.
        """
        if directory in self._open:
            self._open.move_to_end(directory)

    def drop(self, directory: LayerDir) -> None:
        """Close the descriptor of *directory*, if it has one."""
        if self._open.pop(directory, 0) is None:
            directory.close()

    def release(self, directory: LayerDir) -> None:
        """Leave the descriptor of *directory* to its owner, open."""
        self._open.pop(directory, None)

    def is_full(self) -> bool:
        """Tell whether a descriptor more would be over the capacity."""
        return len(self._open) >= self.capacity

    def trim(self) -> None:
        """Close what is over the capacity. Called between requests only: within one, several descriptors are
        in use at once.
        """
        while len(self._open) > self.capacity:
            directory, _ = self._open.popitem(last=False)
            directory.close()
