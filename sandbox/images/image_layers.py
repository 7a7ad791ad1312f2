"""Unpack each layer of an image once for each id map. All images and sandboxes share the result.

    IMAGES/layers/DIFFID-IDS/          a layer, by the digits of its diff id
    IMAGES/layers/DIFFID-IDS-BELOW/    one whose content depends on the layers below, by their diff ids, too

A layer depends on those below only if it has a hard link to a file of theirs, or leaves out a directory that contains its files.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack

from sandbox.as_container_root import run_with_ids
from sandbox.images.places import layers_in
from sandbox.images.unpacked_trees import StoredLayer, UnpackedTrees, digest, key_of_ids
from sandbox.plan import IdPlan

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.images.reading import Progress
    from sandbox.plan.image_values import ImageLayer

_FORMAT = 1  # incremented when unpacking changes, so that layers of older versions are not used
_USED_BELOW = "used below"


class ImageLayers:
    """The unpacked layers of the images in one image directory."""

    def __init__(self, images: str, progress: Callable[[], Progress] | None = None) -> None:
        """Use the image directory *images*; *progress* creates the receiver of reports for each layer that is unpacked."""
        self._images = images
        self.trees = UnpackedTrees(layers_in(images))
        self._progress = progress

    def open(
        self, layer: ImageLayer, ids: IdPlan, below: Sequence[tuple[ImageLayer, StoredLayer]] = ()
    ) -> StoredLayer:
        """Return *layer* unpacked under *ids*; unpack it first if necessary. *below* are the layers below it, topmost first.

        Raises:
            ImageError: the store has no blob of the layer, or it is damaged or cannot be unpacked.
            SandboxError: it cannot be unpacked under *ids*.
        """
        return self._find(layer, ids, below) or self._import(layer, ids, below)

    def has(self, layer: ImageLayer, ids: IdPlan) -> bool:
        """Return whether *layer* is unpacked under *ids*, over any layers."""
        return bool(self.trees.names(_key(layer, ids)))

    def _find(
        self, layer: ImageLayer, ids: IdPlan, below: Sequence[tuple[ImageLayer, StoredLayer]]
    ) -> StoredLayer | None:
        key = _key(layer, ids)
        return self.trees.open(key) or (self.trees.open(f"{key}-{_chain(below)}") if below else None)

    def _import(
        self, layer: ImageLayer, ids: IdPlan, below: Sequence[tuple[ImageLayer, StoredLayer]]
    ) -> StoredLayer:
        key = _key(layer, ids)
        notices: list[str] = []

        def fill(_building: str, tree_fd: int) -> str:
            first, _, lines = self._unpack(layer, tree_fd, ids, [one.tree_fd for _, one in below]).partition(
                "\n"
            )
            notices.extend(lines.splitlines())
            return f"{key}-{_chain(below)}" if first == _USED_BELOW else key

        with self.trees.importing(_hex(layer)) as lock:
            made = self._find(layer, ids, below)
            if made is None:
                self.trees.make(_hex(layer), ids, fill, lock=lock, step=f"layer {layer.diff_id}")
                found = self._find(layer, ids, below)
                assert found is not None
                made = StoredLayer(
                    place=found.place,
                    tree_fd=found.tree_fd,
                    lock_fd=found.lock_fd,
                    index_fd=found.index_fd,
                    notices=tuple(notices),
                )
        return made

    def _unpack(self, layer: ImageLayer, tree_fd: int, ids: IdPlan, below: Sequence[int]) -> str:
        """Unpack the blob of *layer* in a child process that is root of *ids* and has a memory limit.

        Return _USED_BELOW, or "", on the first line, and a notice on each further line.
        """
        # Import here, and open the archive, which imports the module for its compression: the child process may be unable to
        # read this Python's files.
        from sandbox.images.blobs import BlobStore
        from sandbox.images.bounded import unpack_bounded
        from sandbox.images.layer_stream import Expected, LayerStream
        from sandbox.images.oci.digest import Digest

        expected = Expected(digest=layer.digest, size=layer.size, diff_id=layer.diff_id)
        with ExitStack() as undo:
            fd = BlobStore(self._images).open(Digest.parse(layer.digest))
            undo.callback(os.close, fd)
            blob = undo.enter_context(open(fd, "rb", buffering=0, closefd=False))
            stream = undo.enter_context(LayerStream(blob, "layer", expected))
            archive = undo.enter_context(stream.open_archive())

            def action() -> str:
                report = unpack_bounded(archive, tree_fd, single_id=ids.single, below=below)
                stream.finish()
                notices = "".join(f"layer {layer.diff_id}: {notice}\n" for notice in report.notices())
                return f"{_USED_BELOW if report.used_below else ''}\n{notices}"

            return run_with_ids(ids, action, undo.enter_context(self._following(layer, fd)))

    def _following(self, layer: ImageLayer, fd: int) -> AbstractContextManager[Callable[[], None]]:
        from sandbox.images.reading import NoProgress, followed

        progress = NoProgress() if self._progress is None else self._progress()
        return followed(progress, "unpack", f"layer {layer.digest[:19]}", fd)


def _hex(layer: ImageLayer) -> str:
    return layer.diff_id.partition(":")[2]


def _key(layer: ImageLayer, ids: IdPlan) -> str:
    return f"{_hex(layer)}-{key_of_ids(ids, _FORMAT)}"


def _chain(below: Sequence[tuple[ImageLayer, StoredLayer]]) -> str:
    return digest([layer.diff_id for layer, _ in below])
