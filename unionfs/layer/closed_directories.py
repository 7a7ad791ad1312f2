"""Reports directories of a layer that the server may not search. Any program gets EACCES there, whatever user it runs as."""

from __future__ import annotations

import os
from collections.abc import Callable

#: The maximum of directories that are reported for each layer.
_LIMIT = 1000


class ClosedDirectories:
    """Reports, once, each directory of one layer that a request needed and the server may not search. Each `Layer` has one."""

    def __init__(self) -> None:
        """Report nothing until :attr:`report` is set."""
        #: Called with the path of a directory relative to the layer's root, without a leading slash.
        self.report: Callable[[bytes], None] | None = None
        self._reported: set[bytes] = set()

    def check(self, fd: int, path: Callable[[], bytes]) -> None:
        """Report the directory *fd* (O_PATH) if the server may not search it. *path* returns its path."""
        if self.report is None or len(self._reported) >= _LIMIT:
            return
        try:
            os.stat(b".", dir_fd=fd)
        except PermissionError:
            name = path()
            if name not in self._reported:
                self._reported.add(name)
                self.report(name)
