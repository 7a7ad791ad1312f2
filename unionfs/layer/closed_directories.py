"""Directories of a layer that the server may not search: programs find "permission denied" there, whoever they run as."""

from __future__ import annotations

import os
from collections.abc import Callable

#: Directories that are reported at most for each layer.
_LIMIT = 1000


class ClosedDirectories:
    """Reports each directory of one layer once that a request needed and that the server may not search."""

    def __init__(self) -> None:
        """Report nothing until :attr:`report` is set."""
        #: Is called with the path of a directory from the root of the layer, without a slash at its start.
        self.report: Callable[[bytes], None] | None = None
        self._reported: set[bytes] = set()

    def check(self, fd: int, path: Callable[[], bytes]) -> None:
        """Report the directory *fd*, O_PATH, if it may not be searched. *path* returns its path."""
        if self.report is None or len(self._reported) >= _LIMIT:
            return
        try:
            os.stat(b".", dir_fd=fd)
        except PermissionError:
            name = path()
            if name not in self._reported:
                self._reported.add(name)
                self.report(name)
