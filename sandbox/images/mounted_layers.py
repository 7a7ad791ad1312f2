"""Index layers of images once for each id map, so that the file system server can read their files where they are.

    IMAGES/layers/DIFFID-FACTS/         the index of a layer, as `mounted_archives` has it, in `members`
    IMAGES/layers/DIFFID-FACTS-BELOW/   that of one with directories whose attributes are those of the layers below

The contents are in the blob of the layer, or in the chunks of it that were fetched; of these, the directory also has the table,
`chunks`. FACTS is a digest of the id map and of the digest of the blob, because the index has offsets in the blob. Locks and removal
are those of unpacked layers (image_layers.py).

The diff id of a layer that is fetched in part cannot be compared. Its content is identified by the digest of its table.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from io import FileIO

from sandbox.as_container_root import run_with_ids
from sandbox.errors import ImageError, SandboxError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.image_layers import ImageLayers, contents_of, names_of
from sandbox.images.layer_store import key_of_ids_for
from sandbox.images.mounted_archives import MEMBERS, open_members
from sandbox.images.oci.digest import Digest
from sandbox.images.places import layers_in
from sandbox.images.stored_images import is_of_file
from sandbox.images.unpacked_trees import StoredLayer, UnpackedTrees, digest
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import NamedTuple, Self
from unionfs.layer_index.archive_chunks import ChunkTable
from unionfs.layer_index.archive_frames import LARGEST_FRAME
from unionfs.layer_index.format import VERSION, DamagedError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sandbox.images.archive_names import ArchiveNames
    from sandbox.images.reading import Progress
    from sandbox.images.report import UnpackReport
    from sandbox.plan import IdPlan
    from sandbox.plan.image_values import ImageLayer

_FORMAT = 1  # incremented when indexing changes
_BLOB = "blob"
CHUNKS = "chunks"
"""The name of the table of chunks in the directory of a layer that is fetched in part."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIGITS = 400  # the most bytes of recorded digests


class MountedLayers:
    """The indexes of the layers of images in one image directory."""

    def __init__(self, images: str, progress: Callable[[], Progress] | None = None) -> None:
        """Use the image directory *images*; *progress* creates the receiver of reports for each layer that is indexed."""
        self._images = images
        self._trees = UnpackedTrees(layers_in(images))
        self._progress = progress
        #: The layers that this object has indexed, and so verified, by their keys.
        self.made: dict[str, ImageLayer] = {}

    def open(
        self,
        image: Sequence[ImageLayer],
        ids: IdPlan,
        source: str,
        *,
        mounted: bool = True,
        partial: Collection[str] = (),
    ) -> list[StoredLayer]:
        """Return the layers of *image*, bottom first, under *ids*; index or unpack those that are missing. The caller closes them.

        Args:
            image: the layers.
            ids: the ids of the sandbox.
            source: the name of the image in the store, for messages.
            mounted: index all layers. Otherwise those are unpacked that are not in *partial*.
            partial: the tables of the layers that are fetched in part, which are indexed by their tables.

        Raises:
            ImageError: the store has no blob of a layer, it is damaged, or its files cannot be read where they are.
            SandboxError: it cannot be indexed or unpacked under *ids*.
        """
        indexed: dict[int, StoredLayer] = {}
        notices: dict[int, tuple[str, ...]] = {}
        unpacking = ImageLayers(self._images, self._progress)
        with ExitStack() as undo:
            for number, layer in enumerate(image):
                in_part = layer.table in partial
                if not (mounted or in_part):
                    continue
                below = unpacking.open(image[:number], ids, indexed)
                try:
                    contents = contents_of(image[:number], indexed)
                    indexed[number] = self._open(layer, below, contents, ids, source, in_part=in_part)
                finally:
                    for at, stored in enumerate(below):
                        if at not in indexed:
                            stored.close()
                            notices[at] = notices.get(at, ()) + stored.notices
                undo.callback(indexed[number].close)
            found = unpacking.open(image, ids, indexed)
            self.made |= unpacking.made
            undo.pop_all()
        return [
            replace(stored, notices=notices.get(number, ()) + stored.notices)
            for number, stored in enumerate(found)
        ]

    def _open(
        self,
        layer: ImageLayer,
        below: Sequence[StoredLayer],
        contents: Sequence[str],
        ids: IdPlan,
        source: str,
        *,
        in_part: bool,
    ) -> StoredLayer:
        recorded = Recorded(layer.digest, layer.table if in_part else "")
        facts = ("lazy", _FORMAT, layer.table) if in_part else ("mounted", _FORMAT)
        key = f"{layer.diff_id.partition(':')[2]}-{key_of_ids_for(ids, VERSION, layer.digest, *facts)}"
        keys = key, f"{key}-{digest(list(contents))}"
        found = self._find(keys, recorded)
        if found is not None:
            return found
        diff_id = layer.diff_id.partition(":")[2]
        notices: list[str] = []

        def fill(building: str, _tree_fd: int) -> str:
            names = [names_of(one) if one.members_fd is not None else one.tree_fd for one in reversed(below)]
            write = self._index_table if in_part else self._index_blob
            report = write(layer, names, building, ids, source)
            used_below, _, lines = report.partition("\n")
            notices.extend(lines.splitlines())
            recorded.write(building)
            return keys[bool(used_below)]

        with self._trees.importing(diff_id) as lock:
            found = self._find(keys, recorded)  # another process may have made it meanwhile
            if found is not None:
                return found
            self._trees.make(diff_id, ids, fill, lock=lock, step=f"layer {layer.diff_id}")
            found = self._find(keys, recorded)
            if found is None:
                raise ImageError(
                    f"{source}: the index of layer {layer.digest} is damaged, and another sandbox uses it",
                    hint="end the other sandbox, and start again",
                )
        self.made[os.path.basename(found.place)] = layer
        return replace(found, notices=tuple(notices))

    def _find(self, keys: Sequence[str], recorded: Recorded) -> StoredLayer | None:
        """Open the index of the layer *recorded* with one of *keys*, and its contents; None if it is missing or damaged."""
        for key in keys:
            stored = self._trees.open(key)
            if stored is None:
                continue
            try:
                fds = open_indexed(self._images, stored.place, recorded)
            except (OSError, DamagedError):
                stored.close()
                self._trees.discard_unused(key)
                continue
            except BaseException:
                stored.close()
                raise
            content = f"table {recorded.table}" if recorded.table else ""
            return replace(
                stored,
                archive_fd=fds.archive_fd,
                members_fd=fds.members_fd,
                chunks_fd=fds.chunks_fd,
                content=content,
            )
        return None

    def _index_blob(
        self,
        layer: ImageLayer,
        below: Sequence[int | ArchiveNames],
        building: str,
        ids: IdPlan,
        source: str,
    ) -> str:
        """Index *layer* over the layers *below*; return whether the index depends on them, and messages about what is left out."""
        # Imported before the child is forked, which may be unable to read this Python's files.
        from sandbox.images.indexing import MAGIC, Indexing
        from sandbox.images.layer_stream import Expected, LayerStream
        from sandbox.images.lower_layers import LowerLayers
        from sandbox.images.reading import NoProgress, followed

        expected = Expected(digest=layer.digest, size=layer.size, diff_id=layer.diff_id)
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
                report = indexing.run(output, ids, layer.size, lambda: LowerLayers(None, below))
                return _as_text(layer, report)

            meanwhile = undo.enter_context(followed(progress, "index", f"layer {layer.digest}", fd))
            return run_with_ids(ids, action, meanwhile)

    def _index_table(
        self,
        layer: ImageLayer,
        below: Sequence[int | ArchiveNames],
        building: str,
        ids: IdPlan,
        source: str,
    ) -> str:
        """Index *layer* by its table as `_index_blob` does, and write the table of its chunks."""
        # Imported before the child is forked, as there.
        from sandbox.images.chunked.partial_layers import PartialLayers
        from sandbox.images.chunked.table_archive import TableArchive, index_table
        from sandbox.images.lower_layers import LowerLayers

        partial, table = PartialLayers(self._images), Digest.parse(layer.table)
        place = partial.place(table)._replace(digest=layer.table)
        archive = TableArchive(partial.table(table), place, f"{source}: layer {layer.digest}")
        with (
            open(os.path.join(building, MEMBERS), "xb") as output,
            open(os.path.join(building, CHUNKS), "xb") as chunks,
        ):

            def action() -> str:
                report = index_table(archive, output, chunks, ids, lambda: LowerLayers(None, below))
                return _as_text(layer, report)

            return run_with_ids(ids, action)

    def discard_made(self) -> None:
        """Remove the indexes that this object has made, unless another process uses them."""
        for key in self.made:
            with suppress(OSError, SandboxError):  # `sandbox prune` tries again
                self._trees.discard_unused(key)


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


class IndexedFds(NamedTuple):
    """The descriptors of an indexed layer."""

    #: Of the blob, or of the data that is being fetched; for reading.
    archive_fd: int
    members_fd: int
    #: Of the table of chunks, if it is fetched in part.
    chunks_fd: int | None


class Recorded(NamedTuple):
    """What the index of a layer is of: the digest of the blob, and that of the table if it is fetched in part, else ""."""

    blob: str
    table: str

    @classmethod
    def read(cls, place: str) -> Self:
        """Return what the index in the directory *place* is of. The digests may be damaged. Raises OSError."""
        with open(os.path.join(place, _BLOB), encoding="ascii", errors="replace") as file:
            blob, _, table = file.read(_DIGITS).partition(" ")
        return cls(blob, table)

    def write(self, place: str) -> None:
        """Write the digests for :meth:`read`. Raises OSError."""
        with open(os.path.join(place, _BLOB), "x", encoding="ascii") as file:
            file.write(" ".join(self).rstrip())


def open_indexed(images: str, place: str, layer: Recorded) -> IndexedFds:
    """Open the index of *layer* in the directory *place*, and the contents in the image directory *images*.

    Raises:
        DamagedError: the index or the table of chunks is damaged.
        ImageError: the store has not the contents any more.
        OSError: the index cannot be opened.
    """
    with ExitStack() as undo:

        def opened(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        chunks_fd = None
        if layer.table:
            from sandbox.images.chunked.partial_layers import PartialLayers

            chunks_fd = opened(os.open(os.path.join(place, CHUNKS), _READ))
            size = ChunkTable(os.pread(chunks_fd, os.fstat(chunks_fd).st_size, 0)).size
            table = Digest.parse(layer.table)
            os.close(PartialLayers(images).open_data(table, size))
            archive_fd = opened(os.open(PartialLayers(images).data(table), _READ))
        else:
            archive_fd = opened(BlobStore(images).open(Digest.parse(layer.blob)))
            size = os.fstat(archive_fd).st_size
        fds = IndexedFds(archive_fd, open_members(place, size), chunks_fd)
        undo.pop_all()
    return fds


def _as_text(layer: ImageLayer, report: UnpackReport) -> str:
    notices = "".join(f"layer {layer.diff_id}: {notice}\n" for notice in report.notices())
    return f"{'used below' if report.used_below else ''}\n{notices}"


def open_recorded_layer(images: str, place: str) -> IndexedFds:
    """Open the contents and the index of the layer in the directory *place* of the image directory *images*.

    Raises:
        StateError: the store has not the contents any more, or the index is damaged.
        FileNotFoundError: there is no index.
        OSError: it cannot be opened.
    """
    try:
        return open_indexed(images, place, Recorded.read(place))
    except ValueError as error:  # a damaged index, or digest
        raise StateError(
            f"the index in {place}: {error}", hint="start the sandbox once, which makes it again"
        ) from None
    except ImageError as error:
        raise StateError(error.message, hint=error.hint) from None
