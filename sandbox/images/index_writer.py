"""Write the tree of an archive as an index, in the format of the file system server (unionfs/layer_index/format.py)."""

from __future__ import annotations

import stat

from sandbox.images.archive_tree import ArchivedDirectory, ArchivedObject, ArchiveTree
from unionfs.layer_index.archive_frames import key_of
from unionfs.layer_index.archive_records import Record
from unionfs.layer_index.format import (
    HEADER,
    ROOT_PAGE,
    Row,
    Source,
    encode_header,
    encode_page,
)
from unionfs.types import Mark

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from unionfs._stdlib.typing import BinaryIO
    from unionfs.layer_index.archive_frames import Frame

_BLOCK = 4096
_UNITS = _BLOCK // 512  # st_blocks counts 512 bytes (inode(7))
#: The inode number of the root; those of other objects follow.
_FIRST_INO = 1


def write_index(tree: ArchiveTree, output: BinaryIO, size: int, frames: Sequence[Frame] = ()) -> None:
    """Write the index of *tree*, of an archive of *size* bytes, to the empty file *output*; *frames* are those of a compressed one.

    Raises:
        ValueError: an attribute, such as a time, does not fit into the format.
        OSError: *output* cannot be written.
    """
    key = key_of(size, frames)
    output.seek(HEADER.size + len(key))
    at = output.tell()
    table = []
    for rows, is_directory in _Pages(tree).all():
        blob, entry = encode_page(at, rows, (Source(0, 0, 0, 0),) if is_directory else ())
        output.write(blob)
        at += len(blob)
        table.append(entry)
    joined = b"".join(table)
    output.write(joined)
    output.seek(0)
    output.write(encode_header(key, joined, length=at + len(joined)))


class _Pages:
    """The pages of one tree, which is walked once."""

    def __init__(self, tree: ArchiveTree) -> None:
        self._tree = tree
        self._ino = _FIRST_INO
        self._following = ROOT_PAGE + 1

    def all(self) -> Iterator[tuple[list[Row], bool]]:
        """Yield the rows of each page, in the order of the page numbers, and whether it is that of a directory."""
        _count_links(self._tree)
        root = self._tree.root
        yield [self._directory(b"", root, root.opaque, ROOT_PAGE)], False
        # The directories of one page get the next page numbers, so a queue has them in order.
        pending = [root]
        while pending:
            following: list[ArchivedDirectory] = []
            for directory in pending:
                yield list(self._rows(directory, following)), True
            pending = following

    def _rows(self, directory: ArchivedDirectory, following: list[ArchivedDirectory]) -> Iterator[Row]:
        hidden = directory.whiteouts or set()
        for name, entry in directory.entries.items():
            if isinstance(entry, ArchivedDirectory):
                yield self._directory(name, entry, entry.opaque or name in hidden, self._following)
                self._following += 1
                following.append(entry)
            else:
                yield self._object(name, entry)
        for name in sorted(hidden - directory.entries.keys()):
            yield Row(name, Mark.WHITEOUT)

    def _next_ino(self) -> int:
        self._ino += 1
        return self._ino

    def _directory(self, name: bytes, directory: ArchivedDirectory, opaque: bool, page: int) -> Row:
        links = 2 + sum(isinstance(entry, ArchivedDirectory) for entry in directory.entries.values())
        time = directory.mtime_ns
        return Row(
            name,
            Mark.OPAQUE_DIRECTORY if opaque else Mark.DIRECTORY,
            (
                directory.mode, links, directory.uid, directory.gid, self._next_ino(), _BLOCK, _UNITS, 0, time, time, time,
            ),
            page=page,
            known_no_xattrs=not directory.xattrs,
            record=Record(xattrs=directory.xattrs).encode() if directory.xattrs else b"",
        )  # fmt: skip

    def _object(self, name: bytes, entry: ArchivedObject) -> Row:
        if not entry.ino:
            entry.ino = self._next_ino()
        is_file = stat.S_ISREG(entry.mode)
        stored = 0
        if is_file:
            stored = entry.size if entry.extents is None else sum(length for _, length in entry.extents)
        record = b""
        if entry.extents is not None or entry.xattrs:
            extents = (((0, entry.size),) if is_file else ()) if entry.extents is None else entry.extents
            record = Record(entry.position, extents, entry.xattrs).encode()
        time = entry.mtime_ns
        return Row(
            name,
            Mark.OTHER,
            (
                entry.mode, entry.links, entry.uid, entry.gid, entry.ino, entry.size, -(-stored // _BLOCK) * _UNITS, 0,
                time, time, time,
            ),
            known_no_xattrs=not entry.xattrs,
            target=entry.target or None,
            position=entry.position if is_file else None,
            record=record,
        )  # fmt: skip


def _count_links(tree: ArchiveTree) -> None:
    """Set the numbers of links of all objects that have been the target of a hard link."""
    linked: dict[ArchivedObject, int] = {}
    pending = [tree.root]
    while pending:
        for entry in pending.pop().entries.values():
            if isinstance(entry, ArchivedDirectory):
                pending.append(entry)
            elif entry.links > 1:
                linked[entry] = linked.get(entry, 0) + 1
    for entry, count in linked.items():
        entry.links = count
