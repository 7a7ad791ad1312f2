"""Remove images from the store, and everything that no image and no sandbox uses any more.

A blob or an unpacked layer stays while the record of an image names it, or while a sandbox uses it: a running one has the lock of
its layers, and the record of a writable layer that is kept names the layers below it. The name that a start has given to the
image of a layout or an archive is removed once that file has changed or is gone.

The layers of builds are no exception, although a later build could reuse them (sandbox/builder/cache.py): those that no image has
are removed. Otherwise every changed step would leave its layer for ever.

An import has a shared lock on IMAGES/use.lock, and a removal of blobs an exclusive one, so that it removes no blob whose record is
about to be written.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress

from sandbox.errors import ImageError, SandboxError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.chunked.partial_layers import PartialLayers
from sandbox.images.file_versions import version_of
from sandbox.images.oci.digest import Digest
from sandbox.images.places import layers_in
from sandbox.images.stored_images import StoredImages, check_new_name, is_of_file, missing, normalized
from sandbox.images.transports.opening import split_reference
from sandbox.images.unpacked_trees import UnpackedTrees
from sandbox.state.runs import list_runs, paths_in
from sandbox.state.stack_record import RecordedStack
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sandbox.images.stored_images import ImageName, ImageRecord
    from sandbox.state.location import Locations
    from sandbox.state.stack_record import RecordedLayer

_LOCK = "use.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """What no image with a name and no sandbox uses."""

    #: The names of images whose files have changed or are gone.
    names: tuple[str, ...] = ()
    #: The digests of the manifests of images that have no other name.
    images: tuple[str, ...] = ()
    #: Digests and sizes in bytes.
    blobs: tuple[tuple[Digest, int], ...] = ()
    #: The tables of layers that were fetched in part, and the bytes that these take.
    partial: tuple[tuple[Digest, int], ...] = ()
    #: Keys of unpacked layers.
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a removal has removed: names, images without a name, blobs and unpacked layers, and the bytes of the blobs."""

    names: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    bytes: int = 0


@contextmanager
def importing(images: str) -> Iterator[None]:
    """Keep blobs of the image directory *images* from being removed while the context lasts."""
    with _locked(images, fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(images: str, operation: int) -> Iterator[None]:
    os.makedirs(images, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(images, _LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        os.close(fd)


def users_of(where: Locations, digest: str) -> list[str]:
    """Return what uses the image whose manifest is *digest*: running sandboxes, and writable layers that are kept."""
    return [user for user, digests in _uses(where) if digest in digests]


def _uses(where: Locations) -> list[tuple[str, frozenset[str]]]:
    """Return what uses images, each with the digests of their manifests."""
    found = [
        (f"the running sandbox {run.shown()}", run.record.images)
        for run in list_runs(where.state)
        if run.state != "ended" and run.record is not None
    ]
    found += [
        (title, tuple(layer.path for layer in layers if layer.kind == "image"))
        for title, layers in _kept_layers(where.state)
    ]
    return [(user, frozenset(one.rpartition("@")[2] for one in images)) for user, images in found]


def remove(where: Locations, names: Sequence[str]) -> Collected:
    """Remove *names* from the store, and what then has no name and no use.

    Raises:
        ImageError: the store has no such image.
        StateError: a sandbox uses the image, and it has no other name.
    """
    stored = StoredImages(where.images)
    if not os.path.isdir(where.images):
        if names:
            raise missing(names[0])
        return Collected()
    with stored.changing() as known:
        for name in names:
            entry = known.pop(normalized(name), None)
            if entry is None:
                raise _not_removable(stored, name)
            if all(other.digest != entry.digest for other in known.values()):
                users = users_of(where, entry.digest)
                if users:
                    raise StateError(
                        f"image {entry.name} is in use by {' and '.join(users)}",
                        hint="end or remove that first",
                    )
    return collect(where)


def _not_removable(stored: StoredImages, name: str) -> ImageError:
    """Return the error that the store has no name *name*; an image is not removed by a digest, because its names would stay."""
    found = stored.find(name) if "@" in name else None
    if found is None:
        return missing(name)
    return ImageError(f"{name} is the image {found.name}", hint=f"remove it by that name: {found.name}")


def tag(images: str, name: str, new: str) -> None:
    """Give the image *name* another name, *new*, which another image may have had.

    Raises:
        ImageError: the store has no image *name*, or *new* is not the name of an image.
    """
    stored = StoredImages(images)
    new = normalized(check_new_name(new))
    if not os.path.isdir(images):
        raise missing(name)
    with stored.changing() as known:
        found = stored.find(name)
        if found is None:
            raise missing(name)
        known[new] = type(found)(
            name=new, digest=found.digest, index=found.index, source=found.source, time=found.time
        )


def unused(where: Locations) -> list[str]:
    """Return the names of the images that no running sandbox and no kept layer uses."""
    used = _used(where)
    return sorted(one.name for one in StoredImages(where.images).names().values() if one.digest not in used)


def _used(where: Locations) -> frozenset[str]:
    return frozenset(digest for _, digests in _uses(where) for digest in digests)


def unused_parts(where: Locations, *, stale: bool = True) -> Unused:
    """Return what :func:`collect` would remove now. Changes nothing.

    Without *stale*, the images of files that have changed or are gone count as used.

    Raises:
        StateError: the file of names is damaged.
    """
    stored, blobs, used = StoredImages(where.images), BlobStore(where.images), _used(where)
    partial = PartialLayers(where.images)
    known = stored.names()
    old = [one.name for one in known.values() if stale and is_stale(one) and one.digest not in used]
    kept = [one for name, one in known.items() if name not in old]
    named = {one.digest for one in kept} | used
    records = stored.records()
    rest = [record for record in records if record.digest in named]
    wanted = {one.index for one in kept} | {digest for record in rest for digest in _digests(record)}
    return Unused(
        names=tuple(old),
        images=tuple(record.digest for record in records if record.digest not in named),
        blobs=tuple((one, blobs.size(one)) for one in blobs.digests() if str(one) not in wanted),
        partial=tuple((one, partial.size(one)) for one in partial.digests() if str(one) not in wanted),
        layers=tuple(_unused_layers(where, rest)),
    )


def collect(where: Locations) -> Collected:
    """Remove the images without a name that nothing uses, and the blobs, layers and partial blobs that no image has.

    Raises:
        StateError: the file of names is damaged.
        SandboxError: a layer cannot be removed, as this account no longer has the ids of its files; all else is removed.
    """
    stored, blobs = StoredImages(where.images), BlobStore(where.images)
    partial = PartialLayers(where.images)
    if not os.path.isdir(where.images):
        return Collected()
    trees = UnpackedTrees(layers_in(where.images))
    failure: SandboxError | None = None
    gone = []
    with _locked(where.images, fcntl.LOCK_EX):
        found = unused_parts(where)
        with stored.changing() as known:
            for name in found.names:
                known.pop(name, None)
            stored.remove_unreadable({one.digest for one in known.values()})
        for digest in found.images:
            stored.remove_record(digest)
        size = sum(blobs.remove(blob) for blob, _ in found.blobs)
        size += sum(partial.remove(blob) for blob, _ in found.partial)
        blobs.remove_partial()
        partial.remove_interrupted()
        for key in found.layers:
            try:
                if trees.discard_unused(key):
                    gone.append(key)
            except SandboxError as error:
                failure = failure or error
        trees.remove_interrupted()
    if failure is not None:
        raise failure
    return Collected(
        names=found.names,
        images=found.images,
        blobs=tuple(str(blob) for blob, _ in (*found.blobs, *found.partial)),
        layers=tuple(gone),
        bytes=size,
    )


def discard_unnamed(images: str, digests: Iterable[Digest]) -> None:
    """Remove those of the blobs *digests* that no image has, unless another import runs, which may be about to use them."""
    stored, blobs, partial = StoredImages(images), BlobStore(images), PartialLayers(images)
    with suppress(OSError, SandboxError), _locked(images, fcntl.LOCK_EX | fcntl.LOCK_NB):
        wanted = {one.index for one in stored.names().values()}
        wanted |= {digest for record in stored.records() for digest in _digests(record)}
        for digest in digests:
            if str(digest) not in wanted:
                blobs.remove(digest)
                partial.remove(digest)


def is_stale(name: ImageName) -> bool:
    """Return whether *name* is that of a file which has changed or is gone, so that no start uses it any more."""
    if not is_of_file(name.name):
        return False
    kind, _, rest = name.name.partition(":")
    version = version_of(split_reference(kind, rest)[0])
    return not version or version != name.version


def _digests(record: ImageRecord) -> Iterator[str]:
    yield record.digest
    yield record.config
    for layer in record.layers:
        yield layer.digest
        if layer.table:
            yield layer.table


def _unused_layers(where: Locations, records: Sequence[ImageRecord]) -> list[str]:
    """Return the keys of the unpacked layers that none of *records* and no kept writable layer names; running sandboxes have locks."""
    wanted = {layer.diff_id.partition(":")[2] for record in records for layer in record.layers}
    kept = {
        layer.place for _, layers in _kept_layers(where.state) for layer in layers if layer.kind == "image"
    }
    names = UnpackedTrees(layers_in(where.images)).names()
    return [name for name in sorted(names) if name.partition("-")[0] not in wanted and name not in kept]


def _kept_layers(state_directory: str) -> Iterator[tuple[str, Sequence[RecordedLayer]]]:
    """Yield the title and the layers below of each writable layer that is kept."""
    for part, kind in (("sandboxes", "layer"), ("changes", "changes")):
        try:
            paths = paths_in(os.path.join(state_directory, part))
        except OSError:
            continue
        for path in paths:
            with suppress(OSError, ValueError):
                stack = RecordedStack.read(read_json(os.path.join(path, "state.json")), path)
                if stack is not None:
                    yield f"{kind}:{os.path.basename(path)}", stack.layers
