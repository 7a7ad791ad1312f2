"""Find the images that an environment file names in the store, and fetch or import those that are missing.

An image that is in the store is found by reading two small files, without the code that reads images.
"""

from __future__ import annotations

from sandbox.errors import ImageError, SpecError
from sandbox.images.places import fetched_in_part
from sandbox.images.stored_images import StoredImages, missing
from sandbox.plan.storage import missing_image
from sandbox.spec.values.layers import IMAGE_KINDS
from unionfs._stdlib.dataclasses import dataclass, replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.importing import BlobProgress, Prepare, Unpack
    from sandbox.images.registry.settings import TlsSettings
    from sandbox.images.stored_images import ImageName, ImageRecord
    from sandbox.plan.image_values import StoredImage
    from sandbox.spec.model import Spec
    from sandbox.spec.values import Layer

    _Found = tuple[ImageName, ImageRecord] | tuple[None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """How to fetch or import the images that are missing."""

    #: Creates the receiver of reports on blobs.
    progress: Callable[[], BlobProgress]
    #: Unpacks the layers, before the image gets its name.
    unpack: Unpack
    #: `--authfile`, and the settings of TLS for registries.
    authfile: str | None = None
    tls: TlsSettings | None = None


def find_images(
    spec: Spec,
    images: str,
    *,
    fetch: Fetch | None = None,
    lock: str | None = None,
) -> dict[int, StoredImage]:
    """Return the images of *spec* in the image directory *images*, by the number of their layer.

    With *fetch*, fetch or import what is missing, as root.pull demands. *lock* is the path of a lock file: then images of
    registries are those with the digests in it, and another digest of any other source, also of an archive, is an error.

    Raises:
        SpecError: an image cannot be fetched or imported, or differs from the lock file, with its place in the file.
        StateError: the image directory cannot be read or written, or the lock file cannot be used.
    """
    locked = None if lock is None else _Lock(lock, spec)
    finder = _Finder(images, spec.root.pull, fetch=fetch, locked=locked, lazy=spec.root.lazy)
    found = {}
    for number, layer in enumerate(spec.root.layers):
        if layer.kind not in IMAGE_KINDS and (locked is None or layer.kind != "tar"):
            continue
        try:
            if layer.kind == "tar":
                assert locked is not None
                locked.check_archive(layer)
                continue
            name, record = finder.find(layer)
            if locked is not None and name is not None:
                locked.check(layer, name)
        except ImageError as error:
            raise SpecError([spec.diagnose(f"root.layers[{number}]", error.message, error.hint)]) from error
        if record is not None and name is not None:
            stored = record.named(layer.path if layer.kind in ("image", "docker") else layer.shown())
            partial = fetched_in_part(images, record.layers)
            found[number] = replace(stored, partial=partial, source=name.source) if partial else stored
    return found


def digests_of(spec: Spec, images: str, fetch: Fetch) -> dict[str, str]:
    """Return the digests of all sources of *spec* that have one, by the names that a lock file uses.

    Images of registries are looked up there, others imported as for a start.

    Raises:
        SpecError: a source cannot be read, with its place in the file.
        StateError: the image directory cannot be written.
    """
    from sandbox.images.lock_file import archive_digest, lockable, source_of

    finder = _Finder(images, "always", fetch=fetch, locked=None, lazy=spec.root.lazy)
    found = {}
    for number, layer in lockable(spec):
        try:
            if layer.kind == "tar":
                digest = archive_digest(layer.path)
            else:
                name, _ = finder.find(layer)
                assert name is not None
                digest = lock_digest(layer, name)
        except ImageError as error:
            raise SpecError([spec.diagnose(f"root.layers[{number}]", error.message, error.hint)]) from error
        found[source_of(layer, spec.directory)] = digest
    return found


def lock_digest(layer: Layer, name: ImageName) -> str:
    """Return the digest of *layer*, stored as *name*, for a lock file: of the index if a registry has it for several platforms."""
    return name.index or name.digest if layer.kind == "docker" else name.digest


class _Lock:
    """The digests of a lock file. Owns nothing."""

    def __init__(self, path: str, spec: Spec) -> None:
        from sandbox.images.lock_file import lockable, read_lock, source_of, superfluous

        self._path = path
        self._directory = spec.directory
        self._digests = read_lock(path)
        used = [source_of(layer, spec.directory) for _, layer in lockable(spec)]
        if (error := superfluous(self._digests, used, path)) is not None:
            raise error

    def digest(self, layer: Layer) -> str:
        from sandbox.images.lock_file import not_locked, source_of

        source = source_of(layer, self._directory)
        if source not in self._digests:
            raise not_locked(self._path, source)
        return self._digests[source]

    def check(self, layer: Layer, name: ImageName) -> None:
        self._compare(layer, lock_digest(layer, name))

    def check_archive(self, layer: Layer) -> None:
        from sandbox.images.lock_file import archive_digest

        self._compare(layer, archive_digest(layer.path))

    def _compare(self, layer: Layer, found: str) -> None:
        from sandbox.images.lock_file import drift, source_of

        if (locked := self.digest(layer)) != found:
            raise drift(self._path, source_of(layer, self._directory), locked, found)


class _Finder:
    """Finds single images. Owns nothing."""

    def __init__(
        self,
        images: str,
        pull: str,
        *,
        fetch: Fetch | None,
        locked: _Lock | None,
        lazy: bool = False,
    ) -> None:
        self._images = images
        self._lazy = lazy
        self._stored = StoredImages(images)
        self._pull = pull
        self._fetch = fetch
        self._locked = locked

    def find(self, layer: Layer) -> _Found:
        """Return the name and the record of the image; None for each if the store does not have it."""
        if layer.kind == "image":
            return self._by_name(layer.path)
        if layer.kind == "docker":
            return self._of_registry(layer)
        return self._of_file(layer)

    def _stored_as(self, name: ImageName | None) -> _Found:
        record = None if name is None else self._stored.record(name.digest)
        return (None, None) if name is None or record is None else (name, record)

    def _by_name(self, name: str) -> _Found:
        found = self._stored_as(self._stored.find(name))
        if self._lacks_layers(found):
            if self._fetch:
                source = "" if found[0] is None else found[0].source
                raise ImageError(
                    f"the image {name} was fetched in part alone",
                    hint=f"set root.lazy = true, or fetch the rest: sandbox pull {source} {name}",
                )
            return None, None
        if found[1] is None and self._fetch:
            raise missing(name)
        return found

    def _lacks_layers(self, found: _Found) -> bool:
        """Return whether layers of the image were fetched in part, and all of them are needed."""
        record = found[1]
        return record is not None and not self._lazy and bool(fetched_in_part(self._images, record.layers))

    def _of_registry(self, layer: Layer) -> _Found:
        from sandbox.images.registry.reference import parse_reference

        reference = parse_reference(layer.shown())
        pull = self._pull
        if self._locked is not None:
            reference = reference.with_digest(self._locked.digest(layer))
            pull = "missing" if pull == "always" else pull  # a digest has one content
        name = str(reference).removeprefix("docker://")
        found = self._stored_as(self._stored.find(name))
        if self._lacks_layers(found):
            found = None, None  # the rest is fetched as if nothing were there
        if self._fetch and (pull == "always" or (pull == "missing" and found[1] is None)):
            from sandbox.images.pulling import pull as pull_image

            pull_image(
                self._images,
                str(reference),
                name,
                progress=self._fetch.progress(),
                prepare=self._prepare(layer, name),
                authfile=self._fetch.authfile,
                tls=self._fetch.tls,
                lazy=self._lazy,
            )
            return self._stored_as(self._stored.find(name))
        if found[1] is None and self._fetch:
            message, hint = missing_image(layer, pull)
            raise ImageError(message, hint=hint)
        return found

    def _prepare(self, layer: Layer, name: str) -> Prepare:
        assert self._fetch is not None
        unpack = self._fetch.unpack
        return lambda record: unpack(record, name if layer.mount else None)

    def _of_file(self, layer: Layer) -> _Found:
        from sandbox.images.file_versions import version_of

        name, version = layer.shown(), version_of(layer.path)
        entry = self._stored.names().get(name)
        if entry is not None and entry.version == version and version:
            found = self._stored_as(entry)
            if found[1] is not None:
                return found
        if not self._fetch:
            return None, None
        from sandbox.images.importing import host_platform, import_image
        from sandbox.images.places import scratch_in
        from sandbox.images.transports.opening import open_layer

        source = open_layer(layer, scratch_in(self._images))
        try:
            import_image(
                self._images,
                source,
                host_platform(),
                name,
                self._fetch.progress(),
                version=version,
                prepare=self._prepare(layer, name),
                resumable=False,
            )
        finally:
            source.close()
        return self._stored_as(self._stored.names().get(name))
