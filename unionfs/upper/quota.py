"""Limit the bytes and objects in the writable layer, and in those that were frozen, like a quota of a file system.

The bytes are those of st_blocks of everything in the layer. Every object counts as one, deletion marks included. Growth is
always counted at once. Freed space may be missed, for example if a mark replaces a file. So the layer is counted anew
before a request is refused. Deletion marks are counted but never refused: making room must not require room.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs.layer.directory import Layer, LayerDir
from unionfs.upper.extents import unallocated

_BLOCK = 512  # the unit of st_blocks, regardless of the file system's block size (stat(2))
_PAGE = 4096
#: Seconds after which a layer that seems full is counted again.
_STALE = 1.0
_LIST_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Returns the attributes of objects in the layer that have no name any more, but are open or have an inode.
Nameless = Callable[[], Iterable[os.stat_result]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatvfsResult:
    """The result of statvfs(3), under its field names."""

    f_bsize: int
    f_frsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_namemax: int


class Quota:
    """The limits and the use of one writable layer. :mod:`unionfs.assemble` creates it; code that changes the layer calls
    it to count the changes.
    """

    def __init__(self, layer: Layer, size: int | None, inodes: int | None) -> None:
        """Limit *layer* to *size* bytes and *inodes* objects; None for no limit."""
        self.size = size
        self.inodes = inodes
        self._layer = layer
        #: Former writable layers of the mount, which change no more, and whose bytes and objects are not known yet; and the
        #: bytes and objects of the others.
        self._frozen: list[Layer] = []
        self._counted = 0, 0
        self.bytes = 0
        self.objects = 0
        #: Bytes of copies that are being made outside the layer and will be moved into it (copyup/background_copy.py).
        self.reserved = 0
        #: Whether space was freed since the last count; and when the layer is counted again for freed space that was missed.
        self._freed = True
        self._stale_at = 0.0
        #: Set once there is an inode table.
        self.nameless: Nameless = tuple
        #: Called once for each limit that caused a refusal: "size" or "inodes".
        self.on_full: Callable[[str], None] | None = None
        self._reported: set[str] = set()
        self.recount()

    # -- questions ---------------------------------------------------------------------------------

    def require(self, size: int, objects: int = 0) -> None:
        """Check that *size* bytes and *objects* more are within the limits.

        Raises:
            OSError: ENOSPC if they are not.
        """
        if not self._fits(size, objects):
            if self._freed or time.monotonic() >= self._stale_at:
                self.recount()
            if not self._fits(size, objects):
                self._report_full("inodes" if self._fits(size, 0) else "size")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _report_full(self, bound: str) -> None:
        if self.on_full is not None and bound not in self._reported:
            self._reported.add(bound)
            self.on_full(bound)

    def _fits(self, size: int, objects: int) -> bool:
        return (self.size is None or size <= 0 or self.bytes + self.reserved + size <= self.size) and (
            self.inodes is None or objects <= 0 or self.objects + objects <= self.inodes
        )

    def writable(self, fd: int, offset: int, length: int) -> int:
        """Return how many of *length* bytes at *offset* of the open file *fd* can be written.

        Raises:
            OSError: ENOSPC if none can.
        """
        if self._fits(_up(offset + length) - _down(offset), 0):
            return length
        # Near the limit: ranges that already have blocks take no more, for instance after fallocate(2) beyond the end of
        # the file.
        missing = list(unallocated(fd, _down(offset), _up(offset + length)))
        try:
            self.require(sum(end - start for start, end in missing))
        except OSError:
            assert self.size is not None
            room = _down(max(0, self.size - self.bytes - self.reserved))
            for start, end in missing:
                if end - start > room:
                    break
                room -= end - start
            fitting = start + room - offset
            if fitting <= 0:
                raise
            return min(length, fitting)
        return length

    def growth(self, fd: int, offset: int, length: int) -> int:
        """Return how many bytes of the range of *length* bytes at *offset* of the open file *fd* have no blocks yet."""
        if self.size is None:
            return 0
        return sum(end - start for start, end in unallocated(fd, _down(offset), _up(offset + length)))

    def within(self, found: StatvfsResult) -> StatvfsResult:
        """Return the values *found* of the file system below, reduced to the limits."""
        unit = found.f_frsize or _PAGE
        if self.size is not None:
            left = max(0, self.size - self.bytes - self.reserved) // unit
            found = replace(
                found,
                f_blocks=self.size // unit,
                f_bfree=min(left, found.f_bfree),
                f_bavail=min(left, found.f_bavail),
            )
        if self.inodes is not None:
            left = max(0, self.inodes - self.objects)
            # Some file systems have no limit of inodes, and report 0.
            free = min(left, found.f_ffree) if found.f_files else left
            found = replace(found, f_files=self.inodes, f_ffree=free, f_favail=free)
        return found

    # -- changes -----------------------------------------------------------------------------------

    def made(self, info: os.stat_result) -> None:
        """Count a new object."""
        self.bytes += info.st_blocks * _BLOCK
        self.objects += 1

    def changed(self, before: int, after: int) -> None:
        """Count an object's change from *before* to *after* blocks."""
        self.bytes += (after - before) * _BLOCK
        if after < before:
            self._freed = True

    def marked(self) -> None:
        """Count a deletion mark."""
        self.objects += 1

    def recorded(self) -> None:
        """Count an attribute of the root directory that is about to be written; it may take another page.

        Raises:
            OSError: ENOSPC if there is no room for one.
        """
        self.require(_PAGE)
        self.bytes += _PAGE
        self._freed = (
            True  # the attribute may have fitted into an existing page; the next count corrects this
        )

    def continue_on(self, layer: Layer) -> None:
        """Count the changes of *layer*, which is empty, as well. The present layer changes no more; what it has still counts."""
        self._frozen.append(self._layer)
        self._layer = layer
        with suppress(OSError):  # the next count corrects it
            self.bytes += self._root_size(layer)

    def nameless_dropped(self, info: os.stat_result) -> None:
        """Count the end of an object that has no names."""
        self.bytes = max(0, self.bytes - info.st_blocks * _BLOCK)
        self.objects = max(0, self.objects - 1)

    # -- counting ----------------------------------------------------------------------------------

    def recount(self) -> None:
        """Count the layer on disk, and frozen ones that have not been counted yet."""
        self.bytes, self.objects = self._counted
        self._freed = False
        self._stale_at = time.monotonic() + _STALE
        while self._frozen:
            self._count_layer(self._frozen[-1])
            self._frozen.pop()
            self._counted = self.bytes, self.objects
        self._count_layer(self._layer)
        for info in self.nameless():
            self.made(info)

    @staticmethod
    def _root_size(layer: Layer) -> int:
        # The root is not counted as an object. Its blocks are, except for the page that an empty directory may have.
        return max(0, layer.root.stat().st_blocks * _BLOCK - _PAGE)

    def _count_layer(self, layer: Layer) -> None:
        self.bytes += self._root_size(layer)
        seen: set[int] = set()
        pending = [layer.root]
        while pending:
            directory = pending.pop()
            # Between two directories no descriptor is in use, and the layer may be deeper than the limit of descriptors.
            layer.fds.trim()
            try:
                fd = os.open(b".", _LIST_DIR, dir_fd=directory.fd())
            except PermissionError:
                continue  # the server is unprivileged and the directory has mode 000: its contents are not counted
            try:
                pending += [LayerDir(layer, directory, name) for name in self._count_entries(fd, seen)]
            finally:
                os.close(fd)

    def _count_entries(self, fd: int, seen: set[int]) -> Iterator[bytes]:
        """Count the entries of one directory; yield the names of directories."""
        with os.scandir(fd) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    yield os.fsencode(entry.name)
                elif info.st_nlink > 1:
                    if info.st_ino in seen:
                        continue
                    seen.add(info.st_ino)
                self.made(info)


@contextmanager
def counted(quota: Quota | None, look: Callable[[], os.stat_result]) -> Iterator[None]:
    """Count in *quota* how the context changes the blocks of an object, whose attributes *look* returns; *quota* may be None."""
    if quota is None:
        yield
        return
    before = look().st_blocks
    try:
        yield
    finally:
        quota.changed(before, look().st_blocks)


def _down(size: int) -> int:
    return size // _PAGE * _PAGE


def _up(size: int) -> int:
    return (size + _PAGE - 1) // _PAGE * _PAGE
