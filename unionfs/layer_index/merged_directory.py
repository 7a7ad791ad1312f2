"""Reads several layers as one through their index, which provides names and attributes.

A descriptor is opened only for data, or for a call that needs one, by a single openat2 from the root of the layer that has the
object. A directory whose index is not trusted (``Stack.distrust``, or its own check) is read from the layers, and so are the
directories below it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence

from unionfs import _libc
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.objects import PathRef
from unionfs.layer_index.format import ROOT_PAGE, DamagedError, LayerIndex, Page, Source
from unionfs.layer_index.indexed_directory import IndexedDirectory
from unionfs.layer_index.scan import CannotIndexError, Parts, roots, scan
from unionfs.types import Mark

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class _Listing(Protocol):
        """The facts about the names of one directory: row numbers by name, and the properties of each row."""

        rows: dict[bytes, int]

        def mark(self, row: int, /) -> Mark: ...
        def layer(self, row: int, /) -> Layer: ...
        def known_no_xattrs(self, row: int, /) -> bool: ...
        def is_merged(self, row: int, /) -> bool: ...
        def target(self, row: int, /) -> bytes | None: ...
        def info(self, row: int, /) -> os.stat_result | None: ...
        def content(self, row: int, /) -> _Content | None: ...


#: Identifies the object that was indexed: its inode number, size, mtime and ctime.
_Content = tuple[int, int, int, int]

_NS = 1_000_000_000
_OPEN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: The flags of open(2) that are passed on. openat2(2) rejects flags that it does not know, such as the kernel's own for exec.
_PASSED = os.O_ACCMODE | os.O_NOATIME | os.O_SYNC | os.O_DIRECT | os.O_TRUNC
_RESOLVE = (
    _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_SYMLINKS | _libc.RESOLVE_NO_MAGICLINKS | _libc.RESOLVE_NO_XDEV
)
#: Bytes. Longer paths are not opened in a single call (PATH_MAX, limits.h, less a name).
_LONGEST_PATH = 4096 - 257


class Stack:
    """Layers that are read as one, and their index. `Store.plan` creates it."""

    def __init__(
        self,
        layers: Sequence[Layer],
        index: LayerIndex,
        *,
        checked: frozenset[int] = frozenset(),
        on_distrust: Iterable[Callable[[], None]] = (),
    ) -> None:
        """Present *layers*, top first, as *index* describes them.

        Args:
            layers: the layers, whose roots and descriptors are used.
            index: the contents of the layers.
            checked: positions of the layers whose directories are compared with the index at their first use.
            on_distrust: functions that are called once when the index turns out to be wrong.

        Raises:
            DamagedError: the index does not contain the root.
        """
        self.layers = tuple(layers)
        self.index = index
        self.checked = checked
        self.trusted = True
        #: Each is called once, when the index turns out to be wrong.
        self.on_distrust = list(on_distrust)
        entry = Page(index, 0)
        if list(entry.rows) != [b""] or entry.layer(0) >= len(self.layers):
            raise DamagedError("the index has no root")
        self.root = MergedDirectory(self, None, b"", _Stored(self, entry, ROOT_PAGE), 0)

    def distrust(self) -> None:
        """Stop using the index: from now on the layers are read."""
        if self.trusted:
            self.trusted = False
            for callback in self.on_distrust:
                callback()

    def compare(self, info: os.stat_result, indexed: _Content | None) -> None:
        """Stop using the index if *info* differs from *indexed*, the content in the index; None: the index has no content."""
        if indexed is not None and indexed != _content(info):
            self.distrust()


class _Stored:
    """A listing from a page of the index."""

    __slots__ = ("_number", "_stack", "is_merged", "known_no_xattrs", "mark", "page", "rows")

    def __init__(self, stack: Stack, page: Page, number: int = 0) -> None:
        self._stack = stack
        self.page = page
        self._number = number
        self.rows = page.rows
        self.mark = page.mark
        self.known_no_xattrs = page.known_no_xattrs
        self.is_merged = page.is_merged

    def layer(self, row: int) -> Layer:
        number = self.page.layer(row)
        if number >= len(self._stack.layers):
            self._stack.distrust()
            raise OSError(errno.ESTALE, "the layer index is damaged")
        return self._stack.layers[number]

    def target(self, row: int) -> bytes | None:
        try:
            return self.page.target(row) if self._stack.trusted else None
        except DamagedError:
            self._stack.distrust()
            return None

    def info(self, row: int) -> os.stat_result | None:
        """Return the attributes of *row* as stat(2) would, or None if the layer must be read."""
        if not self._stack.trusted:
            return None
        mode, nlink, uid, gid, ino, size, blocks, rdev, atime, mtime, ctime, _, layer, _ = self.page.fields(
            row
        )
        layers = self._stack.layers
        device = layers[layer].device if layer < len(layers) else 0
        return os.stat_result(
            (
                mode, ino, device, nlink, uid, gid, size, atime // _NS, mtime // _NS, ctime // _NS,
                atime / 1e9, mtime / 1e9, ctime / 1e9, atime, mtime, ctime, 4096, blocks, rdev,
            )
        )  # fmt: skip

    def content(self, row: int) -> _Content | None:
        """Return the fields of *row* that identify the object, or None if the index is not trusted."""
        if not self._stack.trusted:
            return None
        _, _, _, _, ino, size, _, _, _, mtime, ctime, _, _, _ = self.page.fields(row)
        return ino, size, mtime, ctime


class _Read:
    """A listing that was read from the layers."""

    __slots__ = ("_stack", "found", "rows")

    def __init__(self, stack: Stack, parts: Parts) -> None:
        self._stack = stack
        try:
            self.found = list(scan(parts))
        except CannotIndexError as error:
            raise OSError(errno.EACCES, str(error)) from None
        self.rows = {found.name: row for row, found in enumerate(self.found)}

    def mark(self, row: int) -> Mark:
        return self.found[row].mark

    def layer(self, row: int) -> Layer:
        return self.found[row].parts[0][1].layer

    def known_no_xattrs(self, _row: int) -> bool:
        return False

    def is_merged(self, row: int) -> bool:
        return self.found[row].is_dir and len(self.found[row].parts) > 1

    def target(self, _row: int) -> bytes | None:
        return None

    def info(self, _row: int) -> os.stat_result | None:
        return None

    def content(self, _row: int) -> _Content | None:
        return None


class MergedDirectory(IndexedDirectory):
    """A directory of a stack, merged from directories of its layers."""

    __slots__ = ("_places", "_stack")

    _listing: _Listing
    _rows: _Listing | None

    def __init__(
        self, stack: Stack, parent: MergedDirectory | None, name: bytes, listing: _Listing, row: int
    ) -> None:
        """Describe *row* of *listing*, which is the listing of *parent*, as the directory *name*."""
        layer = listing.layer(row)
        super().__init__(layer, parent, name, listing, row, layer.device)
        self._stack = stack
        self._places: dict[Layer, LayerDir] = {}

    # -- location ----------------------------------------------------------------------------------

    def place(self, layer: Layer) -> LayerDir:
        """Return the directory of *layer* that has the path of this one. It is opened without opening the
        directories above it.
        """
        found = self._places.get(layer)
        if found is None:
            if self.parent is None:
                found = layer.root
            else:
                path = self.path()
                assert isinstance(self.parent, MergedDirectory)
                found = (
                    LayerDir(layer, layer.root, path)
                    if len(path) < _LONGEST_PATH
                    else LayerDir(layer, self.parent.place(layer), self.name)
                )
            self._places[layer] = found
        return found

    def fd(self) -> int:
        """Return an O_PATH descriptor of the topmost part."""
        return self.place(self.layer).fd()

    def close(self) -> None:
        """Close the descriptors, except those of layer roots."""
        for place in self._places.values():
            if place.parent is not None:
                place.close()

    def pin(self) -> None:
        """Keep the descriptor open, because the directory is about to lose its name."""
        self.place(self.layer).pin()

    def unpin(self) -> None:
        """Return the descriptor to the cache."""
        self.place(self.layer).unpin()

    @property
    def merged(self) -> bool:
        """Return whether several layers contribute."""
        return self._listing.is_merged(self._row)

    @property
    def known_no_xattrs(self) -> bool:
        """Return whether the directory is known to have no extended attributes."""
        return self._stack.trusted and self._listing.known_no_xattrs(self._row)

    # -- names -------------------------------------------------------------------------------------

    def listing(self) -> _Listing:
        """Return the listing of this directory.

        Raises:
            OSError: the index is not trusted, and the layers cannot be read.
        """
        found = self._rows
        if found is None:
            found = self._stored()
            if found is None:
                parts = self.parts()
                found = _Read(self._stack, parts)
                self.shown_empty = parts[0][1].shown_empty
            self._rows = found
        return found

    def _stored(self) -> _Stored | None:
        stack = self._stack
        if not stack.trusted or not isinstance(self._listing, _Stored):
            return None
        try:
            number = self._listing.page.page(self._row)
            page = Page(stack.index, number)
            if not page.sources or page.sources[0].layer != self._listing.page.layer(self._row):
                raise DamagedError("a page belongs to a directory of other layers")
        except DamagedError:
            stack.distrust()
            return None
        if stack.checked and not all(
            self._is_as_it_was(source) for source in page.sources if source.layer in stack.checked
        ):
            stack.distrust()
            return None
        return _Stored(stack, page, number)

    def _is_as_it_was(self, source: Source) -> bool:
        try:
            info = _stat(self.place(self._stack.layers[source.layer]))
        except OSError:
            return False
        return (info.st_ino, info.st_ctime_ns, info.st_mtime_ns) == source[1:]

    def parts(self) -> Parts:
        """Return the directories of the layers that form this one, as the layers have them now."""
        if self.parent is None:
            return roots([layer.root for layer in self._stack.layers])[0]
        if isinstance(self._listing, _Read):
            return self._listing.found[self._row].parts
        assert isinstance(self.parent, MergedDirectory)
        for found in scan(self.parent.parts()):
            if found.name == self.name and found.is_dir:
                return found.parts
        raise OSError(errno.ESTALE, "the layer changed while mounted", self.name)

    def _new_child(self, name: bytes, listing: _Listing, row: int) -> LayerDir:
        return MergedDirectory(self._stack, self, name, listing, row)

    def _new_entry(self, name: bytes, listing: _Listing, row: int) -> PathRef:
        return IndexedRef(self, name, listing, row)

    def stat(self) -> os.stat_result:
        """Return the current attributes of the topmost part. If they differ from the index, stop using it."""
        place = self.place(self.layer)
        try:
            info = _stat(place)
            self._stack.compare(info, self._listing.content(self._row))
            return info
        except OSError:
            if not place.shown_empty:
                raise
        # Something was mounted there. Read from the layers, it is shown as an empty directory.
        self._stack.distrust()
        self.shown_empty = True
        top = self.parts()[0][1]
        top.reachable()
        return top.stat()

    def info(self) -> os.stat_result:
        """Return the attributes of the topmost part, from the index if it is trusted."""
        return self._listing.info(self._row) or self.stat()


class IndexedRef(PathRef):
    """A reference to a non-directory of a stack. Its facts come from the index where possible."""

    __slots__ = ("_listing", "_row", "layer")

    directory: MergedDirectory
    #: The layer that contains the object.
    layer: Layer

    def __init__(self, directory: MergedDirectory, name: bytes, listing: _Listing, row: int) -> None:
        """Refer to *name* of *directory*, *row* of *listing*."""
        self.directory = directory
        self.name = name
        self._listing = listing
        self._row = row
        self.layer = listing.layer(row)

    @property
    def known_no_xattrs(self) -> bool:
        """Return whether the object is known to have no extended attributes."""
        return self.directory._stack.trusted and self._listing.known_no_xattrs(self._row)

    @property
    def known_not_metacopy(self) -> bool:
        """Return True: a layer with metadata-only copies has no index."""
        return True

    def place(self) -> tuple[LayerDir, bytes]:
        """Return the directory of the layer that contains the object, and the object's name in it."""
        return self.directory.place(self.layer), self.name

    def stat(self) -> os.stat_result:
        """Return the current attributes of the object. If they differ from the index, stop using it."""
        info = super().stat()
        self.directory._stack.compare(info, self._listing.content(self._row))
        return info

    def info(self) -> os.stat_result:
        """Return the attributes of the object, from the index if it is trusted."""
        return self._listing.info(self._row) or super().stat()

    def readlink(self) -> bytes:
        """Return the target of the symbolic link."""
        return self._listing.target(self._row) or super().readlink()

    def opened(self, flags: int) -> tuple[int, os.stat_result]:
        """Open the object, a regular file. If it is not the indexed one, stop using the index.

        Raises:
            OSError: as :meth:`PathRef.opened`.
        """
        layer = self.layer
        path = self.directory.path() + b"/" + self.name if self.directory.parent is not None else self.name
        if len(path) >= _LONGEST_PATH:
            return super().opened(flags)
        try:
            fd = _libc.openat2(layer.root.fd(), path, flags & _PASSED | _OPEN_FILE, _RESOLVE)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                raise
            self.directory._stack.distrust()
            if error.errno != errno.EXDEV:
                raise
            raise OSError(errno.ESTALE, "mount point inside a layer", self.name) from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.ESTALE, "the layer changed while mounted", self.name)
            self.directory._stack.compare(info, self._listing.content(self._row))
        except OSError:
            os.close(fd)
            raise
        return fd, info


def _stat(place: LayerDir) -> os.stat_result:
    # Open the directory first: a stat of a path with several names would follow symbolic links in it.
    place.fd()
    return place.stat()


def _content(info: os.stat_result) -> _Content:
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
