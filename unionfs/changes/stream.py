"""Writes objects of the union as members of a tar archive, whole: contents, owner, mode, times, attributes, holes, hard links.

:meth:`Stream.layer` writes what the writable layer adds, as a layer of an OCI image (image-spec, layer.md): deleted names are
``.wh.NAME``, a directory that hides the one below has ``.wh..wh..opq``. None of our own marks is in it. :meth:`Stream.trees`
writes what the sandbox shows, :meth:`Stream.members` single objects. Sockets are left out: an archive cannot hold them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from unionfs._stdlib.typing import Protocol
from unionfs.changes import pax
from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.equality import Equality
from unionfs.changes.merged_tree import Entry, joined
from unionfs.formats.whiteout import WH_OPAQUE, WH_PREFIX
from unionfs.formats.xattrs import parse_redirect
from unionfs.layer.directory import LayerDir

_CHUNK = 1 << 20
#: A hole of fewer bytes is not worth a map.
_LEAST_HOLES = 1 << 16


#: The path of a member, the directory that it is in, the object (None: a whiteout), and what the layers below have at the path.
_Changed = tuple[bytes, Entry, Entry | None, Entry | None]


class Output(Protocol):
    """Where the archive goes."""

    def write(self, data: bytes, /) -> int:
        """Write all of *data*."""


class Stream:
    """One archive. It borrows the stack and the output, and is used once."""

    def __init__(self, stack: ComparedStack, output: Output) -> None:
        """Write objects of *stack* to *output*."""
        self._union = stack.union
        self._below = stack.below
        self._records = stack.records
        self._output = output
        self._equality = Equality(stack.union, stack.below)
        #: The first path of each file with several names, by identity on disk.
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._written: set[bytes] = set()

    # -- selections --------------------------------------------------------------------------------

    def layer(self, within: Iterable[bytes] = ()) -> None:
        """Write what the writable layer adds to the layers below; with *within*, only at and below these paths."""
        chosen = tuple(within)
        root = self._union.root
        for path, entry in [*self._changed(root), *self._other_names()]:
            if chosen and not any(_is_at_or_below(path, top) for top in chosen):
                continue
            if entry is None:
                self._write_mark(path)
            else:
                self._write(path, entry)
        self._end()

    def trees(self, paths: Iterable[bytes]) -> None:
        """Write the objects at *paths*, directories with all that is below them.

        Raises:
            FileNotFoundError: there is none at one of the paths.
        """
        for path in paths:
            entry = self._at(path)
            if path:
                self._write(path, entry)
            if entry.is_dir:
                for below, child in self._union.walk(entry, path):
                    self._write(below, child)
        self._end()

    def members(self, paths: Iterable[bytes]) -> None:
        """Write the objects at *paths*, of directories themselves only.

        Raises:
            FileNotFoundError: there is none at one of the paths.
        """
        for path in paths:
            self._write(path, self._at(path))
        self._end()

    def _at(self, path: bytes) -> Entry:
        entry = self._union.at(path)
        if entry is None:
            raise FileNotFoundError(2, os.strerror(2), os.fsdecode(b"/" + path))
        return entry

    # -- the layer ---------------------------------------------------------------------------------

    def _changed(self, root: Entry) -> Iterator[tuple[bytes, Entry | None]]:
        """Yield the members of the layer, sorted within each directory; None for a whiteout or an opaque mark."""
        if root.is_dir and self._below.root.parts and not self._equality.equal(root, self._below.root):
            yield b".", root
        # Depth first, as programs that unpack set the times of a directory when they leave it.
        pending = self._changed_in(b"", root, self._below.root)[::-1]
        while pending:
            path, parent, entry, old = pending.pop()
            if entry is None:
                yield path, None
                continue
            yield path, entry
            if not entry.is_dir:
                continue
            if old is not None and old.is_dir and self._merges(parent, path, entry):
                pending += self._changed_in(path, entry, old)[::-1]
                continue
            if old is not None and old.is_dir:
                yield joined(path, WH_OPAQUE), None
            yield from self._union.walk(entry, path)

    def _changed_in(self, path: bytes, entry: Entry, old: Entry) -> list[_Changed]:
        """Return what the writable layer adds in the directory *entry*, which merges with *old*."""
        found: list[_Changed] = []
        for name in self._names(entry, old):
            child = self._union.find(entry.parts, name)
            below = self._below.find(old.parts, name)
            if child is None:
                if below is not None:
                    found.append((joined(path, WH_PREFIX + name), entry, None, None))
            elif child.writable and (child.is_dir or self._adds(child, below)):
                found.append((joined(path, name), entry, child, below))
        return found

    def _names(self, entry: Entry, old: Entry) -> list[bytes]:
        upper = entry.ref
        assert isinstance(upper, LayerDir)
        try:
            names = set(upper.names())
        except (FileNotFoundError, PermissionError):
            return []
        if len(entry.parts) == 1:
            names.update(self._below.names(old.parts))
        return sorted(names)

    def _adds(self, child: Entry, below: Entry | None) -> bool:
        """Return whether the non-directory *child* differs from *below*, or has other names that are to be its links."""
        return below is None or child.info.st_nlink > 1 or not self._equality.equal(child, below)

    @staticmethod
    def _merges(parent: Entry, path: bytes, child: Entry) -> bool:
        """Return whether the directory *child* merges with the old directory at the same *path*."""
        if len(child.parts) == 1:
            return False
        upper = parent.ref
        assert isinstance(upper, LayerDir)
        redirect = upper.redirect(path.rpartition(b"/")[2])
        if redirect is None:
            return True
        absolute, names = parse_redirect(redirect)
        return absolute and b"/".join(names) == path

    def _other_names(self) -> Iterator[tuple[bytes, Entry]]:
        """Yield the names of changed hard links that are in no directory of the writable layer."""
        records = self._records
        if records is None or not any(names for _, names, _ in records.copies()):
            return
        for path, old in self._below.walk(self._below.root, b""):
            if old.is_dir or old.info.st_nlink < 2 or records.find(self._below.number(old.info)) is None:
                continue
            new = self._union.at(path)
            if new is not None and records.is_entry(new.ref):
                yield path, new

    # -- members -----------------------------------------------------------------------------------

    def _write_mark(self, path: bytes) -> None:
        self._output.write(pax.header(pax.Member(path=path, mode=stat.S_IFREG | 0o600)))

    def _write(self, path: bytes, entry: Entry) -> None:
        if not pax.is_supported(entry.mode) or path in self._written:
            return
        self._written.add(path)
        info = entry.info
        member = pax.Member(
            path=path, mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime_ns=info.st_mtime_ns
        )
        if not entry.is_dir and (info.st_nlink > 1 or self._records is not None):
            first = self._first_names.setdefault((info.st_dev, info.st_ino), path)
            if first != path:
                member.hard_link, member.link = True, first
                self._output.write(pax.header(member))
                return
        member.xattrs = {os.fsencode(name): value for name, value in self._union.attributes(entry).items()}
        if stat.S_ISLNK(entry.mode):
            member.link = self._union.target(entry)
        elif stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
            member.device = os.major(info.st_rdev), os.minor(info.st_rdev)
        if entry.is_file:
            self._write_file(member, entry)
        else:
            self._output.write(pax.header(member))

    def _write_file(self, member: pax.Member, entry: Entry) -> None:
        fd = self._union.open(entry)
        try:
            size = os.fstat(fd).st_size
            member.size = size
            ranges = _data_ranges(fd, size)
            if size - sum(length for _, length in ranges) >= _LEAST_HOLES:
                member.ranges = ranges
            else:
                ranges = [(0, size)]
            self._output.write(pax.header(member))
            written = sum(self._write_range(fd, start, length) for start, length in ranges)
            self._output.write(bytes(-written % pax.BLOCK))
        finally:
            os.close(fd)

    def _write_range(self, fd: int, start: int, length: int) -> int:
        """Write *length* bytes; a file that became shorter meanwhile ends in zeros."""
        left = length
        while left:
            data = os.pread(fd, min(left, _CHUNK), start + length - left) or bytes(min(left, _CHUNK))
            self._output.write(data)
            left -= len(data)
        return length

    def _end(self) -> None:
        self._output.write(pax.END)


def _data_ranges(fd: int, size: int) -> list[pax.Range]:
    """Return the ranges of the file *fd* that have data (lseek(2), SEEK_DATA)."""
    found: list[pax.Range] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError:  # ENXIO: only a hole follows
            break
        if start >= size:
            break
        found.append((start, end - start))
        at = end
    return found


def _is_at_or_below(path: bytes, top: bytes) -> bool:
    return not top or path == top or path.startswith(top + b"/")
