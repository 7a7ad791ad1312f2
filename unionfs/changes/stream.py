"""Writes objects of the union as members of a tar archive, whole: contents, owner, mode, times, attributes, holes, hard links.

:meth:`Stream.layer` writes what the writable layer adds, as a layer of an OCI image. :meth:`Stream.trees` writes what the sandbox
shows, :meth:`Stream.members` single objects. Sockets are left out: an archive cannot hold them.

A server may be changing the layer meanwhile. An object that disappears is left out, and one that is replaced is written as the
old or the new one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from unionfs._stdlib.typing import Protocol
from unionfs.changes import pax
from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.layer_members import ROOT, LayerMembers
from unionfs.changes.merged_tree import GONE, Entry, naming
from unionfs.changes.opened_file import OpenedFile
from unionfs.formats.xattrs import is_private

_CHUNK = 1 << 20
#: A hole of fewer bytes is not worth a map.
_LEAST_HOLES = 1 << 16
#: How often another file may get the name of a file before that is opened.
_MOST_REPLACEMENTS = 16


class Output(Protocol):
    """Where the archive goes."""

    def write(self, data: bytes, /) -> int:
        """Write all of *data*."""


class Stream:
    """One archive. It borrows the stack and the output, and is used once."""

    def __init__(self, stack: ComparedStack, output: Output) -> None:
        """Write objects of *stack* to *output*."""
        self._stack = stack
        self._union = stack.union
        self._output = output
        #: The first path of each file with several names, by identity on disk.
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._written: set[bytes] = set()
        #: Whether attributes are left out that are named like marks of a layer.
        self._without_marks = False

    # -- selections --------------------------------------------------------------------------------

    def layer(self, paths: Iterable[bytes] | None = None) -> None:
        """Write what turns the layers below the writable one into the union; with *paths*, only at and below these.

        An attribute that a program has named like a mark of a layer is left out, because readers would take it for one.

        Raises:
            UnionError: an object has a name that a layer cannot contain.
            OSError: an object cannot be read.
        """
        self._without_marks = True
        for path, entry in LayerMembers(self._stack).of(paths):
            if entry is None:
                self._output.write(pax.header(pax.Member(path=path, mode=stat.S_IFREG | 0o600)))
            else:
                self._write(path, entry)
        self._output.write(pax.END)

    def trees(self, paths: Iterable[bytes]) -> None:
        """Write the objects at *paths*, directories with all that is below them.

        Raises:
            OSError: ENOENT if there is none at one of the paths; others if an object cannot be read.
        """
        for path in paths:
            entry = self._at(path)
            self._write(path or ROOT, entry)
            if entry.is_dir:
                for below, child in self._union.walk(entry, path, complete=True):
                    self._write(below, child)
        self._output.write(pax.END)

    def members(self, paths: Iterable[bytes]) -> None:
        """Write the objects at *paths*, of directories themselves only.

        Raises:
            OSError: as :meth:`trees`.
        """
        for path in paths:
            self._write(path or ROOT, self._at(path))
        self._output.write(pax.END)

    def _at(self, path: bytes) -> Entry:
        entry = self._union.at(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(b"/" + path))
        return entry

    # -- members -----------------------------------------------------------------------------------

    def _write(self, path: bytes, entry: Entry) -> None:
        if not pax.is_supported(entry.mode) or path in self._written:
            return
        info = entry.info
        identity = info.st_dev, info.st_ino
        # A copy may have several names that are all in the layers below, and a single one on disk: that in the link index.
        has_links = not entry.is_dir and (info.st_nlink > 1 or self._is_indexed(entry))
        member = pax.Member(
            path=path, mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime_ns=info.st_mtime_ns
        )
        try:
            if has_links and identity in self._first_names:
                member.hard_link, member.link = True, self._first_names[identity]
                self._output.write(pax.header(member))
            elif entry.is_file:
                self._write_file(path, entry)
            else:
                with naming(path):
                    self._describe(member, entry)
                self._output.write(pax.header(member))
        except OSError as error:
            if error.errno in GONE:
                return
            raise
        self._written.add(path)
        if has_links:
            self._first_names.setdefault(identity, path)

    def _is_indexed(self, entry: Entry) -> bool:
        records = self._stack.records
        return records is not None and records.is_entry(entry.ref)

    def _describe(self, member: pax.Member, entry: Entry) -> None:
        """Add to *member* what is read of an object that is no regular file."""
        member.xattrs = self._attributes(entry)
        if stat.S_ISLNK(entry.mode):
            member.link = self._union.target(entry)
        elif stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
            member.device = os.major(entry.info.st_rdev), os.minor(entry.info.st_rdev)

    def _attributes(self, entry: Entry) -> dict[bytes, bytes]:
        return {
            os.fsencode(name): value
            for name, value in self._union.attributes(entry).items()
            if not (self._without_marks and is_private(name))
        }

    def _write_file(self, path: bytes, entry: Entry) -> None:
        with naming(path):
            member, file = self._opened(path, entry)
        with file:
            with naming(path):
                ranges = _data_ranges(file, member.size)
            if member.size - sum(length for _, length in ranges) >= _LEAST_HOLES:
                member.ranges = ranges
            else:
                ranges = [(0, member.size)]
            self._output.write(pax.header(member))
            written = sum(self._write_range(path, file, start, length) for start, length in ranges)
            self._output.write(bytes(-written % pax.BLOCK))

    def _opened(self, path: bytes, entry: Entry) -> tuple[pax.Member, OpenedFile]:
        """Return the member for the regular file *entry*, and its contents, which the caller closes.

        All of it is about one file, also if another one is renamed to *path* meanwhile.
        """
        for _ in range(_MOST_REPLACEMENTS):
            xattrs = self._attributes(entry)
            contents = self._union.metadata_copy_of(entry)
            file = self._union.open(entry) if contents is None else OpenedFile(contents)
            info = file.info
            mtime_ns = info.st_mtime_ns if contents is None else entry.info.st_mtime_ns
            if contents is not None or (info.st_dev, info.st_ino) == (entry.info.st_dev, entry.info.st_ino):
                member = pax.Member(
                    path=path,
                    mode=entry.mode,
                    uid=entry.uid,
                    gid=entry.gid,
                    mtime_ns=mtime_ns,
                    size=info.st_size,
                    xattrs=xattrs,
                )
                return member, file
            file.close()
            found = self._union.at(path)
            if found is None or not found.is_file:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            entry = found
        raise OSError(errno.EBUSY, "the file is replaced again and again")

    def _write_range(self, path: bytes, file: OpenedFile, start: int, length: int) -> int:
        """Write *length* bytes; a file that became shorter meanwhile ends in zeros."""
        left = length
        while left:
            with naming(path):
                data = file.read(min(left, _CHUNK), start + length - left)
            data = data or bytes(min(left, _CHUNK))
            self._output.write(data)
            left -= len(data)
        return length


def _data_ranges(file: OpenedFile, size: int) -> list[pax.Range]:
    """Return the ranges of *file* that have data (lseek(2), SEEK_DATA)."""
    found: list[pax.Range] = []
    at = 0
    while at < size:
        try:
            start = file.seek(at, os.SEEK_DATA)
            end = min(file.seek(start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                break
            if error.errno == errno.EINVAL:  # the file system does not tell
                return [(0, size)]
            raise
        if start >= size:
            break
        found.append((start, end - start))
        at = end
    return found
