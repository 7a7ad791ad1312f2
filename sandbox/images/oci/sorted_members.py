"""Bring the members of a layer into the one order and form that equal layers have.

The stream of `unionfs changes --archive=layer` is in the order in which the union was read. So its members are first written to a
temporary file, and then read in the order of their names. The result has no owners' names and no times besides the modification
time. Pax records stand only where the old header has no room. Hard links refer to the first of the names.

Holes are written as zeros, because readers differ in the sparse forms that they know (image-spec, layer.md, "File Attributes").
A file with more than a MiB of holes keeps them all the same, in GNU's format 1.0: one such as /var/log/lastlog may be larger than
any disk. GNU tar, libarchive, and archive/tar of Go, which podman, umoci, skopeo and containerd use, read that.
"""

from __future__ import annotations

import os
import stat

from sandbox.errors import ImageError
from sandbox.images.destination import RefusedError, relative
from sandbox.images.names import printable
from sandbox.images.tar import Archive, Kind, Member, open_archive
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import BinaryIO, NamedTuple
from unionfs.changes import pax

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

_SMALL_HOLES = 1 << 20
_CHUNK = 1 << 18
_LARGEST_ID = (1 << 32) - 2  # chown(2) takes 2^32-1 for "unchanged"
_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}


class _Spooled(NamedTuple):
    """One member in the temporary file: its header is at *offset*, and its data follows."""

    offset: int
    header: int  # bytes of the header, its records and its map
    data: int  # bytes of the data, without the padding to a block
    is_directory: bool


class SortedMembers:
    """The members of one layer, from an archive in any order. It borrows the temporary file, and is used once.

    It needs some 300 bytes of memory for each member. The file takes the bytes of all data.
    """

    def __init__(self, spool: BinaryIO, *, latest: int | None = None) -> None:
        """Use the empty file *spool*; a later modification time than *latest*, in seconds after the epoch, becomes *latest*."""
        self._spool = spool
        self._latest = None if latest is None else latest * 10**9
        self._end = 0
        self._members: dict[bytes, _Spooled] = {}
        #: All names of each file with several of them, by that under which the file is in the temporary file.
        self._names: dict[bytes, list[bytes]] = {}
        #: That name for each further name.
        self._spooled_name: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._members) + len(self._spooled_name)

    def add(self, archive: Archive) -> None:
        """Take all members of *archive*, which is a layer (image-spec, layer.md).

        Raises:
            ImageError: *archive* is damaged, or a member cannot be in a layer: the message names it.
            OSError: the temporary file cannot be written.
        """
        for member in archive:
            try:
                self._add(archive, member)
            except RefusedError as error:
                raise ImageError(f"{archive.name}: {printable(member.name)}: {error}") from None

    def pieces(self) -> Iterator[bytes]:
        """Yield the archive of all members, sorted by the bytes of their names, in pieces of any size.

        The name of a directory ends in a slash, so all that is below it follows at once. The root comes first.

        Raises:
            OSError: the temporary file cannot be read.
        """
        self._spool.flush()
        written: dict[bytes, pax.Member] = {}
        paths = [*self._members, *self._spooled_name]
        for path in sorted(paths, key=self._archive_name):
            spooled_name = self._spooled_name.get(path, path)
            spooled = self._members[spooled_name]
            if spooled_name not in self._names:
                yield from self._read(spooled.offset, spooled.header + spooled.data)
            elif spooled_name in written:
                first = written[spooled_name]
                yield pax.header(replace(first, path=path, link=first.path, hard_link=True, xattrs={}))
                continue
            else:
                first = replace(self._read_back(spooled), path=path)
                written[spooled_name] = first
                yield pax.header(first)
                yield from self._read(spooled.offset + spooled.header, spooled.data)
            yield bytes(-spooled.data % pax.BLOCK)
        yield pax.END

    def _archive_name(self, path: bytes) -> bytes:
        spooled = self._members.get(path)
        return path + b"/" if path and spooled is not None and spooled.is_directory else path

    # -- from the archive to the temporary file ----------------------------------------------------

    def _add(self, archive: Archive, member: Member) -> None:
        path = relative(member.name)
        _check_name(path, member)
        if path in self._members or path in self._spooled_name:
            raise RefusedError("the layer has two members with this name")
        if member.kind is Kind.HARD_LINK:
            self._add_link(path, relative(member.link))
            return
        written = self._described(path, member)
        header = pax.header(written)
        self._spool.write(header)
        self._end += len(header)
        stored = member.size if written.ranges is None else sum(length for _, length in written.ranges)
        self._copy(archive, stored, sparse=written.ranges is not None)
        is_directory = member.kind is Kind.DIRECTORY
        self._members[path] = _Spooled(self._end - len(header), len(header), stored, is_directory)
        self._end += stored

    def _add_link(self, path: bytes, target: bytes) -> None:
        target = self._spooled_name.get(target, target)
        spooled = self._members.get(target)
        if spooled is None or spooled.is_directory:
            raise RefusedError(f"a hard link to {printable(target)}, which is no file of this layer")
        self._names.setdefault(target, [target]).append(path)
        self._spooled_name[path] = target

    def _copy(self, archive: Archive, size: int, *, sparse: bool) -> None:
        """Copy the data of the current member, *size* bytes, to the temporary file; with *sparse*, without its holes."""
        at = 0
        for offset, piece in archive.data():
            if not sparse:
                self._spool.write(bytes(offset - at))  # a small hole
                at = offset
            self._spool.write(piece)
            at += len(piece)
        self._spool.write(bytes(size - at))

    def _described(self, path: bytes, member: Member) -> pax.Member:
        if not (0 <= member.uid <= _LARGEST_ID and 0 <= member.gid <= _LARGEST_ID):
            raise RefusedError(f"the owner {member.uid}:{member.gid} is not possible")
        if member.kind is Kind.SYMLINK and not member.link:
            raise RefusedError("a symbolic link without a target")
        is_device = member.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
        if is_device and member.device is None:
            raise RefusedError("a device without valid numbers")
        extents = member.extents
        if extents is not None and member.size - sum(length for _, length in extents) <= _SMALL_HOLES:
            extents = None
        return pax.Member(
            path=path or b".",
            mode=_TYPES[member.kind] | member.mode,
            uid=member.uid,
            gid=member.gid,
            mtime_ns=member.mtime_ns if self._latest is None else min(member.mtime_ns, self._latest),
            size=member.size,
            link=member.link if member.kind is Kind.SYMLINK else b"",
            device=member.device or (0, 0),
            xattrs=member.xattrs,
            ranges=extents,
        )

    # -- from the temporary file -------------------------------------------------------------------

    def _read(self, start: int, size: int) -> Iterator[bytes]:
        fd = self._spool.fileno()
        end = start + size
        while start < end:
            data = os.pread(fd, min(_CHUNK, end - start), start)
            if not data:
                raise OSError("the temporary file of a layer is shorter than what was written to it")
            yield data
            start += len(data)

    def _read_back(self, spooled: _Spooled) -> pax.Member:
        """Return the member in the temporary file again, with another name of a file that has several."""
        with open(os.dup(self._spool.fileno()), "rb", buffering=0) as file:
            file.seek(spooled.offset)
            member = next(iter(open_archive(file, "the temporary file")))
        return self._described(member.name, member)


def _check_name(path: bytes, member: Member) -> None:
    """Refuse a name that a layer cannot have, and a mark that is no empty file (image-spec, layer.md, "Whiteouts")."""
    directory, _, name = path.rpartition(b"/")
    if not path and member.kind is not Kind.DIRECTORY:
        raise RefusedError("the root is not a directory")
    if any(part.startswith(WHITEOUT) for part in directory.split(b"/")):
        raise RefusedError("in a directory whose name begins with .wh., as those of marks do")
    if not name.startswith(WHITEOUT):
        return
    hidden = name.removeprefix(WHITEOUT)
    if name != OPAQUE and (hidden in {b"", b".", b".."} or hidden.startswith(WHITEOUT)):
        raise RefusedError("a mark that hides no possible name")
    if member.kind is not Kind.FILE or member.size:
        raise RefusedError("a mark that is not an empty file")
