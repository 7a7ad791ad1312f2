"""The contents of one regular file of a layer, which is a file on disk or a part of an archive."""

from __future__ import annotations

import os

from unionfs._stdlib.typing import Self
from unionfs.layer.objects import PathRef


class OpenedFile:
    """An open file. Its opener closes it, or uses it as a context manager."""

    def __init__(self, ref: PathRef) -> None:
        """Open the file of *ref* for reading.

        Raises:
            OSError: it cannot be read, or is no longer a regular file.
        """
        self._contents = ref.archived()
        self._fd = -1
        if self._contents is None:
            self._fd = ref.open(os.O_RDONLY)
        try:
            #: The attributes of the file when it was opened.
            self.info = ref.stat() if self._fd < 0 else os.fstat(self._fd)
        except OSError:
            self.close()
            raise

    def read(self, size: int, offset: int) -> bytes:
        """Return up to *size* bytes at *offset*."""
        contents = self._contents
        return os.pread(self._fd, size, offset) if contents is None else contents.read(size, offset)

    def seek(self, offset: int, whence: int) -> int:
        """Return the next data or hole from *offset* on, as lseek(2) with SEEK_DATA or SEEK_HOLE."""
        contents = self._contents
        return os.lseek(self._fd, offset, whence) if contents is None else contents.seek(offset, whence)

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()
