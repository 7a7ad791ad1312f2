"""Remove images from the store, and everything that no image and no sandbox uses any more; verify what is there.

A blob or an unpacked layer stays while the record of an image names it, or while a sandbox uses it: a running one has the lock of
its layers, and the record of a writable layer that is kept names the layers below it.

An import has a shared lock on IMAGES/use.lock, and a removal of blobs an exclusive one, so that it removes no blob whose record is
about to be written.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress

from sandbox.errors import ImageError, SandboxError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.oci.digest import Digest
from sandbox.images.places import layers_in
from sandbox.images.stored_images import StoredImages, check_new_name, missing, normalized
from sandbox.images.unpacked_trees import UnpackedTrees
from sandbox.state.runs import list_runs, paths_in
from sandbox.state.stack_record import RecordedStack
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.images.stored_images import ImageRecord
    from sandbox.state.location import Locations
    from sandbox.state.stack_record import RecordedLayer

_LOCK = "use.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a removal has removed: images without a name, blobs and unpacked layers, and the bytes of the blobs."""

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
    users = [
        f"the running sandbox {run.shown()}"
        for run in list_runs(where.state)
        if run.state != "ended"
        and run.record is not None
        and any(_is_of(image, digest) for image in run.record.images)
    ]
    for title, layers in _kept_layers(where.state):
        if any(layer.kind == "image" and _is_of(layer.path, digest) for layer in layers):
            users.append(title)
    return users


def remove(where: Locations, names: Sequence[str]) -> Collected:
    """Remove *names* from the store, and what then has no name and no use.

    Raises:
        ImageError: the store has no such image.
        StateError: a sandbox uses the image, and it has no other name.
    """
    stored = StoredImages(where.images)
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
    with stored.changing() as known:
        found = stored.find(name)
        if found is None:
            raise missing(name)
        known[new] = type(found)(
            name=new, digest=found.digest, index=found.index, source=found.source, time=found.time
        )


def unused(where: Locations) -> list[str]:
    """Return the names of the images that no running sandbox and no kept layer uses."""
    names = StoredImages(where.images).names().values()
    return sorted(one.name for one in names if not users_of(where, one.digest))


def collect(where: Locations) -> Collected:
    """Remove the images without a name that nothing uses, and the blobs, layers and partial blobs that no image has.

    Raises:
        SandboxError: a layer cannot be removed, as this account no longer has the ids of its files.
    """
    stored, blobs = StoredImages(where.images), BlobStore(where.images)
    if not os.path.isdir(where.images):
        return Collected()
    with _locked(where.images, fcntl.LOCK_EX):
        with stored.changing() as known:
            named = {one.digest for one in known.values()}
            indexes = {one.index for one in known.values() if one.index}
            gone = [
                one.digest
                for one in stored.records()
                if one.digest not in named and not users_of(where, one.digest)
            ]
            for digest in gone:
                stored.remove_record(digest)
        records = stored.records()
        wanted = indexes | {digest for record in records for digest in _digests(record)}
        removed, size = [], 0
        for blob in blobs.digests():
            if str(blob) not in wanted:
                size += blobs.remove(blob)
                removed.append(str(blob))
        blobs.remove_partial()
        layers = _remove_layers(where, records)
    return Collected(images=tuple(gone), blobs=tuple(removed), layers=tuple(layers), bytes=size)


def _digests(record: ImageRecord) -> Iterator[str]:
    yield record.digest
    yield record.config
    for layer in record.layers:
        yield layer.digest


def _remove_layers(where: Locations, records: Sequence[ImageRecord]) -> list[str]:
    trees = UnpackedTrees(layers_in(where.images))
    wanted = {layer.diff_id.partition(":")[2] for record in records for layer in record.layers}
    kept = {
        layer.place for _, layers in _kept_layers(where.state) for layer in layers if layer.kind == "image"
    }
    gone = [
        name
        for name in trees.names()
        if name.partition("-")[0] not in wanted and name not in kept and trees.discard_unused(name)
    ]
    trees.remove_interrupted()
    return gone


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


def _is_of(identity: str, digest: str) -> bool:
    return identity.endswith(f"@{digest}")


def verify(images: str) -> list[str]:
    """Return the problems of the store as text: blobs that are missing or differ from their digest, and damaged records.

    Every blob is read, and every layer is decompressed to compare its diff id.
    """
    from sandbox.images.layer_stream import Expected, LayerStream

    stored, blobs = StoredImages(images), BlobStore(images)
    problems = [
        f"{name.name}: the record of {name.digest} is missing or damaged"
        for name in stored.names().values()
        if stored.record(name.digest) is None
    ]
    checked: set[str] = set()
    for record in stored.records():
        for layer in record.layers:
            checked.add(layer.digest)
            expected = Expected(digest=layer.digest, size=layer.size, diff_id=layer.diff_id)
            try:
                fd = blobs.open(Digest.parse(layer.digest))
                with open(fd, "rb", buffering=0) as blob, LayerStream(blob, "layer", expected) as stream:
                    for _ in stream.open_archive():
                        pass
                    stream.finish()
            except SandboxError as error:
                problems.append(error.message)
        problems += [
            f"{record.digest}: the blob {digest} is missing"
            for digest in _digests(record)
            if not blobs.has(Digest.parse(digest))
        ]
    problems += [
        f"the content of the blob {digest} has another digest"
        for digest in blobs.digests()
        if str(digest) not in checked and not _is_whole(blobs, digest)
    ]
    return sorted(set(problems))


def _is_whole(blobs: BlobStore, digest: Digest) -> bool:
    from sandbox.images.oci.digest import new_hash

    found = new_hash(digest.algorithm)
    with open(blobs.open(digest), "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return bool(found.hexdigest() == digest.hex)
