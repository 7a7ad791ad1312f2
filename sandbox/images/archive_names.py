"""Look up names in the index of a mounted archive, before the root is mounted: directories and symbolic links."""

from __future__ import annotations

import mmap
import os
import stat

from unionfs.layer_index.archive_frames import read_key
from unionfs.layer_index.format import DamagedError, LayerIndex, Page
from unionfs.types import Mark


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
            if page.mark(row) not in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY):
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
