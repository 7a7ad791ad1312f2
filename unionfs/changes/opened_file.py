"""The contents of one regular file of a layer, which is a file on disk or a part of an archive."""

from __future__ import annotations

import os

from unionfs._stdlib.typing import Self
from unionfs.inode.handles import OpenContents
from unionfs.layer.objects import PathRef


class OpenedFile(OpenContents):
    """An open file. Its opener closes it, or uses it as a context manager."""

    def __init__(self, ref: PathRef) -> None:
        """Open the file of *ref* for reading.

        Raises:
            OSError: it cannot be read, or is no longer a regular file.
        """
        self.contents = ref.archived()
        self.fd = ref.open(os.O_RDONLY) if self.contents is None else -1
        try:
            #: The attributes of the file when it was opened.
            self.info = ref.stat() if self.fd < 0 else os.fstat(self.fd)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()
