"""Index each layer of an image once for each id map, so that the file system server can read it from its blob.

    IMAGES/layers/DIFFID-FACTS/         the index of a layer, as `mounted_archives` has it, in `members`
    IMAGES/layers/DIFFID-FACTS-BELOW/   that of one with directories whose attributes are those of the layers below

FACTS is a digest of the id map and of the digest of the blob, because the index has offsets in the blob. Locks and removal are
those of unpacked layers (image_layers.py).
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from io import FileIO

from sandbox.as_container_root import run_with_ids
from sandbox.errors import ImageError, SandboxError, StateError
from sandbox.images.archive_names import ArchiveNames
from sandbox.images.blobs import BlobStore
from sandbox.images.layer_store import key_of_ids_for
from sandbox.images.mounted_archives import MEMBERS, open_members
from sandbox.images.oci.digest import Digest
from sandbox.images.places import layers_in
from sandbox.images.stored_images import is_of_file
from sandbox.images.unpacked_trees import StoredLayer, UnpackedTrees, digest
from unionfs._stdlib.dataclasses import replace
from unionfs.layer_index.archive_frames import LARGEST_FRAME
from unionfs.layer_index.format import VERSION, DamagedError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.images.reading import Progress
    from sandbox.plan import IdPlan
    from sandbox.plan.image_values import ImageLayer

_FORMAT = 1  # incremented when indexing changes
_BLOB = "blob"
_DIGITS = 200  # the most bytes of a recorded digest


class MountedLayers:
    """The indexes of the layers of images in one image directory."""

    def __init__(self, images: str, progress: Callable[[], Progress] | None = None) -> None:
        """Use the image directory *images*; *progress* creates the receiver of reports for each layer that is indexed."""
        self._images = images
        self._trees = UnpackedTrees(layers_in(images))
        self._progress = progress
        #: The layers that this object has indexed, and so verified, by their keys.
        self.made: dict[str, ImageLayer] = {}

    def open(self, image: Sequence[ImageLayer], ids: IdPlan, source: str) -> list[StoredLayer]:
        """Return the layers of *image*, bottom first, indexed under *ids*; index those that are missing. The caller closes them.

        *source* is the name of the image in the store, for messages.

        Raises:
            ImageError: the store has no blob of a layer, it is damaged, or its files cannot be read where they are.
            SandboxError: it cannot be indexed under *ids*.
        """
        found: list[StoredLayer] = []
        with ExitStack() as undo:
            for number, layer in enumerate(image):
                found.append(self._open(layer, image[:number], found, ids, source))
                undo.callback(found[-1].close)
            undo.pop_all()
        return found

    def _open(
        self,
        layer: ImageLayer,
        below: Sequence[ImageLayer],
        opened: Sequence[StoredLayer],
        ids: IdPlan,
        source: str,
    ) -> StoredLayer:
        keys = _key(layer, ids), _key(layer, ids, below)
        blob = Digest.parse(layer.digest)
        found = self._find(keys, blob)
        if found is not None:
            return found
        diff_id = layer.diff_id.partition(":")[2]
        notices: list[str] = []

        def fill(building: str, _tree_fd: int) -> str:
            used_below, lines = self._fill(layer, opened, building, ids, source)
            notices.extend(lines)
            return keys[used_below]

        with self._trees.importing(diff_id) as lock:
            found = self._find(keys, blob)  # another process may have made it meanwhile
            if found is not None:
                return found
            self._trees.make(diff_id, ids, fill, lock=lock, step=f"layer {layer.diff_id}")
            found = self._find(keys, blob)
            if found is None:
                raise ImageError(
                    f"{source}: the index of layer {layer.digest} is damaged, and another sandbox uses it",
                    hint="end the other sandbox, and start again",
                )
        self.made[os.path.basename(found.place)] = layer
        return replace(found, notices=tuple(notices))

    def _find(self, keys: Sequence[str], blob: Digest) -> StoredLayer | None:
        """Open the index with one of *keys*, with a descriptor of *blob*; None if it is missing or damaged."""
        for key in keys:
            layer = self._trees.open(key)
            if layer is None:
                continue
            blobs = BlobStore(self._images)
            try:
                members_fd = open_members(layer.place, blobs.size(blob))
            except (OSError, DamagedError):
                layer.close()
                self._trees.discard_unused(key)
                continue
            try:
                return replace(layer, members_fd=members_fd, archive_fd=blobs.open(blob))
            except BaseException:
                os.close(members_fd)
                layer.close()
                raise
        return None

    def _fill(
        self, layer: ImageLayer, opened: Sequence[StoredLayer], building: str, ids: IdPlan, source: str
    ) -> tuple[bool, list[str]]:
        """Index *layer* over the layers *opened*; return whether the index depends on them, and messages about what is left out."""
        # Imported before the child is forked, which may be unable to read this Python's files.
        from sandbox.images.indexing import MAGIC, Indexing
        from sandbox.images.layer_stream import Expected, LayerStream
        from sandbox.images.lower_layers import LowerLayers
        from sandbox.images.reading import NoProgress, followed

        expected = Expected(digest=layer.digest, size=layer.size, diff_id=layer.diff_id)
        names = [names_of(one) for one in reversed(opened)]
        progress = NoProgress() if self._progress is None else self._progress()
        with ExitStack() as undo:
            fd = BlobStore(self._images).open(Digest.parse(layer.digest))
            undo.callback(os.close, fd)
            output = undo.enter_context(open(os.path.join(building, MEMBERS), "xb"))
            stream = undo.enter_context(LayerStream(FileIO(fd, closefd=False), "layer", expected))
            indexing = Indexing(
                stream,
                os.pread(fd, MAGIC, 0),
                lambda archive: archive,
                not_seekable=lambda pieces: not_seekable(source, layer, pieces),
            )

            def action() -> str:
                report = indexing.run(output, ids, layer.size, lambda: LowerLayers(None, names))
                notices = "".join(f"layer {layer.diff_id}: {notice}\n" for notice in report.notices())
                return f"{'used below' if report.used_below else ''}\n{notices}"

            meanwhile = undo.enter_context(followed(progress, "index", f"layer {layer.digest}", fd))
            first, _, lines = run_with_ids(ids, action, meanwhile).partition("\n")
        with open(os.path.join(building, _BLOB), "x", encoding="ascii") as record:
            record.write(layer.digest)
        return bool(first), lines.splitlines()

    def discard_made(self) -> None:
        """Remove the indexes that this object has made, unless another process uses them."""
        for key in self.made:
            with suppress(OSError, SandboxError):  # `sandbox prune` tries again
                self._trees.discard_unused(key)


def names_of(layer: StoredLayer) -> ArchiveNames:
    """Return the names in *layer*, which is indexed."""
    assert layer.archive_fd is not None
    assert layer.members_fd is not None
    return ArchiveNames(layer.members_fd, os.fstat(layer.archive_fd).st_size)


def not_seekable(source: str, layer: ImageLayer, pieces: int) -> ImageError:
    """Return the error for *layer* of the image *source*, which consists of *pieces*, with the command that repacks the image."""
    from sandbox.images.archive_index import UNPACK

    exported = ""
    if not is_of_file(source):
        exported, source = f"sandbox export image:{source} oci:plain && ", "oci:plain"
    repack = (
        f"pack the image again in such pieces: {exported}skopeo copy --dest-compress-format zstd:chunked {source} "
        "oci:seekable:1; or "
    )
    return ImageError(
        f"layer {layer.digest}: its files cannot be read where they are: it is not compressed in pieces of at most "
        f"{LARGEST_FRAME >> 20} MiB",
        # skopeo makes one piece of a large file with nothing but repetitions.
        hint=(repack if pieces <= 1 else "") + UNPACK,
    )


def open_recorded_layer(images: str, place: str) -> tuple[int, int]:
    """Return descriptors of the blob and of the index of the layer in the directory *place* of the image directory *images*.

    Raises:
        StateError: the store has not the blob any more, or the index is damaged.
        FileNotFoundError: there is no index.
        OSError: it cannot be opened.
    """
    with open(os.path.join(place, _BLOB), encoding="ascii", errors="replace") as file:
        recorded = file.read(_DIGITS)
    try:
        blobs, blob = BlobStore(images), Digest.parse(recorded)
        members_fd = open_members(place, blobs.size(blob))
    except ValueError as error:  # a damaged index, or digest
        raise StateError(
            f"the index in {place}: {error}", hint="start the sandbox once, which makes it again"
        ) from None
    try:
        return blobs.open(blob), members_fd
    except ImageError as error:
        os.close(members_fd)
        raise StateError(error.message, hint=error.hint) from None


def _key(layer: ImageLayer, ids: IdPlan, below: Sequence[ImageLayer] | None = None) -> str:
    """Return the key of *layer* under *ids*; with *below*, that of a layer that depends on these layers."""
    facts = key_of_ids_for(ids, "mounted", _FORMAT, VERSION, layer.digest)
    key = f"{layer.diff_id.partition(':')[2]}-{facts}"
    return key if below is None else f"{key}-{digest([one.diff_id for one in below])}"
