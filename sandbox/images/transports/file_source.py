"""Copy blobs from the files of a layout or an archive: what the sources of images that are files have in common."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod

from sandbox.errors import ImageError
from sandbox.images.oci.digest import Verifier
from sandbox.images.transports.files import Extent, open_files
from sandbox.images.transports.image_source import missing

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.oci.digest import Digest
    from sandbox.images.oci.model import Descriptor
    from sandbox.images.transports.files import ImageFiles

_STEP = 1 << 20


class FileSource(ABC):
    """The files of one source of images. Owns them until :meth:`close`. A subclass tells where the blobs are."""

    def __init__(self, path: str, name: str, scratch: str) -> None:
        """Open the files at *path*. *name* is for messages, and *scratch* a directory for a decompressed archive.

        Raises:
            ImageError: they cannot be read.
        """
        self.name = name
        self._cancelled = threading.Event()
        self._files: ImageFiles = open_files(path, name, scratch)

    @abstractmethod
    def _path_of(self, digest: Digest) -> str:
        """Return the path of the blob *digest* among the files; "" if they have none."""

    def copy(self, descriptor: Descriptor, target_fd: int, progress: Callable[[int], None]) -> None:
        """Write a blob to *target_fd*; see `ImageSource.copy`."""
        extent = self._files.find(self._path_of(descriptor.digest))
        if extent is None:
            raise missing(self.name, descriptor.digest)
        copy_extent(extent, descriptor, target_fd, progress, self.name, self._cancelled)

    def cancel(self) -> None:
        """End the copies soon; see `ImageSource.cancel`."""
        self._cancelled.set()

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def copy_extent(
    extent: Extent,
    descriptor: Descriptor,
    target_fd: int,
    progress: Callable[[int], None],
    name: str,
    cancelled: threading.Event,
) -> None:
    """Write *extent* to the file *target_fd*, whose former content is dropped, and compare size and digest.

    Raises:
        ImageError: they differ from *descriptor*; the target is then empty.
        OSError: reading or writing fails.
    """
    os.ftruncate(target_fd, 0)
    verifier = Verifier(descriptor.digest, descriptor.size, name)
    position, end = extent.offset, extent.offset + extent.size
    try:
        if extent.size != descriptor.size:
            raise ImageError(
                f"{name}: blob {descriptor.digest} has {extent.size} bytes instead of {descriptor.size}",
                hint="get the image again from its source",
            )
        while position < end:
            if cancelled.is_set():
                raise ImageError(f"{name}: the copy of {descriptor.digest} was cancelled")
            piece = os.pread(extent.fd, min(_STEP, end - position), position)
            if not piece:
                break
            verifier.update(piece)
            _write(target_fd, piece, position - extent.offset)
            position += len(piece)
            progress(len(piece))
        verifier.finish()
    except ImageError:
        os.ftruncate(target_fd, 0)
        raise


def _write(fd: int, piece: bytes, position: int) -> None:
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(fd, rest, position)
        position += written
        rest = rest[written:]
