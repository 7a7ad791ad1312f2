"""Find the images that an environment file names in the store, and fetch or import those that are missing.

An image that is in the store is found by reading two small files, without the code that reads images.
"""

from __future__ import annotations

import os

from sandbox.errors import ImageError, SpecError
from sandbox.images.places import partial_in
from sandbox.images.stored_images import StoredImages, missing
from sandbox.spec.values.layers import IMAGE_KINDS

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.importing import BlobProgress
    from sandbox.images.stored_images import ImageRecord
    from sandbox.plan.image_values import StoredImage
    from sandbox.spec.model import Spec
    from sandbox.spec.values import Layer


def find_images(
    spec: Spec, images: str, *, fetch: bool = False, progress: Callable[[], BlobProgress] | None = None
) -> dict[int, StoredImage]:
    """Return the images of *spec* in the image directory *images*, by the number of their layer.

    With *fetch*, fetch or import what is missing, as root.pull demands. *progress* creates the receiver of reports.

    Raises:
        SpecError: an image cannot be fetched or imported, with its place in the file.
        StateError: the image directory cannot be read or written.
    """
    found = {}
    for number, layer in enumerate(spec.root.layers):
        if layer.kind not in IMAGE_KINDS:
            continue
        try:
            record = _Finder(images, spec.root.pull, fetch=fetch, progress=progress).find(layer)
        except ImageError as error:
            raise SpecError([spec.diagnose(f"root.layers[{number}]", error.message, error.hint)]) from error
        if record is not None:
            found[number] = record.named(layer.path if layer.kind in ("image", "docker") else layer.shown())
    return found


class _Finder:
    """Finds single images. Owns nothing."""

    def __init__(
        self, images: str, pull: str, *, fetch: bool, progress: Callable[[], BlobProgress] | None
    ) -> None:
        self._images = images
        self._stored = StoredImages(images)
        self._pull = pull
        self._fetch = fetch
        self._progress = progress

    def find(self, layer: Layer) -> ImageRecord | None:
        if layer.kind == "image":
            return self._by_name(layer.path)
        if layer.kind == "docker":
            return self._of_registry(layer)
        return self._of_file(layer)

    def _by_name(self, name: str) -> ImageRecord | None:
        found = self._stored.find(name)
        record = None if found is None else self._stored.record(found.digest)
        if record is None and self._fetch:
            raise missing(name)
        return record

    def _of_registry(self, layer: Layer) -> ImageRecord | None:
        from sandbox.images.registry.reference import parse_reference

        reference = parse_reference(layer.shown())
        name = str(reference).removeprefix("docker://")
        found = self._stored.find(name)
        record = None if found is None else self._stored.record(found.digest)
        wanted = self._pull == "always" or (self._pull == "missing" and record is None)
        if self._fetch and wanted:
            from sandbox.images.pulling import pull

            return pull(self._images, str(reference), name, progress=self._made_progress())
        if record is None and self._fetch:
            raise ImageError(
                f'{layer.shown()} is not in the image store, and root.pull is "never"',
                hint=f"`sandbox pull {layer.shown()}` fetches it",
            )
        return record

    def _of_file(self, layer: Layer) -> ImageRecord | None:
        from sandbox.images.file_versions import version_of

        name, version = layer.shown(), version_of(layer.path)
        found = self._stored.names().get(name)
        if found is not None and found.version == version and version:
            record = self._stored.record(found.digest)
            if record is not None:
                return record
        if not self._fetch:
            return None
        from sandbox.images.importing import host_platform, import_image
        from sandbox.images.transports.opening import open_layer

        os.makedirs(partial_in(self._images), mode=0o700, exist_ok=True)
        source = open_layer(layer, partial_in(self._images))
        try:
            return import_image(
                self._images, source, host_platform(), name, self._made_progress(), version=version
            )
        finally:
            source.close()

    def _made_progress(self) -> BlobProgress | None:
        return None if self._progress is None else self._progress()
