"""Give stored images to the writers of layouts and archives, and add images that were made here to the store."""

from __future__ import annotations

import os
from contextlib import contextmanager

from sandbox.errors import ImageError, printable
from sandbox.images.blobs import BlobStore
from sandbox.images.chunked.footer import annotations_of
from sandbox.images.importing import record_of
from sandbox.images.listing import find_record
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.image_config import ImageConfig
from sandbox.images.oci.image_content import ImageContent
from sandbox.images.oci.json_documents import DOCUMENT_LIMIT
from sandbox.images.oci.media_types import LAYERS, OCI_CONFIG, OCI_MANIFEST
from sandbox.images.oci.model import Descriptor, Manifest, decode_manifest
from sandbox.images.stored_images import ImageName, StoredImages, normalized
from sandbox.images.transports.image_source import FoundImage
from unionfs._stdlib.dataclasses import replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.images.compression import Readable
    from sandbox.images.stored_images import ImageRecord

_LATEST = 253_402_300_799
"""The end of the year 9999, the last that RFC 3339 can express, in seconds after the epoch."""
_DIGITS = 20


class StoredBlobs:
    """The blobs of an image directory as the writers read them (implements `BlobSource`)."""

    def __init__(self, images: str) -> None:
        """Use the image directory *images*."""
        self._blobs = BlobStore(images)

    @contextmanager
    def open(self, descriptor: Descriptor, /) -> Iterator[Readable]:
        """Open the blob of *descriptor*.

        Raises:
            ImageError: the store does not have it.
        """
        with open(self._blobs.open(descriptor.digest), "rb") as file:
            yield file


def content_of(images: str, name: str) -> ImageContent:
    """Return the image *name* of the store for a writer.

    Raises:
        ImageError: the store has no such image.
    """
    _, record = find_record(images, name)
    return content_of_record(images, record, name)


def content_of_record(images: str, record: ImageRecord, name: str) -> ImageContent:
    """Return the image of *record* for a writer, called *name* in messages.

    Raises:
        ImageError: its manifest is missing or damaged.
    """
    content = BlobStore(images).read(Digest.parse(record.digest), DOCUMENT_LIMIT)
    manifest = decode_manifest(content, f"{name}: manifest {record.digest}", record.media_type)
    return ImageContent(name=name, manifest=manifest, content=content, blobs=StoredBlobs(images))


def add_image(
    images: str, config: ImageConfig, layers: Sequence[Descriptor], name: str | None
) -> ImageRecord:
    """Add the image with *config* and the blobs *layers*, which are in the store, under *name*; return its record.

    The manifest is one of the OCI image-spec; layers keep their digests. Without *name*, `collect` removes the image again.

    Raises:
        StateError: the image directory cannot be written.
    """
    blobs = BlobStore(images)
    config_content = config.encode()
    described = Descriptor(media_type=OCI_CONFIG, digest=blobs.add(config_content), size=len(config_content))
    annotated = tuple(_annotated(blobs, layer) for layer in layers)
    manifest = Manifest(media_type=OCI_MANIFEST, config=described, layers=annotated)
    image = ImageContent.of(name or "image", manifest, StoredBlobs(images)).as_oci()
    blobs.add(image.content)
    record = record_of(
        FoundImage(
            descriptor=image.descriptor,
            manifest=image.manifest,
            manifest_content=image.content,
            config=config,
            config_content=config_content,
        ),
        image.name,
    )
    entry = None if name is None else ImageName(name=normalized(name), digest=record.digest)
    StoredImages(images).add(record, entry)
    return record


def _annotated(blobs: BlobStore, layer: Descriptor) -> Descriptor:
    """Return *layer* with the annotations by which readers of zstd:chunked find its table of contents, if it has one."""
    if LAYERS.get(layer.media_type) != "zstd" or not blobs.has(layer.digest):
        return layer
    fd = blobs.open(layer.digest)
    try:
        return replace(layer, annotations={**layer.annotations, **annotations_of(fd)})
    finally:
        os.close(fd)


def now() -> int:
    """Return the time for the documents of an image: SOURCE_DATE_EPOCH if it is set, else the present, in seconds after the epoch.

    Raises:
        ImageError: as `source_date_epoch`.
    """
    import time

    given = source_date_epoch()
    return int(time.time()) if given is None else given


def source_date_epoch() -> int | None:
    """Return SOURCE_DATE_EPOCH in seconds after the epoch; None if it is not set (reproducible-builds.org/specs/source-date-epoch).

    Raises:
        ImageError: it is no such number, or after the year 9999, which the documents of an image cannot express.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= _DIGITS and int(given) <= _LATEST):
        raise ImageError(
            f"SOURCE_DATE_EPOCH is {printable(given)!r}, which is not a time in seconds after the epoch",
            hint="for example: SOURCE_DATE_EPOCH=$(date +%s), or unset it",
        )
    return int(given)
