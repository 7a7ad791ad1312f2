"""Reading an archive once, from its beginning to its end: its digest on the way, and how far it has come."""

from __future__ import annotations

import os
from contextlib import contextmanager

from sandbox.state.file_digests import CHUNK, new_sha256
from unionfs._stdlib.typing import Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.images.tar import Readable

_MAX_REST = 1 << 26
"""Bytes behind the end of an archive that are read for its digest: it may be a hole of exabytes."""


class Progress(Protocol):
    """What is told how far reading an archive has come. Its methods raise nothing."""

    def begin(self, action: str, path: str, size: int) -> None:
        """*action* ("unpack") begins on the archive *path* of *size* bytes."""

    def update(self, position: int) -> None:
        """*position* bytes have been read. Called several times a second."""

    def end(self) -> None:
        """Reading has ended, or failed."""


class NoProgress:
    """Tells nobody."""

    def begin(self, action: str, path: str, size: int) -> None: ...

    def update(self, position: int) -> None: ...

    def end(self) -> None: ...


@contextmanager
def followed(progress: Progress, action: str, path: str, fd: int) -> Iterator[Callable[[], None]]:
    """Tell *progress* of *action*, which reads the file *fd*. Yields what has to be called meanwhile.

    The position is that of the open file description, which a child shares (fork(2)).
    """
    progress.begin(action, path, os.fstat(fd).st_size)
    try:
        yield lambda: progress.update(os.lseek(fd, 0, os.SEEK_CUR))
    finally:
        progress.end()


class DigestedFile:
    """A file that is read through, with the SHA-256 of what was read. The file belongs to the caller, who closes it."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._digest = new_sha256()

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, b"" at the end."""
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def finish(self) -> str:
        """Read what is left, and return the digest of the whole file in hexadecimal digits; "" if much is left."""
        rest = 0
        while data := self.read(CHUNK):
            rest += len(data)
            if rest > _MAX_REST:
                return ""
        return str(self._digest.hexdigest())
