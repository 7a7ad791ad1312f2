"""Read an archive once from beginning to end, compute its digest on the way, and report progress."""

from __future__ import annotations

import os
from contextlib import contextmanager

from sandbox.state.file_digests import CHUNK, new_sha256
from unionfs._stdlib.typing import Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.images.compression import Readable

_MAX_REST = 1 << 26
"""The most bytes after the end of an archive that are read for its digest: they may be a hole of exabytes."""


class Progress(Protocol):
    """Receives progress reports while an archive is read. Its methods must not raise."""

    def begin(self, action: str, path: str, size: int) -> None:
        """Report that *action* ("unpack", "index" or "compare") begins to read the archive *path* of *size* bytes."""

    def update(self, position: int) -> None:
        """Report that *position* bytes have been read. Called several times a second."""

    def end(self) -> None:
        """Report that reading has ended or failed."""


class NoProgress:
    """Discards progress reports."""

    def begin(self, action: str, path: str, size: int) -> None: ...

    def update(self, position: int) -> None: ...

    def end(self) -> None: ...


@contextmanager
def followed(progress: Progress, action: str, path: str, fd: int) -> Iterator[Callable[[], None]]:
    """Report to *progress* on *action*, which reads the file *fd*. Yield the function to call repeatedly meanwhile.

    That function reports the offset of the open file description, which a child process shares (fork(2)).
    """
    progress.begin(action, path, os.fstat(fd).st_size)
    try:
        yield lambda: progress.update(os.lseek(fd, 0, os.SEEK_CUR))
    finally:
        progress.end()


class DigestedFile:
    """A file that is read sequentially, with the SHA-256 of the data read so far. The caller closes the file."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._digest = new_sha256()

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, b"" at the end."""
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def finish(self) -> str:
        """Read the rest and return the digest of the whole file in hexadecimal digits; "" if more than _MAX_REST bytes remain."""
        rest = 0
        while data := self.read(CHUNK):
            rest += len(data)
            if rest > _MAX_REST:
                return ""
        return str(self._digest.hexdigest())
