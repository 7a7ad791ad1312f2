"""Make an image of a sandbox: the layers below its writable layer, and its changes as one more layer.

Layers of images keep their digests. An archive becomes a layer as it is, if its compression is one of images. A directory has no
digest and may change, so it is refused, unless the whole root becomes one layer.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from sandbox.changes.reader import has_changes, start, state_directory
from sandbox.changes.writable_layers import WritableLayer, find
from sandbox.errors import ImageError, StateError
from sandbox.images.archive_layer import add_archive
from sandbox.images.blobs import BlobStore
from sandbox.images.collection import importing
from sandbox.images.importing import host_platform
from sandbox.images.layer_store import recorded_digest
from sandbox.images.listing import config_of
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.image_config import History, ImageConfig, timestamp
from sandbox.images.oci.layer_writer import write_layer
from sandbox.images.oci.model import Descriptor
from sandbox.images.places import archives_in, fetched_in_part, partial_in
from sandbox.images.stored_content import add_image, now, source_date_epoch
from sandbox.images.stored_images import StoredImages
from sandbox.state.location import Locations, locate
from unionfs._stdlib.dataclasses import dataclass, field, replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.images.stored_images import ImageRecord
    from sandbox.state.stack_record import RecordedLayer


@dataclass(slots=True)
class _Image:
    """The image that is being made: its layers with their diff ids, its history, and the configuration that it begins with."""

    config: ImageConfig
    layers: list[Descriptor] = field(default_factory=list)
    diff_ids: list[Digest] = field(default_factory=list)
    history: list[History] = field(default_factory=list)


def commit(
    argument: str, name: str | None, *, flatten: bool = False, compression: str = "gzip", comment: str = ""
) -> ImageRecord:
    """Make an image of the sandbox that *argument* selects, and add it to the store as *name*; return its record.

    With *flatten* the whole root is one layer. *compression* is "gzip" or "zstd". Without *name* the image is removed by the next
    `collect`. The sandbox may run meanwhile; then the layer has each file as it was when it was read.

    Raises:
        StateError: there is no such sandbox, a layer below is missing, or the store cannot be written.
        ImageError: a layer below cannot be a layer of an image.
        SandboxError: the changes cannot be read.
    """
    comment = os.fsencode(comment).decode(errors="replace")  # JSON is UTF-8
    where = locate(os.environ, os.geteuid())
    layer = find(state_directory(), argument)
    created = timestamp(now())
    image = _Image(ImageConfig(platform=host_platform(), diff_ids=()))
    with importing(where.images):
        if flatten:
            image.config = topmost_config(where, layer.stack.layers) or image.config
            _add_stream(where, layer, image, ["--archive=trees"], ["/"], compression)
        else:
            _add_layers_below(where, layer.stack.layers, image)
            if has_changes(layer):
                _add_stream(where, layer, image, ["--archive=layer"], [], compression)
        while len([one for one in image.history if not one.empty_layer]) < len(image.layers):
            step = History(created=created, created_by=f"sandbox commit {layer.name}", comment=comment)
            image.history.append(step)
        config = replace(
            image.config,
            diff_ids=tuple(image.diff_ids),
            history=tuple(image.history),
            created=created,
        )
        return add_image(where.images, config, image.layers, name)


def _add_layers_below(where: Locations, layers: Sequence[RecordedLayer], image: _Image) -> None:
    stored = StoredImages(where.images)
    left: list[
        str
    ] = []  # the diff ids of the layers of one image that follow, which were added with the first
    for layer in layers:
        if layer.kind == "dir":
            raise ImageError(
                f"{layer.shown()} is a directory of this machine, which cannot be a layer of an image",
                hint="--flatten makes one layer of the whole root, including that directory",
            )
        if layer.kind == "tar":
            _add_archive(where, layer, image)
            continue
        if left:
            left.pop()
            continue
        record = _record_of(stored, layer)
        _add_image(where, record, image)
        left = [one.diff_id for one in record.layers[1:]]


def _record_of(stored: StoredImages, layer: RecordedLayer) -> ImageRecord:
    name, _, digest = layer.path.rpartition("@")
    record = stored.record(digest)
    if record is None:
        raise StateError(
            f"the image {name}, which is below the writable layer, is no longer in the image store",
            hint="fetch or import it again",
        )
    return record


def topmost_config(where: Locations, layers: Sequence[RecordedLayer]) -> ImageConfig | None:
    """Return the configuration of the topmost image of *layers*; None if there is none."""
    images = [layer for layer in layers if layer.kind == "image"]
    return config_of(where.images, _record_of(StoredImages(where.images), images[-1])) if images else None


def _add_image(where: Locations, record: ImageRecord, image: _Image) -> None:
    """Add the layers and the history of an image; its configuration replaces that of images below it.

    Raises:
        ImageError: layers of it were fetched in part, so that nothing has compared their digests and diff ids.
    """
    if fetched_in_part(where.images, record.layers):
        names = StoredImages(where.images).names().values()
        name = next((one for one in names if one.digest == record.digest), None)
        raise ImageError(
            f"the image {record.digest if name is None else name.name}, which is below the writable layer, was fetched in part alone",
            hint="--flatten makes one layer of the whole root; or fetch the rest first"
            + ("" if name is None else f": sandbox pull {name.source} {name.name}"),
        )
    config = config_of(where.images, record)
    image.config = config
    image.layers += [
        Descriptor(media_type=layer.media_type, digest=Digest.parse(layer.digest), size=layer.size)
        for layer in record.layers
    ]
    image.diff_ids += config.diff_ids
    known = [step for step in config.history if not step.empty_layer]
    history = list(config.history) if len(known) == len(record.layers) else []
    image.history += history or [History(created=config.created) for _ in record.layers]


def _add_archive(where: Locations, layer: RecordedLayer, image: _Image) -> None:
    """Add an archive as a layer: the file itself, which must be the one that was unpacked."""
    descriptor, diff_id = add_archive(
        where.images,
        layer.path,
        layer.shown(),
        expected=recorded_digest(os.path.join(archives_in(where.images), layer.place or "")),
        hint="restore the archive, or use --flatten",
        repack="pack the archive again with gzip or zstd, or use --flatten",
    )
    image.layers.append(descriptor)
    image.diff_ids.append(diff_id)
    image.history.append(History(created=timestamp(now()), created_by=f"tar:{_file_name(layer)}"))


def _file_name(layer: RecordedLayer) -> str:
    """Return the last part of the path of *layer*: the image is the same wherever its archive is, and JSON is UTF-8."""
    return os.fsencode(os.path.basename(layer.path)).decode(errors="replace")


def _add_stream(
    where: Locations,
    layer: WritableLayer,
    image: _Image,
    options: Sequence[str],
    paths: Sequence[str],
    compression: str,
) -> None:
    """Add the archive that `unionfs changes` writes as one layer; none if it is empty."""
    blobs = BlobStore(where.images)
    with ExitStack() as undo:
        output = undo.enter_context(blobs.writing())
        process = start(layer, options, paths, undo)
        with process.explaining(), open(process.output_fd, "rb", closefd=False) as stream:
            written = write_layer(
                stream,
                output,
                temporary=partial_in(where.images),
                compression=compression,
                latest=source_date_epoch(),
            )
        if written is None:
            return
        output.publish(written.descriptor.digest)
    image.layers.append(written.descriptor)
    image.diff_ids.append(written.diff_id)
