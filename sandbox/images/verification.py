"""Verify the image store: compare every blob and every layer with its digest."""

from __future__ import annotations

import os

from sandbox.errors import SandboxError
from sandbox.images.blobs import BlobStore
from sandbox.images.collection import importing
from sandbox.images.layer_stream import Expected, LayerStream
from sandbox.images.oci.digest import Digest
from sandbox.images.places import fetched_in_part
from sandbox.images.stored_images import StoredImages

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.plan.image_values import ImageLayer


def verify(images: str) -> list[str]:
    """Return the problems of the store as text: blobs that are missing or differ from their digest, and damaged records.

    Every blob is read, and every layer is decompressed to compare its diff id. Of a layer that was fetched in part, the table of
    contents is read.

    Raises:
        StateError: the file of names is damaged.
    """
    if not os.path.isdir(images):
        return []
    with importing(images):  # nothing is removed meanwhile
        return sorted(set(_problems(images)))


def _problems(images: str) -> Iterator[str]:
    stored, blobs = StoredImages(images), BlobStore(images)
    for name in stored.names().values():
        if stored.record(name.digest) is None:
            yield f"{name.name}: the record of {name.digest} is missing or damaged"
        if name.index and not blobs.has(Digest.parse(name.index)):
            yield f"{name.name}: the blob {name.index} is missing"
    checked: set[str] = set()
    for record in stored.records():
        for digest in (record.digest, record.config):
            if not blobs.has(Digest.parse(digest)):
                yield f"image {record.digest}: the blob {digest} is missing"
        partial = fetched_in_part(images, record.layers)
        for layer in record.layers:
            checked.add(layer.digest)
            try:
                if layer.table in partial:
                    _check_table(images, f"image {record.digest}", layer)
                else:
                    check_layer(blobs, f"image {record.digest}", layer)
            except SandboxError as error:
                yield error.message
    for blob in blobs.digests():
        if str(blob) not in checked and not blobs.is_whole(blob):
            yield f"the content of the blob {blob} has another digest"


def check_layer(blobs: BlobStore, name: str, layer: ImageLayer) -> None:
    """Compare the blob of *layer* with its size, digest and diff id; *name* is for messages.

    Raises:
        ImageError: it is missing or damaged, or one of them differs.
    """
    expected = Expected(digest=layer.digest, size=layer.size, diff_id=layer.diff_id)
    with (
        open(blobs.open(Digest.parse(layer.digest)), "rb", buffering=0) as blob,
        LayerStream(blob, name, expected) as stream,
    ):
        for _ in stream.open_archive():
            pass
        stream.finish()


def _check_table(images: str, name: str, layer: ImageLayer) -> None:
    """Compare the table of contents of *layer*, which was fetched in part, with its digest, and read it.

    Its chunks need no check: one that differs from its digest counts as missing, and is fetched again.

    Raises:
        ImageError: it is missing or damaged.
    """
    from sandbox.images.chunked.partial_layers import PartialLayers
    from sandbox.images.chunked.table_archive import TableArchive

    partial, table = PartialLayers(images), Digest.parse(layer.table)
    place = partial.place(table)._replace(digest=layer.table)
    for _ in TableArchive(partial.table(table), place, f"{name}: layer {layer.digest}"):
        pass
