"""Look up names in the index of a mounted archive, outside of the server: directories, symbolic links, and what is hidden."""

from __future__ import annotations

import errno
import mmap
import os
import stat

from sandbox.images.direct_bind import Seen
from unionfs._stdlib.typing import NamedTuple
from unionfs.layer_index.archive_frames import read_key
from unionfs.layer_index.archive_records import Record
from unionfs.layer_index.format import DamagedError, LayerIndex, Page
from unionfs.types import Mark

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_DIRECTORIES = (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY)


class DirectoryAttributes(NamedTuple):
    """The attributes of a directory. Owners are ids of the sandbox."""

    #: Permission bits, set-id and sticky.
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes]


class ArchiveNames:
    """The names in one index. It maps the file, and unmaps it when it is no longer used."""

    def __init__(self, index_fd: int, size: int) -> None:
        """Read the index *index_fd* of an archive of *size* bytes.

        Raises:
            DamagedError: it is damaged, or describes another archive.
            OSError: it cannot be read.
        """
        if not os.fstat(index_fd).st_size:
            raise DamagedError("the file is empty")
        content = mmap.mmap(index_fd, 0, access=mmap.ACCESS_READ)
        key, _ = read_key(content, size)
        index = LayerIndex(content, key, 1)
        if index.refused is not None or list(Page(index, 0).rows) != [b""]:
            raise DamagedError("the index has no root")
        self._index = index

    def _find(self, path: str) -> tuple[Page, int] | None:
        """Return the page and row of *path*, which is relative; None if there is none. No symbolic link is followed."""
        names = [name for name in os.fsencode(path).split(b"/") if name]
        page, row = Page(self._index, 0), 0
        for name in names:
            if page.mark(row) not in _DIRECTORIES:
                return None
            page = Page(self._index, page.page(row))
            found = page.rows.get(name)
            if found is None or page.mark(found) is Mark.WHITEOUT:
                return None
            row = found
        return page, row

    def is_directory(self, path: str) -> bool:
        """Return whether the archive has a directory at *path*; no symbolic link is followed."""
        try:
            found = self._find(path)
        except DamagedError:
            return False
        return found is not None and found[0].mark(found[1]) is not Mark.OTHER

    def link(self, path: str) -> str | None:
        """Return the target of the symbolic link at *path*, "" for another object, and None if the archive has nothing there."""
        try:
            found = self._find(path)
            if found is None:
                return None
            page, row = found
            is_link = page.mark(row) is Mark.OTHER and stat.S_ISLNK(page.fields(row)[0])
            return os.fsdecode(page.target(row) or b"") if is_link else ""
        except DamagedError:
            return None

    def look(self, path: str) -> Seen:
        """Return what the archive has at the absolute *path*, and whether it hides lower layers there; no symbolic link is followed.

        Raises:
            OSError: EIO if the index is damaged.
        """
        try:
            return self._look(path)
        except DamagedError as error:
            raise _damaged(error) from None

    def _look(self, path: str) -> Seen:
        page, row = Page(self._index, 0), 0
        at = covers = ""
        for name in (name for name in path.split("/") if name):
            if not covers and page.mark(row) is Mark.OPAQUE_DIRECTORY:
                covers = at or "/"
            at += f"/{name}"
            page = Page(self._index, page.page(row))
            found = page.rows.get(os.fsencode(name))
            if found is None:
                return Seen(kind="deletion" if covers else "nothing", at=covers, covers=bool(covers))
            row = found
            if page.mark(row) is Mark.WHITEOUT:
                return Seen(kind="deletion", at=at, covers=True)
            if page.mark(row) is Mark.OTHER:
                is_link = stat.S_ISLNK(page.fields(row)[0])
                return Seen(kind="link" if is_link else "other", at=at, covers=True)
        return Seen(kind="directory", at=path, covers=bool(covers) or page.mark(row) is Mark.OPAQUE_DIRECTORY)

    def attributes(self, path: str) -> DirectoryAttributes | None:
        """Return the attributes of the directory at *path*; None if the archive has no directory there.

        Raises:
            OSError: EIO if the index is damaged.
        """
        try:
            found = self._find(path)
            if found is None or found[0].mark(found[1]) not in _DIRECTORIES:
                return None
            page, row = found
            mode, _, uid, gid, _, size, _, _, _, mtime_ns, *_ = page.fields(row)
            record = page.record(row)
            xattrs = {} if record is None else Record.decode(record, size).xattrs
        except DamagedError as error:
            raise _damaged(error) from None
        return DirectoryAttributes(stat.S_IMODE(mode), uid, gid, mtime_ns, xattrs)


def _damaged(error: DamagedError) -> OSError:
    return OSError(errno.EIO, f"the index of a layer is damaged: {error}")
