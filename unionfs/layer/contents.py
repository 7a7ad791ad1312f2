"""The contents of a file that has no descriptor of its own: they are a part of another file.

Reading, seeking and copying go through these methods. Where an object has a descriptor, its users call the kernel themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unionfs._stdlib.typing import Protocol


class Fetch:
    """Contents that have to be fetched from another machine."""

    def __init__(
        self, fetch: Callable[[Sequence[int], Callable[[int], None]], None], chunks: Sequence[int]
    ) -> None:
        """Fetch *chunks* by the function *fetch* of the data that they belong to."""
        self._fetch = fetch
        self._chunks = chunks

    def begin(self, done: Callable[[int], None]) -> None:
        """Fetch them. *done* is called once, by any thread: with 0 if they are there, or with the errno of the failure."""
        self._fetch(self._chunks, done)


class FileContents(Protocol):
    """The contents of one file. All methods may be called by several threads. Nothing has to be closed."""

    #: Bytes, with holes.
    size: int
    #: Bytes, without holes.
    stored: int

    def read(self, size: int, offset: int) -> bytes:
        """Return up to *size* bytes at *offset*; fewer at the end of the file only.

        Raises:
            OSError: EIO if the other file lacks them.
        """

    def read_cached(self, room: memoryview, offset: int) -> int | None:
        """Read to *room* what there is at *offset*, without waiting for a disk or a machine.

        Return the number of bytes, fewer than the room at the end of the file only; None if some of them are not in memory.

        Raises:
            OSError: EIO as :meth:`read`.
        """

    def pending(self, offset: int, size: int) -> Fetch | None:
        """Return what has to be fetched before the *size* bytes at *offset* can be read; None if nothing has to."""

    def seek(self, offset: int, whence: int) -> int:
        """Return the offset of the next data or hole from *offset* on, as lseek(2) with SEEK_DATA or SEEK_HOLE.

        Raises:
            OSError: ENXIO.
        """

    def copy(self, to: int) -> int:
        """Write the contents to the empty file *to*, with their holes. Return the number of bytes that are not in holes.

        Raises:
            OSError: EIO as :meth:`read`; *to* cannot be written.
        """
