"""Add an image to the store for a user: from any source, under a name, and unpacked for the user's usual id maps."""

from __future__ import annotations

from sandbox.images.blobs import BlobStore
from sandbox.images.image_layers import ImageLayers
from sandbox.images.importing import host_platform, import_image
from sandbox.images.mounted_layers import MountedLayers
from sandbox.images.oci.platforms import Platform
from sandbox.images.places import fetched_in_part, scratch_in
from sandbox.images.stored_images import StoredImages, check_new_name, normalized
from sandbox.images.transports.opening import open_source
from sandbox.images.verification import check_layer
from sandbox.state.directory import make_image_directory
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox.images.importing import BlobProgress, Unpack
    from sandbox.images.reading import Progress
    from sandbox.images.stored_images import ImageRecord
    from sandbox.images.unpacked_trees import StoredLayer
    from sandbox.plan import IdPlan
    from sandbox.state.location import Locations


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """An image that is in the store now: its name with the tag, and the digest of its manifest."""

    name: str
    digest: str


def add(
    where: Locations,
    source: str,
    name: str,
    *,
    ids: IdPlan | None,
    platform: str | None = None,
    warn: Callable[[str], None],
    progress: BlobProgress | None = None,
    unpacking: Callable[[], Progress] | None = None,
) -> Added:
    """Import the image of *source* as *name*, and unpack its layers under *ids*, unless these are None.

    *platform* is OS/ARCHITECTURE[/VARIANT]; None for that of this machine. *warn* gets messages about objects that are left out.
    *progress* receives reports while blobs are copied, and *unpacking* creates a receiver for layers that are unpacked.

    Raises:
        ImageError: *name* is no name of an image, or the image cannot be imported or unpacked.
        StateError: the image directory cannot be written.
    """
    name = normalized(check_new_name(name))
    wanted = host_platform() if platform is None else Platform.parse(platform)
    make_image_directory(where.images)
    opened = open_source(source, scratch_in(where.images))
    try:
        record = import_image(
            where.images,
            opened,
            wanted,
            name,
            progress,
            prepare=None if ids is None else unpacker(where.images, ids, warn, unpacking),
            resumable=False,
            required=platform is not None,
            repair=True,
        )
    finally:
        opened.close()
    return Added(name=name, digest=record.digest)


def unpacker(
    images: str,
    ids: IdPlan,
    warn: Callable[[str], None],
    progress: Callable[[], Progress] | None = None,
) -> Unpack:
    """Return :func:`unpack` with these arguments."""

    def prepare(record: ImageRecord, mounted: str | None = None, /) -> None:
        unpack(images, record, ids, warn, progress, mounted=mounted)

    return prepare


def unpack(
    images: str,
    record: ImageRecord,
    ids: IdPlan,
    warn: Callable[[str], None],
    progress: Callable[[], Progress] | None = None,
    *,
    mounted: str | None = None,
) -> None:
    """Unpack and verify the layers of the image *record* under *ids*. *warn* gets messages about objects that are left out.

    *progress* creates the receiver of reports if layers have to be unpacked. With *mounted*, the name of the image in the store,
    the layers are indexed instead. Those that were fetched in part are always indexed. After an error, the layers that were unpacked or indexed are removed again.

    Raises:
        ImageError: a layer is damaged, or cannot be unpacked or indexed.
    """
    partial = fetched_in_part(images, record.layers)
    layers: ImageLayers | MountedLayers
    opened: list[StoredLayer] = []
    try:
        if mounted is None and not partial:
            layers = ImageLayers(images, progress)
            opened = layers.open(record.layers, ids)
        else:
            layers = MountedLayers(images, progress)
            name = mounted or record.digest
            opened = layers.open(record.layers, ids, name, mounted=mounted is not None, partial=partial)
        # Unpacking verifies a layer. One whose diff id was unpacked before, from another blob, is verified here.
        known = set(layers.made.values())
        known.update(layer for one in StoredImages(images).records() for layer in one.layers)
        for layer in record.layers:
            if layer not in known and layer.table not in partial:
                check_layer(BlobStore(images), "layer", layer)
    except BaseException:
        _close(opened)
        layers.discard_made()
        raise
    _close(opened)
    for stored in opened:
        for notice in stored.notices:
            warn(notice)


def _close(layers: Iterable[StoredLayer]) -> None:
    for layer in layers:
        layer.close()
