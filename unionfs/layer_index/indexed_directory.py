"""What the directories of an index have in common: their names and marks come from rows of it, and none has a redirect."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from weakref import WeakValueDictionary

from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.objects import PathRef
from unionfs.types import Mark

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Rows(Protocol):
        """The names of one directory: row numbers by name, and the marks of rows."""

        rows: dict[bytes, int]

        def mark(self, row: int, /) -> Mark: ...


class IndexedDirectory(LayerDir):
    """A directory of a layer whose names are in an index. A subclass says where its rows come from, and what is in them."""

    __slots__ = ("_listing", "_row", "_rows")

    #: The listing of the directory above; this directory is row `_row` of it.
    _listing: Any
    #: The listing of this directory; None until it is needed.
    _rows: Any

    def __init__(
        self, layer: Layer, parent: IndexedDirectory | None, name: bytes, listing: Rows, row: int, device: int
    ) -> None:
        """Describe *row* of *listing*, which is the listing of *parent*, as the directory *name* of *layer*, with st_dev *device*."""
        super().__init__(layer, parent, name)
        self.device = device
        self._listing = listing
        self._row = row
        self._rows = None

    def listing(self) -> Any:
        """Return the listing of this directory.

        Raises:
            OSError: it cannot be read.
        """
        raise NotImplementedError

    def _new_child(self, name: bytes, listing: Any, row: int) -> LayerDir:
        """Return a new object for the directory *name*, which is *row* of *listing*."""
        raise NotImplementedError

    def _new_entry(self, name: bytes, listing: Any, row: int) -> PathRef:
        """Return a reference to the non-directory *name*, which is *row* of *listing*."""
        raise NotImplementedError

    def _load(self) -> dict[bytes, Mark] | None:
        raise NotImplementedError  # all methods that would call it are overridden

    def mark(self, name: bytes) -> Mark | None:
        """Return the mark of *name* in this directory; None if there is no such name."""
        listing = self._rows or self.listing()
        row = listing.rows.get(name)
        return None if row is None else listing.mark(row)

    def names(self) -> Iterable[bytes]:
        """Return the names that have a mark."""
        names: Iterable[bytes] = self.listing().rows
        return names

    def opaque(self, name: bytes) -> bool:
        """Return whether the directory *name* hides directories of that name in the layers below the index."""
        return self.mark(name) is Mark.OPAQUE_DIRECTORY

    def is_opaque(self) -> bool:
        """Return whether this directory hides directories of its name in the layers below the index."""
        return self._listing.mark(self._row) is Mark.OPAQUE_DIRECTORY

    def hides_below(self) -> bool:
        """Return whether this directory, the root, hides the layers below the index."""
        return self.is_opaque()

    def redirect(self, name: bytes) -> bytes | None:  # noqa: ARG002 - the same for every name
        """Return None: a layer with redirects has no index."""
        return None

    def redirected(self) -> bytes | None:
        """Return None: a layer with redirects has no index."""
        return None

    def reachable(self) -> bool:
        """Return True: a directory in an index is neither a mount point nor hidden."""
        return True

    def is_mount_point(self, name: bytes) -> bool:  # noqa: ARG002 - the same for every name
        """Return False: a layer with something mounted inside has no index."""
        return False

    def child(self, name: bytes) -> LayerDir:
        """Return the directory *name*: the same object as long as a reference to it exists."""
        children = self._children
        if children is None:
            children = self._children = WeakValueDictionary()
        child = children.get(name)
        if child is None:
            listing = self._rows or self.listing()
            row = listing.rows.get(name)
            if row is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            child = children[name] = self._new_child(name, listing, row)
        return child

    def entry(self, name: bytes) -> PathRef:
        """Return a reference to *name*, a non-directory."""
        listing = self._rows or self.listing()
        row = listing.rows.get(name)
        if row is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._new_entry(name, listing, row)
