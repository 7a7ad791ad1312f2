"""Import an image into the store: its documents and blobs, the record of its layers and defaults, and its name.

Nothing is published before it was verified. The record is written when all blobs are complete, and the name last. A command
that is killed leaves complete blobs without a name, which the next import of the image uses, and `sandbox prune` removes.
"""

from __future__ import annotations

import os
from functools import partial

from sandbox.errors import StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.stored_images import ImageName, ImageRecord, StoredImages
from sandbox.images.transports.image_source import find_image
from sandbox.plan.image_values import ImageDefaults, ImageLayer
from unionfs._stdlib.typing import Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.oci.model import Descriptor
    from sandbox.images.oci.platforms import Platform
    from sandbox.images.transports.image_source import FoundImage, ImageSource


class BlobProgress(Protocol):
    """Receives reports while blobs are copied. Its methods may be called by several threads, and must not raise."""

    def begin(self, name: str, sizes: list[int]) -> None:
        """Report that the blobs of the image *name*, of *sizes* bytes, are going to be copied."""

    def advance(self, count: int) -> None:
        """Report that *count* more bytes are there; negative if a blob starts anew."""

    def end(self) -> None:
        """Report that all are complete, or that one has failed."""


class NoBlobProgress:
    """Discards reports."""

    def begin(self, name: str, sizes: list[int]) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...


def import_image(
    images: str,
    source: ImageSource,
    platform: Platform,
    name: str | None,
    progress: BlobProgress | None = None,
    *,
    version: tuple[int, ...] = (),
) -> ImageRecord:
    """Copy the image of *source* for *platform* into the image directory *images*, and give it *name*, unless that is None; return its record.

    *version* are facts about the file of the source, which are recorded with the name.

    Raises:
        ImageError: the source has no such image, or it is damaged.
        StateError: the image directory cannot be written.
    """
    found = find_image(source, platform)
    blobs = BlobStore(images)
    progress = progress or NoBlobProgress()
    progress.begin(source.name, [layer.size for layer in found.manifest.layers])
    try:
        copy_blobs(blobs, source, found.manifest.layers, progress)
    finally:
        progress.end()
    record = add_documents(blobs, found)
    index = "" if found.index is None else str(found.index.digest)
    stored = StoredImages(images)
    entry = None
    if name is not None:
        entry = ImageName(name=name, digest=record.digest, index=index, source=source.name, version=version)
    stored.add(record, entry)
    return record


def copy_blobs(
    blobs: BlobStore, source: ImageSource, layers: tuple[Descriptor, ...], progress: BlobProgress
) -> None:
    """Copy the blobs of *layers* that the store does not have; four at once, as they may come over a network.

    Raises:
        ImageError: a blob is missing or damaged.
        StateError: the image directory cannot be written.
    """
    from sandbox.images.registry.transfers import run_transfers

    def copy(layer: Descriptor) -> None:
        with blobs.receiving(layer.digest) as fd:
            if fd is None:
                progress.advance(layer.size)
                return
            try:
                source.copy(layer, fd, progress.advance)
            except OSError as error:
                raise StateError(
                    f"{source.name}: blob {layer.digest}: {(error.strerror or str(error)).lower()}",
                    hint="free some space, or set SANDBOX_CACHE_DIR to another directory",
                ) from None

    unique = list({layer.digest: layer for layer in layers}.values())
    run_transfers([partial(copy, layer) for layer in unique], source.cancel)


def add_documents(blobs: BlobStore, found: FoundImage) -> ImageRecord:
    """Store the documents of *found*, and return its record.

    Raises:
        ImageError: its defaults are larger than a record may be.
        StateError: the image directory cannot be written.
    """
    for content in (found.index_content, found.config_content, found.manifest_content):
        if content:
            blobs.add(content)
    return record_of(found)


def record_of(found: FoundImage) -> ImageRecord:
    """Return the record of the image *found*."""
    process = found.config.process
    return ImageRecord(
        digest=str(found.descriptor.digest),
        media_type=found.manifest.media_type,
        config=str(found.manifest.config.digest),
        platform=str(found.config.platform),
        created=found.config.created,
        layers=tuple(
            ImageLayer(
                diff_id=str(diff_id), digest=str(layer.digest), size=layer.size, media_type=layer.media_type
            )
            for layer, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True)
        ),
        defaults=ImageDefaults(
            entrypoint=process.entrypoint,
            command=process.cmd,
            env=process.env,
            user=process.user,
            cwd=process.working_dir,
            stop_signal=process.stop_signal,
        ),
    )


def host_platform() -> Platform:
    """Return the platform of this machine."""
    from sandbox.images.oci.platforms import Platform

    return Platform.parse(f"linux/{os.uname().machine}")
