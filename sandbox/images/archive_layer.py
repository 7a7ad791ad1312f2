"""Make a layer of an archive as it is: the file becomes a blob, if its compression is one of images."""

from __future__ import annotations

import os
from threading import Event

from sandbox.errors import ImageError
from sandbox.images.blobs import BlobStore
from sandbox.images.layer_stream import LayerStream
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.media_types import OCI_LAYER
from sandbox.images.oci.model import Descriptor
from sandbox.images.transports.file_source import copy_extent
from sandbox.images.transports.files import Extent
from sandbox.kernel.files import open_regular


def add_archive(
    images: str, path: str, shown: str, *, expected: str = "", hint: str, repack: str
) -> tuple[Descriptor, Digest]:
    """Add the archive *path*, called *shown* in messages, as a blob to the image directory *images*; return it with its diff id.

    *expected* is the digest that it must have, in hexadecimal digits; "" for any. *hint* is the remedy if it cannot be read or
    has changed, and *repack* if it has another compression.

    Raises:
        ImageError: it cannot be read, is damaged or another one, or has a compression that images do not have.
        StateError: the image directory cannot be written.
    """
    blobs = BlobStore(images)
    try:
        fd = open_regular(path, links=False)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ImageError(f"{shown}: {reason}", hint=hint) from None
    with open(fd, "rb", buffering=0) as file:
        with LayerStream(file, shown) as stream:
            for _ in stream.open_archive():
                pass
            digests = stream.finish()
        if digests is None:
            raise ImageError(f"{shown}: too much data follows the end of the archive")
        if expected and digests.digest != f"sha256:{expected}":
            raise ImageError(f"{shown} has changed since the sandbox began with it", hint=hint)
        digest, diff_id = Digest.parse(digests.digest), Digest.parse(digests.diff_id)
        suffix = _suffix(fd, compressed=digest != diff_id)
        if suffix is None:
            raise ImageError(f"{shown}: layers of images cannot have its compression", hint=repack)
        described = Descriptor(media_type=OCI_LAYER + suffix, digest=digest, size=digests.size)
        with blobs.receiving(digest) as target:
            if target is not None:  # the digest is compared again, because the file may have changed since
                extent = Extent(fd, 0, os.fstat(fd).st_size)
                copy_extent(extent, described, target, lambda _: None, shown, Event())
    return described, diff_id


def _suffix(fd: int, *, compressed: bool) -> str | None:
    """Return the end of the media type for the compression of the archive *fd*; None if images cannot have it."""
    if not compressed:
        return ""
    magic = os.pread(fd, 4, 0)
    return "+gzip" if magic.startswith(b"\x1f\x8b") else "+zstd" if magic == b"\x28\xb5\x2f\xfd" else None
