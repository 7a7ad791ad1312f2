"""Name the parts of the image directory."""

from __future__ import annotations

import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.plan.image_values import ImageLayer


def archives_in(images: str) -> str:
    """Return the directory of the unpacked `tar:` archives in the image directory *images*."""
    return os.path.join(images, "archives")


def layers_in(images: str) -> str:
    """Return the directory of the unpacked layers of images in the image directory *images*."""
    return os.path.join(images, "layers")


def lazy_in(images: str) -> str:
    """Return the directory of the layers that were fetched in part in the image directory *images*."""
    return os.path.join(images, "lazy")


def lazy_place(images: str, table: str) -> str:
    """Return the directory of the layer with the table *table*, a digest, that was fetched in part, in the image directory *images*."""
    return os.path.join(lazy_in(images), table.replace(":", "-"))


def blob_path(images: str, digest: str) -> str:
    """Return the path of the complete blob *digest* in the image directory *images*."""
    return os.path.join(images, "blobs", *digest.split(":"))


def fetched_in_part(images: str, layers: Iterable[ImageLayer]) -> frozenset[str]:
    """Return the tables of those of *layers* of which the image directory *images* has a part alone."""
    if not os.path.isdir(lazy_in(images)):
        return frozenset()
    return frozenset(
        layer.table
        for layer in layers
        if layer.table
        and os.path.isdir(lazy_place(images, layer.table))
        and not os.path.exists(blob_path(images, layer.digest))
    )


def scratch_in(images: str) -> str:
    """Create the directory of temporary files in the image directory *images*, and return its path.

    Raises:
        OSError: it cannot be created.
    """
    path = partial_in(images)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def partial_in(images: str) -> str:
    """Return the directory of blobs that are being received, and of other temporary files."""
    return os.path.join(images, "partial")
