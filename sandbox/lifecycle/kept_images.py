"""List the images of the store as items that outlive a run, and what no image uses as leftovers. Changes nothing."""

from __future__ import annotations

import os

from sandbox.errors import StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.chunked.partial_layers import PartialLayers
from sandbox.images.collection import is_stale, unused_parts, users_of
from sandbox.images.listing import list_images
from sandbox.images.places import fetched_in_part, layers_in
from sandbox.images.stored_images import StoredImages
from sandbox.images.unpacked_trees import UnpackedTrees, ids_of_layer
from sandbox.lifecycle.disk_space import measure
from sandbox.lifecycle.kept_items import KeptItem, Leftover

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.images.listing import ListedImage
    from sandbox.state.location import Locations


def image_names(where: Locations) -> list[str]:
    """Return the names of all images; none if the file of names is damaged."""
    try:
        return sorted(StoredImages(where.images).names())
    except StateError:
        return []


def kept_images(where: Locations, *, sizes: bool) -> list[KeptItem]:
    """Return an item for each name of an image; with *sizes*, with the disk space of its blobs and unpacked layers.

    Raises:
        StateError: the file of names is damaged.
    """
    listed = list_images(where.images)
    parts = _parts(where, listed) if sizes else {}
    return [
        KeptItem(
            kind="image",
            name=one.name.name,
            path=os.path.join(where.images, "images.json"),
            bytes=sum(parts[one.name.digest].values()) if sizes else None,
            used=one.name.time,
            in_use=tuple(users_of(where, one.name.digest)),
            source=(one.name.source,) if one.name.source else (),
            current=not is_stale(one.name),
            parts=parts.get(one.name.digest, {}),
        )
        for one in listed
    ]


def _parts(where: Locations, listed: Sequence[ListedImage]) -> dict[str, dict[str, int]]:
    """Return for each digest of a manifest the blobs and unpacked layers of the image, with the bytes of each."""
    trees = UnpackedTrees(layers_in(where.images))
    places: dict[str, list[str]] = {}
    for key in trees.names():
        places.setdefault(key.partition("-")[0], []).append(os.path.join(trees.base, key))
    space = measure([(path, ids_of_layer(path)) for paths in places.values() for path in paths])
    found: dict[str, dict[str, int]] = {}
    partial = PartialLayers(where.images)
    for one in listed:
        parts = found.setdefault(one.name.digest, {})
        for layer in () if one.record is None else one.record.layers:
            in_part = fetched_in_part(where.images, (layer,))
            parts[layer.digest] = partial.size(layer.table) if in_part else layer.size
            for path in places.get(layer.diff_id.partition(":")[2], ()):
                parts[path] = space.get(path) or 0
    return found


def unused_parts_of_images(where: Locations, *, sizes: bool) -> list[Leftover]:
    """Return the blobs and unpacked layers that no image and no sandbox uses, such as those of an import that was killed.

    Raises:
        StateError: the file of names is damaged.
    """
    unused, blobs = unused_parts(where, stale=False), BlobStore(where.images)
    partial = PartialLayers(where.images)
    paths = [os.path.join(layers_in(where.images), key) for key in unused.layers]
    space = measure([(path, ids_of_layer(path)) for path in paths]) if sizes else {}
    return [
        *(Leftover(path=blobs.path(digest), bytes=size if sizes else None) for digest, size in unused.blobs),
        *(
            Leftover(path=partial.path(digest), bytes=size if sizes else None)
            for digest, size in unused.partial
        ),
        *(Leftover(path=path, bytes=space.get(path)) for path in paths),
    ]
