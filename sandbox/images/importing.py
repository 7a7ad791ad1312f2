"""Import an image into the store: its documents and blobs, the record of its layers and defaults, and its name.

Nothing is published before it was verified: the record is written when all blobs are complete and all layers are unpacked, and
the name last. A command that is killed leaves complete blobs and layers without a name, which the next import of the image uses,
and `sandbox prune` removes.
"""

from __future__ import annotations

import os
import threading
from functools import partial

from sandbox.errors import ImageError, SandboxError, StateError, describe_errno
from sandbox.images.blobs import BlobStore
from sandbox.images.chunked.toc import table_of
from sandbox.images.collection import discard_unnamed, importing
from sandbox.images.oci.digest import Digest
from sandbox.images.stored_images import ImageName, ImageRecord, StoredImages
from sandbox.images.transports.image_source import find_image
from sandbox.plan.image_values import ImageDefaults, ImageLayer
from unionfs._stdlib.typing import Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.oci.model import Descriptor
    from sandbox.images.oci.platforms import Platform
    from sandbox.images.transports.image_source import FoundImage, ImageSource

    Prepare = Callable[[ImageRecord], None]


class Unpack(Protocol):
    """Unpacks the layers of an image before it gets its name, or indexes them to be mounted. May be used as `Prepare`."""

    def __call__(self, record: ImageRecord, mounted: str | None = None, /) -> None:
        """Unpack the layers of *record*; with *mounted*, the name of the image in the store, index them."""


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
    prepare: Prepare | None = None,
    resumable: bool = True,
    required: bool = False,
    repair: bool = False,
    partly: Callable[[Descriptor], bool] | None = None,
) -> ImageRecord:
    """Copy the image of *source* for *platform* into the image directory *images*, and give it *name*, unless that is None; return its record.

    With *required*, an image that is the only one of its source must be for *platform*, too. With *repair*, blobs that the store
    has already are read, and copied again if they are damaged.

    *version* are facts about the file of the source, which are recorded with the name. *prepare* is called when the blobs are
    complete; it unpacks the layers, which verifies them. After an error the blobs that this call has added are removed if
    *prepare* raised it, or if the next import need not resume: not *resumable*. *partly* is called with each layer that the store
    does not have; it returns whether the store has a part of the layer now that suffices.

    Raises:
        ImageError: the source has no such image, or it is damaged, or *prepare* has refused it.
        StateError: the image directory cannot be written.
    """
    added: list[Digest] = []
    try:
        with importing(images):
            found = find_image(source, platform, required=required)
            record = record_of(found, source.name)
            blobs = BlobStore(images)
            progress = progress or NoBlobProgress()
            layers = found.manifest.layers
            if partly is not None:
                layers = _without_partial(blobs, layers, partly, added)
            progress.begin(source.name, [layer.size for layer in layers])
            try:
                copy_blobs(blobs, source, layers, progress, added, resumable=resumable, repair=repair)
            finally:
                progress.end()
            add_documents(blobs, found, added)
            if prepare is not None:
                resumable = False
                _prepare(prepare, record, source.name)
            index = "" if found.index is None else str(found.index.digest)
            entry = None
            if name is not None:
                entry = ImageName(
                    name=name, digest=record.digest, index=index, source=source.name, version=version
                )
            StoredImages(images).add(record, entry)
    except SandboxError:
        if not resumable:
            discard_unnamed(images, added)
        raise
    return record


def _prepare(prepare: Prepare, record: ImageRecord, source: str) -> None:
    try:
        prepare(record)
    except StateError:
        raise
    except SandboxError as error:
        raise ImageError(f"{source}: {error.message}", hint=error.hint) from error
    except OSError as error:  # such as a lack of descriptors or processes
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        raise StateError(
            f"{source}: its layers cannot be unpacked: {where}{(error.strerror or str(error)).lower()}",
            hint=describe_errno("", error.errno or 0),
        ) from error


def _without_partial(
    blobs: BlobStore,
    layers: tuple[Descriptor, ...],
    partly: Callable[[Descriptor], bool],
    added: list[Digest],
) -> tuple[Descriptor, ...]:
    """Return those of *layers* that have to be copied; append the tables of those of which there is a part to *added*."""
    left = []
    for layer in layers:
        if not blobs.has(layer.digest) and partly(layer):
            added.append(Digest.parse(table_of(layer.annotations, layer.size)))
        else:
            left.append(layer)
    return tuple(left)


def copy_blobs(
    blobs: BlobStore,
    source: ImageSource,
    layers: tuple[Descriptor, ...],
    progress: BlobProgress,
    added: list[Digest],
    *,
    resumable: bool = True,
    repair: bool = False,
) -> None:
    """Copy the blobs of *layers* that the store does not have; four at once, as they may come over a network.

    With *repair*, also those of which the store has a damaged copy.

    The digests of new blobs are appended to *added*. Without *resumable*, the part of a blob that was received before an error is
    removed.

    Raises:
        ImageError: a blob is missing or damaged.
        StateError: the image directory cannot be written.
    """
    from sandbox.images.registry.transfers import run_transfers

    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        source.cancel()

    def check() -> None:
        if stopped.is_set():
            raise ImageError(f"{source.name}: the import was cancelled")

    def copy(layer: Descriptor) -> None:
        with blobs.receiving(layer.digest, check, resumable=resumable, repair=repair) as fd:
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
        added.append(layer.digest)

    unique = list({layer.digest: layer for layer in layers}.values())
    run_transfers([partial(copy, layer) for layer in unique], stop)


def add_documents(blobs: BlobStore, found: FoundImage, added: list[Digest]) -> None:
    """Store the documents of *found*; append the digests of new ones to *added*.

    Raises:
        StateError: the image directory cannot be written.
    """
    for content in (found.index_content, found.config_content, found.manifest_content):
        if content:
            digest = Digest.of(content)
            if not blobs.is_whole(digest):
                blobs.add(content)
                added.append(digest)


def record_of(found: FoundImage, source: str) -> ImageRecord:
    """Return the record of the image *found*; *source* is for messages.

    Raises:
        ImageError: its layers and defaults are more than a record can have.
    """
    process = found.config.process
    return ImageRecord(
        digest=str(found.descriptor.digest),
        media_type=found.manifest.media_type,
        config=str(found.manifest.config.digest),
        platform=str(found.config.platform),
        created=found.config.created,
        layers=tuple(
            ImageLayer(
                diff_id=str(diff_id),
                digest=str(layer.digest),
                size=layer.size,
                media_type=layer.media_type,
                table=table_of(layer.annotations, layer.size),
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
    ).checked(source)


def host_platform() -> Platform:
    """Return the platform of this machine."""
    from sandbox.images.oci.platforms import Platform

    return Platform.parse(f"linux/{os.uname().machine}")
