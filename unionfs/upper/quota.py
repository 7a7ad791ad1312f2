"""A bound on what the writable layer takes, as a quota of its own file system would set it.

Counted is what st_blocks says of everything in the layer, and one object each, marks included. What grows is counted
at once and never missed; what becomes free may be missed (a mark that makes room for a file, say), so before anything
is refused the layer is counted anew. Deletion marks are counted and never refused: making room must not need room.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs.layer.directory import Layer, LayerDir
from unionfs.upper.extents import unallocated

_BLOCK = 512  # the unit of st_blocks, whatever the file system's is (stat(2))
_PAGE = 4096
#: Seconds after which a layer that seems full is counted again.
_STALE = 1.0
_LIST_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Gives the attributes of what is open or known in the layer and has no name there any more.
Nameless = Callable[[], Iterable[os.stat_result]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystemFigures:
    """What statvfs(3) tells of a file system, under its names."""

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
    """What a layer may take, and takes."""

    def __init__(self, layer: Layer, size: int | None, inodes: int | None) -> None:
        """Bound *layer* to *size* bytes and *inodes* objects; None for no bound."""
        self.size = size
        self.inodes = inodes
        self._layer = layer
        self.bytes = 0
        self.objects = 0
        #: Bytes of copies that are being made outside of the layer and are going to be in it (ahead.py).
        self.reserved = 0
        #: Something was seen to become free since the last count; and when what was not seen is looked for.
        self._freed = True
        self._stale_at = 0.0
        #: Set once there are nodes.
        self.nameless: Nameless = tuple
        #: Told once of each bound that stands against something: "size" or "inodes".
        self.on_full: Callable[[str], None] | None = None
        self._told: set[str] = set()
        self.recount()

    # -- questions ---------------------------------------------------------------------------------

    def require(self, size: int, objects: int = 0) -> None:
        """See that *size* bytes and *objects* more are within the bounds.

        Raises:
            OSError: ENOSPC where they are not.
        """
        if not self._fits(size, objects):
            if self._freed or time.monotonic() >= self._stale_at:
                self.recount()
            if not self._fits(size, objects):
                self._tell("inodes" if self._fits(size, 0) else "size")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _tell(self, bound: str) -> None:
        if self.on_full is not None and bound not in self._told:
            self._told.add(bound)
            self.on_full(bound)

    def _fits(self, size: int, objects: int) -> bool:
        return (self.size is None or size <= 0 or self.bytes + self.reserved + size <= self.size) and (
            self.inodes is None or objects <= 0 or self.objects + objects <= self.inodes
        )

    def writable(self, fd: int, offset: int, length: int) -> int:
        """Return how much of *length* bytes at *offset* of the open file *fd* can be written.

        Raises:
            OSError: ENOSPC where nothing can.
        """
        if self._fits(_up(offset + length) - _down(offset), 0):
            return length
        # Near the bound: what has blocks already, as behind the end after fallocate(2), takes no more.
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
        """Return how many bytes *length* bytes at *offset* of the open file *fd* will take that have no blocks yet."""
        if self.size is None:
            return 0
        return sum(end - start for start, end in unallocated(fd, _down(offset), _up(offset + length)))

    def within(self, found: FileSystemFigures) -> FileSystemFigures:
        """Return *found*, of the file system below, within the bounds: it may have less than they allow."""
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
            # Some file systems have no limit of their own and say that they have 0.
            free = min(left, found.f_ffree) if found.f_files else left
            found = replace(found, f_files=self.inodes, f_ffree=free, f_favail=free)
        return found

    # -- changes -----------------------------------------------------------------------------------

    def made(self, info: os.stat_result) -> None:
        """Count a new object."""
        self.bytes += info.st_blocks * _BLOCK
        self.objects += 1

    def changed(self, before: int, after: int) -> None:
        """Count that an object has *after* blocks instead of *before*."""
        self.bytes += (after - before) * _BLOCK
        if after < before:
            self._freed = True

    def marked(self) -> None:
        """Count a deletion mark."""
        self.objects += 1

    def recorded(self) -> None:
        """Count that an attribute is going to be written to the root, whose attributes may need another page.

        Raises:
            OSError: ENOSPC where there is no room for one.
        """
        self.require(_PAGE)
        self.bytes += _PAGE
        self._freed = True  # it may have found room where others are: the next count tells

    def gone(self, info: os.stat_result) -> None:
        """Count that an object without names is given up."""
        self.bytes = max(0, self.bytes - info.st_blocks * _BLOCK)
        self.objects = max(0, self.objects - 1)

    # -- counting ----------------------------------------------------------------------------------

    def recount(self) -> None:
        """Count the layer as it is on disk."""
        # The root is no object of the layer, but grows with the names in it beyond the page that an empty one may have.
        self.bytes, self.objects = max(0, self._layer.root.stat().st_blocks * _BLOCK - _PAGE), 0
        self._freed = False
        self._stale_at = time.monotonic() + _STALE
        seen: set[int] = set()
        pending = [self._layer.root]
        while pending:
            directory = pending.pop()
            # Nothing is in use between two of them, and the layer may be deeper than there are descriptors.
            self._layer.fds.trim()
            try:
                fd = os.open(b".", _LIST_DIR, dir_fd=directory.fd())
            except PermissionError:
                continue  # a server without privileges, and a directory of mode 000: what is in it is not counted
            try:
                pending += [LayerDir(self._layer, directory, name) for name in self._count_entries(fd, seen)]
            finally:
                os.close(fd)
        for info in self.nameless():
            self.made(info)

    def _count_entries(self, fd: int, seen: set[int]) -> Iterator[bytes]:
        """Count what is in one directory; yields the names of directories."""
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
    """While the object at which *look* looks changes: count in *quota*, if there is one, what it takes more or less."""
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
