"""Read an image from an OCI layout, a directory or a tar of one (image-spec, image-layout.md)."""

from __future__ import annotations

import os
import threading

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci.digest import Verifier
from sandbox.images.oci.json_documents import DAMAGED, DOCUMENT_LIMIT
from sandbox.images.oci.layout import INDEX, MARKER, blob_path, check_marker
from sandbox.images.oci.model import REF_NAME, Descriptor, decode_index
from sandbox.images.transports.files import Extent, open_files, read_small
from sandbox.images.transports.image_source import missing

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.transports.files import ImageFiles

_STEP = 1 << 20


class Layout:
    """An image of a layout. Owns the open files until :meth:`close`."""

    def __init__(self, path: str, reference: str, name: str, scratch: str) -> None:
        """Open the layout at *path*. *reference* is a tag, a digest, or "" for the only image; *name* is for messages.

        *scratch* is a directory for a decompressed archive.

        Raises:
            ImageError: it is no layout, or cannot be read.
        """
        self.name = name
        self._reference = reference
        self._cancelled = threading.Event()
        self._files: ImageFiles = open_files(path, name, scratch)
        try:
            marker = read_small(self._files, MARKER, DOCUMENT_LIMIT, name)
            if marker is None:
                raise ImageError(
                    f"{name}: has no file {MARKER}, so it is no OCI layout",
                    hint='for an archive of `docker save`, write "docker-archive:PATH"; for an exported container, "tar:PATH"',
                )
            check_marker(marker, name)
        except BaseException:
            self._files.close()
            raise

    def top(self) -> Descriptor:
        """Return the descriptor that the tag or digest selects.

        Raises:
            ImageError: there is none, or more than one.
        """
        content = read_small(self._files, INDEX, DOCUMENT_LIMIT, self.name)
        if content is None:
            raise ImageError(f"{self.name}: has no {INDEX}", hint=DAMAGED)
        manifests = decode_index(content, f"{self.name}: {INDEX}").manifests
        wanted = self._reference
        if wanted.startswith(("sha256:", "sha512:")):
            found = [one for one in manifests if str(one.digest) == wanted]
        elif wanted:
            found = [one for one in manifests if one.annotations.get(REF_NAME) == wanted]
        else:
            found = list(manifests)
        if len({one.digest for one in found}) == 1:
            return found[0]
        tags = sorted({one.annotations[REF_NAME] for one in manifests if REF_NAME in one.annotations})
        listed = printable(", ".join(tags[:20]).encode("utf-8", "backslashreplace")) or "no tags"
        problem = (
            "has more than one image" if found else f"has no image {wanted}" if wanted else "has no image"
        )
        raise ImageError(f"{self.name}: {problem}", hint=f"append a tag to the path; there are: {listed}")

    def document(self, descriptor: Descriptor) -> bytes:
        """Return the content of a document; see `ImageSource.document`."""
        content = read_small(self._files, blob_path(descriptor.digest), DOCUMENT_LIMIT, self.name)
        if content is None:
            raise missing(self.name, descriptor.digest)
        return content

    def copy(self, descriptor: Descriptor, target_fd: int, progress: Callable[[int], None]) -> None:
        """Write a blob to *target_fd*; see `ImageSource.copy`."""
        extent = self._files.find(blob_path(descriptor.digest))
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
