"""Open the layers of the images of a plan, and unpack or index those that are missing."""

from __future__ import annotations

from sandbox.images.image_layers import ImageLayers
from sandbox.plan import LayerPlan, Plan

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from sandbox.images.reading import Progress
    from sandbox.images.unpacked_trees import StoredLayer
    from sandbox.plan.image_values import ImageLayer


def open_images(
    plan: Plan, images: str, progress: Callable[[], Progress] | None, undo: ExitStack
) -> Iterator[StoredLayer]:
    """Yield the layers of all images of *plan*, in its order, from the image directory *images*; *undo* closes them.

    *progress* creates the receiver of reports about layers that are read.

    Raises:
        ImageError: a layer is missing or damaged, or cannot be shown.
    """
    found: list[tuple[LayerPlan, list[ImageLayer]]] = []
    for layer in plan.layers:
        if layer.image is None:
            continue
        if not found or (found[-1][0].path, found[-1][0].mount) != (layer.path, layer.mount):
            found.append((layer, []))
        found[-1][1].append(layer.image)
    partial = {layer.image.table for layer in plan.layers if layer.image is not None and layer.lazy}
    for layer, parts in found:
        if layer.mount or any(part.table in partial for part in parts):
            from sandbox.images.mounted_layers import (
                MountedLayers,  # few images are mounted or fetched in part
            )

            name = layer.path.rpartition("@")[0]
            opened = MountedLayers(images, progress).open(
                parts, plan.ids, name, mounted=layer.mount, partial=partial
            )
        else:
            opened = ImageLayers(images, progress).open(parts, plan.ids)
        for stored in opened:
            undo.callback(stored.close)
        yield from opened
