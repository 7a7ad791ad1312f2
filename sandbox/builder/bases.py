"""Find or fetch the images and archives that a build starts from or copies from, each once."""

from __future__ import annotations

import os

from sandbox.errors import ImageError
from sandbox.images.archive_layer import add_archive
from sandbox.images.build.cache_key import base_key
from sandbox.images.build.config import read_config
from sandbox.images.importing import import_image
from sandbox.images.listing import config_of
from sandbox.images.lock_file import drift, not_locked, read_lock, relative_source
from sandbox.images.oci.image_config import History, timestamp
from sandbox.images.oci.platforms import Platform
from sandbox.images.places import fetched_in_part, partial_in
from sandbox.images.stored_images import StoredImages, missing
from sandbox.plan.image_values import ImageLayer
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.images.build.config import ImageConfig
    from sandbox.images.build.plan import Sources
    from sandbox.images.importing import BlobProgress
    from sandbox.images.stored_images import ImageRecord

_REGISTRY = "docker://"
_LAYOUTS = ("oci:", "oci-archive:", "docker-archive:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a stage starts from, or what files are copied from: layers, bottom first, with their history.

    `created` is the newest time of it, in seconds after the epoch. `document` is the configuration of the topmost image as JSON.
    """

    layers: tuple[ImageLayer, ...]
    history: tuple[History, ...]
    key: str
    created: int
    document: Mapping[str, Any]


class Bases:
    """The images and archives of one build. Owns nothing."""

    def __init__(
        self,
        images: str,
        directory: str,
        *,
        always_pull: bool = False,
        progress: Callable[[], BlobProgress] | None = None,
        lock: str | None = None,
    ) -> None:
        """Use the image directory *images*. Paths are relative to *directory*. With *always_pull*, fetch images that are there, too.

        *lock* is the path of a lock file: then images of registries are those with the digests in it, and another digest of any
        other source is an error.

        Raises:
            StateError: there is no such lock file, or it is damaged.
        """
        #: The digests of the sources that were used, by source.
        self.digests: dict[str, str] = {}
        self._lock = lock
        self._locked = {} if lock is None else read_lock(lock)
        self._images = images
        self._directory = directory
        self._always_pull = always_pull
        self._progress = progress
        self._records: dict[tuple[str, str], ImageRecord] = {}
        self._archives: dict[str, tuple[ImageLayer, int]] = {}

    def is_stored(self, name: str) -> bool:
        """Return whether the store has an image *name*.

        Raises:
            StateError: the store is damaged.
        """
        return StoredImages(self._images).find(name) is not None

    def read_config(self, source: str, platform: str) -> ImageConfig:
        """Return the configuration of the image *source* for *platform*, for the plan of a build; fetch it if necessary.

        Raises:
            ImageError: there is no such image, or it cannot be fetched.
        """
        if source.startswith("tar:"):
            from sandbox.images.build.config import SCRATCH

            return SCRATCH
        record = self._record(source, platform)
        return read_config(config_of(self._images, record).process.as_document(), source)

    def base(self, sources: Sources, platform: str) -> Base:
        """Return the layers of *sources* for *platform*. Fetch or import the sources that the store does not have.

        Raises:
            ImageError: one does not exist, or cannot be used.
            StateError: the image directory cannot be written.
        """
        layers: list[ImageLayer] = []
        history: list[History] = []
        created = 0
        document: Mapping[str, Any] = {}
        for source in sources.sources:
            if source.startswith("tar:"):
                layer, seconds = self._archive(source)
                layers.append(layer)
                history.append(History(created=timestamp(seconds), created_by=source))
                created = max(created, seconds)
                continue
            record = self._record(source, platform)
            config = config_of(self._images, record)
            known = [step for step in config.history if not step.empty_layer]
            usable = len(known) == len(record.layers)
            history += config.history if usable else [History(created=config.created)] * len(record.layers)
            layers += record.layers
            document = config.process.as_document()
            created = max(created, _seconds(config.created))
        key = base_key([layer.diff_id for layer in layers], platform)
        return Base(layers=tuple(layers), history=tuple(history), key=key, created=created, document=document)

    def _record(self, source: str, platform: str) -> ImageRecord:
        known = self._records.get((source, platform))
        if known is None:
            known, digest = self._found(source, platform)
            self._note(source, digest)
            self._records[(source, platform)] = known
        return known

    def _note(self, source: str, digest: str) -> None:
        """Record that *source* has *digest*; compare it with the lock file.

        Raises:
            ImageError: the lock file has another digest, or none.
        """
        if self._lock is not None and (locked := self._locked_digest(source)) != digest:
            raise drift(self._lock, source, locked, digest)
        self.digests[relative_source(source, self._directory)] = digest

    def _locked_digest(self, source: str) -> str:
        name = relative_source(source, self._directory)
        if name not in self._locked:
            raise not_locked(self._lock or "", name)
        return self._locked[name]

    def _found(self, source: str, platform: str) -> tuple[ImageRecord, str]:
        """Return the image *source* for *platform*, and its digest: of the index that it was chosen from, else of its manifest."""
        if source.startswith(_REGISTRY):
            return self._of_registry(source, platform)
        if source.startswith(_LAYOUTS):
            return self._of_file(source, platform)
        name = source.removeprefix("image:")
        stored = StoredImages(self._images)
        found = stored.find(name)
        record = None if found is None else stored.record(found.digest)
        if found is None or record is None:
            raise missing(name)
        if Platform.parse(record.platform) != Platform.parse(platform):
            raise ImageError(
                f"the image {name} is for {record.platform}, not for {platform}",
                hint=f"fetch it for that platform: sandbox pull --platform {platform} docker://... {name}",
            )
        return record, found.digest

    def _of_registry(self, source: str, platform: str) -> tuple[ImageRecord, str]:
        from sandbox.images.pulling import pull
        from sandbox.images.registry.reference import parse_reference

        parsed = parse_reference(source)
        if self._lock is not None:
            parsed = parsed.with_digest(self._locked_digest(source))
        reference = str(parsed)
        name = reference.removeprefix(_REGISTRY)
        stored = StoredImages(self._images)
        found = None if self._always_pull else stored.find(name)
        record = None if found is None else stored.record(found.digest)
        if record is not None and fetched_in_part(self._images, record.layers):
            record = None  # a build needs all layers
        if found is None or record is None or Platform.parse(record.platform) != Platform.parse(platform):
            record = pull(self._images, reference, name, platform=platform, progress=self._made_progress())
            found = stored.find(name)
        return record, record.digest if found is None else found.index or found.digest

    def _of_file(self, source: str, platform: str) -> tuple[ImageRecord, str]:
        from sandbox.images.transports.opening import open_source, split_reference

        kind, _, rest = source.partition(":")
        kind = "oci" if kind == "oci-archive" else kind
        path, reference = split_reference(kind, rest)
        path = os.path.join(self._directory, path)
        name = f"{kind}:{path}{reference and ':'}{reference}"
        os.makedirs(partial_in(self._images), mode=0o700, exist_ok=True)
        opened = open_source(name, partial_in(self._images))
        try:
            # Without a name: the file may change, and the layers of the result are kept by its own name.
            wanted = Platform.parse(platform)
            record = import_image(self._images, opened, wanted, None, self._made_progress(), required=True)
            return record, record.digest
        finally:
            opened.close()

    def _archive(self, source: str) -> tuple[ImageLayer, int]:
        known = self._archives.get(source)
        if known is not None:
            return known
        path = os.path.join(self._directory, source.removeprefix("tar:"))
        descriptor, diff_id = add_archive(
            self._images,
            path,
            source,
            hint="check the path, which is relative to the file of the build",
            repack="pack the archive again with gzip or zstd",
        )
        self._note(source, str(descriptor.digest))
        layer = ImageLayer(
            diff_id=str(diff_id),
            digest=str(descriptor.digest),
            size=descriptor.size,
            media_type=descriptor.media_type,
        )
        made = self._archives[source] = layer, int(os.stat(path).st_mtime)
        return made

    def _made_progress(self) -> BlobProgress | None:
        return None if self._progress is None else self._progress()


def _seconds(created: str) -> int:
    """Return the time *created* of RFC 3339 in seconds after the epoch; 0 if there is none, or it is malformed."""
    from datetime import UTC, datetime

    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return 0
    return max(0, int(time.replace(tzinfo=time.tzinfo or UTC).timestamp()))
