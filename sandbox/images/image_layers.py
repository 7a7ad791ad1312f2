"""Unpack each layer of an image once for each id map. All images and sandboxes share the result.

    IMAGES/layers/DIFFID-IDS/          a layer, by the digits of its diff id
    IMAGES/layers/DIFFID-IDS-BELOW/    one whose content depends on the layers below, by their diff ids, too

A layer depends on those below only if it has a hard link to a file of theirs, or leaves out a directory that contains its files.
Missing layers are unpacked in parallel. A process that needs the layers below waits until the processes that unpack them have
ended.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from io import FileIO

from sandbox.as_container_root import Child, start_with_ids
from sandbox.errors import SandboxError
from sandbox.images.places import layers_in
from sandbox.images.unpacked_trees import NewTree, StoredLayer, UnpackedTrees, digest, key_of_ids
from sandbox.kernel.rlimits import most_open_files
from sandbox.plan import IdPlan
from unionfs._stdlib.dataclasses import replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandbox.images.archive_names import ArchiveNames
    from sandbox.images.reading import Progress
    from sandbox.plan.image_values import ImageLayer

_FORMAT = 1  # incremented when unpacking changes, so that layers of older versions are not used
_USED_BELOW = "used below"
NOT_INDEXED: Mapping[int, StoredLayer] = {}


class ImageLayers:
    """The unpacked layers of the images in one image directory."""

    def __init__(self, images: str, progress: Callable[[], Progress] | None = None) -> None:
        """Use the image directory *images*; *progress* creates the receiver of reports if layers have to be unpacked."""
        self._images = images
        self.trees = UnpackedTrees(layers_in(images))
        self._progress = progress
        #: The layers that this object has unpacked, and so verified, by their keys.
        self.made: dict[str, ImageLayer] = {}

    def open(
        self, image: Sequence[ImageLayer], ids: IdPlan, indexed: Mapping[int, StoredLayer] = NOT_INDEXED
    ) -> list[StoredLayer]:
        """Return the layers of *image*, bottom first, unpacked under *ids*; unpack those that are missing. The caller closes them.

        *indexed* are layers that are not unpacked, by their numbers in *image*. They are returned as they are.

        Raises:
            ImageError: the store has no blob of a layer, or it is damaged or cannot be unpacked.
            SandboxError: it cannot be unpacked under *ids*.
        """
        notices: dict[int, tuple[str, ...]] = {}
        while True:
            with ExitStack() as undo:
                found = self._find(image, ids, undo, indexed)
                if None not in found:
                    undo.pop_all()
                    break
            # Usually once. A layer that an image has twice may depend on other layers below each time.
            with most_open_files():  # each missing layer needs nine, and images may have 127
                notices |= self._make_missing(image, ids, indexed)
        return [
            replace(layer, notices=notices[number]) if number in notices else layer
            for number, layer in enumerate(found)
            if layer is not None
        ]

    def _find(
        self,
        image: Sequence[ImageLayer],
        ids: IdPlan,
        undo: ExitStack,
        indexed: Mapping[int, StoredLayer],
    ) -> list[StoredLayer | None]:
        """Open the layers that are unpacked; None for the others. *undo* closes them."""
        found: list[StoredLayer | None] = []
        for number, layer in enumerate(image):
            if number in indexed:
                found.append(indexed[number])
                continue
            below = contents_of(image[:number], indexed)
            stored = self.trees.open(_key(layer, ids)) or self.trees.open(_key(layer, ids, below))
            if stored is not None:
                undo.callback(stored.close)
            found.append(stored)
        return found

    def _make_missing(
        self, image: Sequence[ImageLayer], ids: IdPlan, indexed: Mapping[int, StoredLayer]
    ) -> dict[int, tuple[str, ...]]:
        """Unpack the missing layers of *image*; return messages about objects that were left out, by the number of the layer."""
        with ExitStack() as undo:
            # Sorted, because two processes that wait for each other's locks would wait for ever.
            found = self._find(image, ids, undo, indexed)
            sources = sorted(
                {_hex(layer) for layer, stored in zip(image, found, strict=True) if stored is None}
            )
            locks = {source: undo.enter_context(self.trees.importing(source)) for source in sources}
            found = self._find(image, ids, undo, indexed)  # another process may have unpacked some meanwhile
            contents = contents_of(image, indexed)
            unpacking = _Unpacking(self._images, image, contents, ids, self._progress)
            for number, (layer, stored) in enumerate(zip(image, found, strict=True)):
                source = _hex(layer)
                if stored is not None:
                    unpacking.add_complete(stored)
                elif source in locks:
                    lock = locks.pop(source)
                    step = f"layer {layer.diff_id}"
                    unpacking.add_new(
                        number, undo.enter_context(self.trees.new_tree(source, ids, lock=lock, step=step))
                    )
                else:
                    unpacking.add_equal(number)
            try:
                return unpacking.run()
            finally:
                self.made |= unpacking.published

    def discard_made(self) -> None:
        """Remove the layers that this object has unpacked, unless another process uses them."""
        for key in self.made:
            with suppress(OSError, SandboxError):  # `sandbox prune` tries again
                self.trees.discard_unused(key)


class _Unpacking:
    """The missing layers of one image while they are unpacked. :meth:`ImageLayers.open` creates it."""

    def __init__(
        self,
        images: str,
        image: Sequence[ImageLayer],
        contents: Sequence[str],
        ids: IdPlan,
        progress: Callable[[], Progress] | None,
    ) -> None:
        self._images = images
        self._image = image
        self._contents = contents
        self._ids = ids
        self._progress = progress
        self._trees: list[int | ArchiveNames] = []  # of all layers, bottom first
        self._new: dict[int, NewTree] = {}
        self._blobs: dict[int, int] = {}  # descriptors, whose offsets show the progress
        self._ended: dict[int, int] = {}  # the ends of pipes that reach their end when the process has ended
        self._running: dict[int, Child] = {}
        #: The layers that are unpacked, by their keys.
        self.published: dict[str, ImageLayer] = {}

    def add_complete(self, stored: StoredLayer) -> None:
        """Add the next layer, which is unpacked or indexed."""
        if stored.members_fd is None:
            self._trees.append(stored.tree_fd)
        else:
            self._trees.append(names_of(stored))

    def add_new(self, number: int, tree: NewTree) -> None:
        """Add the next layer, the one with *number*, which is unpacked into *tree*."""
        self._trees.append(tree.fd)
        self._new[number] = tree

    def add_equal(self, number: int) -> None:
        """Add the next layer, which has the diff id of one below it that is missing."""
        wanted = self._image[number].diff_id
        below = next(index for index, layer in enumerate(self._image) if layer.diff_id == wanted)
        self._trees.append(self._trees[below])

    def run(self) -> dict[int, tuple[str, ...]]:
        """Unpack all; return messages about objects that were left out, by the number of the layer."""
        from sandbox.images.reading import NoProgress

        progress = NoProgress() if self._progress is None else self._progress()
        notices: dict[int, tuple[str, ...]] = {}
        at_once = len(os.sched_getaffinity(0))
        sizes = [self._image[number].size for number in self._new]
        progress.begin("unpack", f"{len(sizes)} layer{'s' * (len(sizes) != 1)}", sum(sizes))

        def meanwhile() -> None:
            progress.update(sum(os.lseek(fd, 0, os.SEEK_CUR) for fd in self._blobs.values()))

        with ExitStack() as undo:
            undo.callback(progress.end)
            undo.callback(self._end)
            for number in self._new:
                if len(self._running) == at_once:
                    notices |= self._finish_first(meanwhile)
                self._start(number, undo)
            while self._running:
                notices |= self._finish_first(meanwhile)
        return notices

    def _start(self, number: int, undo: ExitStack) -> None:
        """Start the process that unpacks the layer *number*: root of the ids, with a memory limit."""
        # Import here, and open the archive, which imports the module for its compression: the child process may be unable to
        # read this Python's files.
        from sandbox.images.blobs import BlobStore
        from sandbox.images.bounded import unpack_bounded
        from sandbox.images.layer_stream import Expected, LayerStream
        from sandbox.images.oci.digest import Digest

        layer = self._image[number]
        expected = Expected(digest=layer.digest, size=layer.size, diff_id=layer.diff_id)
        fd = BlobStore(self._images).open(Digest.parse(layer.digest))
        undo.callback(os.close, fd)
        self._blobs[number] = fd
        blob = undo.enter_context(FileIO(fd, closefd=False))
        stream = undo.enter_context(LayerStream(blob, "layer", expected))
        archive = undo.enter_context(stream.open_archive())
        tree, below = self._new[number].fd, self._trees[:number][::-1]
        waited_for = [end for other, end in self._ended.items() if other < number]
        reader, writer = os.pipe()
        undo.callback(os.close, reader)

        def until_complete() -> None:
            for end in waited_for:
                os.read(end, 1)  # nothing is written: it returns at the end

        def action() -> str:
            try:
                report = unpack_bounded(
                    archive, tree, single_id=self._ids.single, below=below, until_complete=until_complete
                )
                stream.finish()
            except OSError as error:
                raise _failure(layer, error) from None
            notices = "".join(f"layer {layer.diff_id}: {notice}\n" for notice in report.notices())
            return f"{_USED_BELOW if report.used_below else ''}\n{notices}"

        try:
            self._running[number] = start_with_ids(self._ids, action)
        finally:
            os.close(writer)  # the child alone keeps it open
        self._ended[number] = reader

    def _finish_first(self, meanwhile: Callable[[], None]) -> dict[int, tuple[str, ...]]:
        """Wait for the lowest layer that is being unpacked, and publish it."""
        number = next(iter(self._running))
        first, _, lines = self._running.pop(number).wait(meanwhile).partition("\n")
        layer = self._image[number]
        below = self._contents[:number] if first == _USED_BELOW else None
        key = _key(layer, self._ids, below)
        self._new[number].publish(key)
        self.published[key] = layer
        return {number: tuple(lines.splitlines())}

    def _end(self) -> None:
        for child in self._running.values():
            child.end()


def _failure(layer: ImageLayer, error: OSError) -> SandboxError:
    member = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SandboxError(
        f"layer {layer.digest} cannot be unpacked: {member}{(error.strerror or str(error)).lower()}",
        hint="free some space, or set SANDBOX_CACHE_DIR to another directory" if full else None,
    )


def _hex(layer: ImageLayer) -> str:
    return layer.diff_id.partition(":")[2]


def names_of(layer: StoredLayer) -> ArchiveNames:
    """Return the names in *layer*, which is indexed."""
    from sandbox.images.archive_names import ArchiveNames  # most images have no such layer

    assert layer.archive_fd is not None
    assert layer.members_fd is not None
    return ArchiveNames(layer.members_fd, os.fstat(layer.archive_fd).st_size)


def contents_of(image: Sequence[ImageLayer], indexed: Mapping[int, StoredLayer]) -> list[str]:
    """Return what identifies the content of each layer of *image*: the diff id, unless that of one of *indexed* is not verified."""
    return [
        (indexed[number].content if number in indexed else "") or layer.diff_id
        for number, layer in enumerate(image)
    ]


def _key(layer: ImageLayer, ids: IdPlan, below: Sequence[str] | None = None) -> str:
    """Return the key of *layer* under *ids*; with *below*, that of a layer that depends on layers with these contents."""
    key = f"{_hex(layer)}-{key_of_ids(ids, _FORMAT)}"
    return key if below is None else f"{key}-{digest(list(below))}"
