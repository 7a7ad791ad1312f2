"""A layer that is an archive: names and attributes come from its index, contents from ranges of the archive.

Nothing of the layer is on disk as a directory or file, so no method opens anything. The launcher makes the index
(sandbox/images/archive_index.py) and gives both descriptors. An index is validated page by page when it is used. A damaged one is
an error of the request (EIO), as there is nothing else to read.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Sequence

from unionfs._stdlib.hashlib import sha256
from unionfs._stdlib.typing import NamedTuple, NoReturn
from unionfs.errors import UnionError
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.fd_cache import FdCache
from unionfs.layer.objects import PathRef
from unionfs.layer_index.archive_frames import read_key
from unionfs.layer_index.archive_records import Record
from unionfs.layer_index.archived_contents import ArchivedContents, PlainData
from unionfs.layer_index.format import ROOT_PAGE, DamagedError, LayerIndex, Page
from unionfs.layer_index.indexed_directory import IndexedDirectory
from unionfs.types import Mark

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer_index.archive_frames import Frame
    from unionfs.layer_index.archived_contents import ArchiveData
    from unionfs.layer_index.fetcher import Fetcher

_NS = 1_000_000_000
#: The bits of an inode number that the index has. With 15 more, it fits into the numbers of the mount (inode/numbers.py).
_INDEX_INODE_BITS = 32
#: The magic of a tar header. Old archives have none; what is then imported is not needed.
_MAGIC, _MAGIC_START, _MAGIC_END = b"ustar", 257, 262


class Fetched(NamedTuple):
    """How the contents of a layer are fetched."""

    #: A descriptor of the table of the chunks (archive_chunks.py).
    chunks_fd: int
    #: The number of the layer in requests.
    number: int
    fetcher: Fetcher


def _data(archive_fd: int, size: int, frames: Sequence[Frame], fetched: Fetched | None) -> ArchiveData:
    if fetched is not None:
        from unionfs.layer_index.archive_chunks import ChunkTable
        from unionfs.layer_index.fetched_data import FetchedData

        content = os.pread(fetched.chunks_fd, os.fstat(fetched.chunks_fd).st_size, 0)
        table = ChunkTable(content)
        if table.size != size or frames:
            raise DamagedError("the table of chunks is that of another layer")
        return FetchedData(archive_fd, table, fetched.number, fetched.fetcher)
    if not frames:
        return PlainData(archive_fd, size)
    from unionfs.layer_index.framed_data import FramedData, decompressor

    return FramedData(archive_fd, frames, decompressor(archive_fd))


def import_for_archive(archive_fd: int, *, fetched: bool) -> None:
    """Import what reading the archive needs beside this module, if it is compressed or *fetched*."""
    if fetched:
        import unionfs.layer_index.fetched_data  # noqa: F401 - a confined process may be unable to read its file
    elif os.pread(archive_fd, _MAGIC_END, 0)[_MAGIC_START:] != _MAGIC:
        from unionfs.layer_index.framed_data import decompressor

        decompressor(archive_fd)


class ArchiveLayer(Layer):
    """An archive and its index. It owns the descriptor of the archive and the mapped index; `UnionFs` closes it."""

    __slots__ = (
        "_fetched",
        "_index_fd",
        "_map",
        "archive_fd",
        "data",
        "first_ino",
        "index",
        "lasting_name",
        "number",
    )

    root: ArchiveDirectory

    def __init__(
        self, archive_fd: int, index_fd: int, fds: FdCache, *, number: int, fetched: Fetched | None = None
    ) -> None:
        """Take over *archive_fd* and *index_fd*, a descriptor of the index. Both stay open: builders of indexes read them again.

        *number* is the position of the layer in the stack: layers of archives have no device, so it tells their objects apart.
        With *fetched*, whose descriptor is taken over, too, *archive_fd* is the data that is being filled.

        Raises:
            UnionError: the index is damaged, or is not that of the archive.
            OSError: the index cannot be read.
        """
        self.archive_fd = archive_fd
        self._index_fd = index_fd
        self.number = number
        size = os.fstat(archive_fd).st_size
        if not os.fstat(index_fd).st_size:
            raise UnionError("the index of an archive cannot be used: the file is empty")
        self._map = mmap.mmap(index_fd, 0, access=mmap.ACCESS_READ)
        try:
            key, frames = read_key(self._map, size)
            self.index = LayerIndex(self._map, key, 1)
            page = Page(self.index, 0)
            if list(page.rows) != [b""] or self.index.refused is not None:
                raise DamagedError("the index has no root")
            self._fetched = fetched
            self.data: ArchiveData = _data(archive_fd, size, frames, fetched)
        except DamagedError as error:
            raise UnionError(f"the index of an archive cannot be used: {error}") from None
        # Only layers with the same index have this name: the table has a checksum of each page.
        digest = sha256(self.index.table()).hexdigest()
        self.lasting_name = b"archive-" + digest[:40].encode()
        #: Added to the inode numbers of the index, so that those of two archives differ: some records have no device.
        self.first_ino = (int(digest[:4], 16) & 0x7FFF) << _INDEX_INODE_BITS
        super().__init__(-1, fds)

    def _opened_root(self, _root_fd: int) -> LayerDir:
        # st_dev of no file: those are not negative.
        return ArchiveDirectory(self, None, b"", Page(self.index, 0), 0, device=-1 - self.number)

    @property
    def file_system_fd(self) -> int:
        """A descriptor of a file of the file system that has the contents."""
        return self.archive_fd

    def close(self) -> None:
        """Close the archive and the index."""
        self._map.close()
        os.close(self._index_fd)
        os.close(self.archive_fd)
        if self._fetched is not None:
            os.close(self._fetched.chunks_fd)


class ArchiveDirectory(IndexedDirectory):
    """A directory of an archive. It needs no descriptor."""

    __slots__ = ()

    layer: ArchiveLayer
    _listing: Page
    _rows: Page | None

    def listing(self) -> Page:
        """Return the page with the names of this directory.

        Raises:
            OSError: EIO if the index is damaged.
        """
        page = self._rows
        if page is None:
            try:
                number = ROOT_PAGE if self.parent is None else self._listing.page(self._row)
                page = self._rows = Page(self.layer.index, number)
            except DamagedError as error:
                raise _damaged(error) from None
        return page

    # -- descriptors -------------------------------------------------------------------------------

    def fd(self) -> NoReturn:
        """Refuse: callers have to know that an archive has no directories to open."""
        raise OSError(errno.EOPNOTSUPP, "a directory of an archive cannot be opened", self.name)

    def close(self) -> None:
        """Do nothing: there is no descriptor."""

    def pin(self) -> None:
        """Do nothing: the directory of an archive never loses its name."""

    def unpin(self) -> None:
        """Do nothing."""

    @property
    def known_no_xattrs(self) -> bool:
        """Return whether the directory has no extended attributes."""
        return self._listing.known_no_xattrs(self._row)

    # -- names -------------------------------------------------------------------------------------

    def _new_child(self, name: bytes, listing: Page, row: int) -> LayerDir:
        if listing.mark(row) not in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return ArchiveDirectory(self.layer, self, name, listing, row, self.device)

    def _new_entry(self, name: bytes, listing: Page, row: int) -> PathRef:
        return ArchivedRef(self, name, listing, row)

    # -- attributes --------------------------------------------------------------------------------

    def stat(self) -> os.stat_result:
        """Return the attributes of the directory."""
        return _info(self._listing, self._row, self.layer)

    def list_xattrs(self) -> list[str]:
        """Return the names of the extended attributes."""
        return _xattr_names(self._listing, self._row)

    def get_xattr(self, name: str) -> bytes:
        """Return an extended attribute; ENODATA if there is none."""
        return _xattr(self._listing, self._row, name)

    def birth_time_ns(self) -> int | None:
        """Return None: an archive records no birth times."""
        return None

    def proc_path(self) -> NoReturn:
        """Refuse, as :meth:`fd`."""
        self.fd()


class ArchivedRef(PathRef):
    """A reference to a non-directory of an archive. All that is known of it is in the index."""

    __slots__ = ("_page", "_row")

    directory: ArchiveDirectory

    def __init__(self, directory: ArchiveDirectory, name: bytes, page: Page, row: int) -> None:
        """Refer to *name* of *directory*, *row* of its *page*."""
        self.directory = directory
        self.name = name
        self._page = page
        self._row = row

    @property
    def known_no_xattrs(self) -> bool:
        """Return whether the object has no extended attributes."""
        return self._page.known_no_xattrs(self._row)

    @property
    def known_not_metacopy(self) -> bool:
        """Return True: an archive has no metadata-only copies."""
        return True

    def stat(self) -> os.stat_result:
        """Return the attributes of the object."""
        return _info(self._page, self._row, self.directory.layer)

    def opened(self, flags: int) -> NoReturn:  # noqa: ARG002 - the same for all
        """Refuse: callers have to read :meth:`archived` instead."""
        raise OSError(errno.EOPNOTSUPP, "a file of an archive cannot be opened", self.name)

    def archived(self) -> ArchivedContents:
        """Return the contents.

        Raises:
            OSError: EIO if the index is damaged.
        """
        page, row = self._page, self._row
        fields = page.fields(row)
        size, position = fields[5], page.position(row)
        if not stat.S_ISREG(fields[0]):
            raise OSError(errno.EIO, "the index of the archive has contents of no file", self.name)
        if position is not None:
            return ArchivedContents(self.directory.layer.data, size, position)
        record = _record(page, row, size)
        return ArchivedContents(self.directory.layer.data, size, record.position, record.extents)

    def readlink(self) -> bytes:
        """Return the target of the symbolic link."""
        try:
            target = self._page.target(self._row)
        except DamagedError as error:
            raise _damaged(error) from None
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        return target

    def list_xattrs(self) -> list[str]:
        """Return the names of the extended attributes."""
        return _xattr_names(self._page, self._row)

    def get_xattr(self, name: str) -> bytes:
        """Return an extended attribute; ENODATA if there is none."""
        return _xattr(self._page, self._row, name)

    def birth_time_ns(self) -> int | None:
        """Return None: an archive records no birth times."""
        return None

    def proc_path(self) -> NoReturn:
        """Refuse: there is no such path."""
        raise OSError(errno.EOPNOTSUPP, "a file of an archive has no path", self.name)


def _info(page: Page, row: int, layer: ArchiveLayer) -> os.stat_result:
    """Return the attributes of *row* as stat(2) would. The field of the device number may have another meaning."""
    mode, nlink, uid, gid, ino, size, blocks, _, atime, mtime, ctime, _, _, _ = page.fields(row)
    return os.stat_result(
        (
            mode, layer.first_ino + ino, layer.device, nlink, uid, gid, size, atime // _NS, mtime // _NS, ctime // _NS,
            atime / 1e9, mtime / 1e9, ctime / 1e9, atime, mtime, ctime, 4096, blocks, 0,
        )
    )  # fmt: skip


def _record(page: Page, row: int, size: int) -> Record:
    try:
        content = page.record(row)
        return Record() if content is None else Record.decode(content, size)
    except DamagedError as error:
        raise _damaged(error) from None


def _xattrs_of(page: Page, row: int) -> Record:
    return _record(page, row, page.fields(row)[5])


def _xattr_names(page: Page, row: int) -> list[str]:
    return [os.fsdecode(name) for name in _xattrs_of(page, row).xattrs]


def _xattr(page: Page, row: int, name: str) -> bytes:
    value = _xattrs_of(page, row).xattrs.get(os.fsencode(name))
    if value is None:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return value


def _damaged(error: DamagedError) -> OSError:
    return OSError(errno.EIO, f"the index of the archive is damaged: {error}")
