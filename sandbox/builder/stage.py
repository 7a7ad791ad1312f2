"""Hold the state of one stage while a build executes it, and make an image of it."""

from __future__ import annotations

from sandbox.images.build.config import ImageConfig as BuildConfig
from sandbox.images.build.config import write_config
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.image_config import History, ImageConfig, ProcessDefaults, timestamp
from sandbox.images.oci.json_documents import canonical, parse
from sandbox.images.oci.model import Descriptor
from sandbox.images.oci.platforms import Platform
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.plan.image_values import ImageLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """A stage after some of its steps: its layers, bottom first, the history, and the key of all files.

    `document` is the configuration of the base image as JSON, whose unknown keys are kept. `directories` are paths of working
    directories that exist, because a step has made them or found them.
    """

    layers: tuple[ImageLayer, ...]
    history: tuple[History, ...]
    key: str
    document: Mapping[str, Any]
    directories: frozenset[str] = frozenset()

    def after(self, text: str, key: str, layer: ImageLayer | None, latest: int) -> StageState:
        """Return the stage after the step *text* with the key *key*, which added *layer*, if it is not None."""
        step = History(created=timestamp(latest), created_by=text, empty_layer=layer is None)
        layers = self.layers if layer is None else (*self.layers, layer)
        return replace(self, layers=layers, history=(*self.history, step), key=key)

    def with_directory(self, path: str) -> StageState:
        """Return the stage with the working directory *path* among those that exist."""
        return replace(self, directories=self.directories | {path})

    def image_config(self, config: BuildConfig, platform: str, latest: int) -> ImageConfig:
        """Return the configuration of the image that the stage is, with the settings of *config*."""
        document = canonical(write_config(config, self.document))
        return ImageConfig(
            platform=Platform.parse(platform),
            diff_ids=tuple(Digest.parse(layer.diff_id) for layer in self.layers),
            process=ProcessDefaults.decode(parse(document, "the configuration of the image")),
            history=self.history,
            created=timestamp(latest),
        )

    def descriptors(self) -> list[Descriptor]:
        """Return the blobs of the layers for a manifest."""
        return [
            Descriptor(media_type=layer.media_type, digest=Digest.parse(layer.digest), size=layer.size)
            for layer in self.layers
        ]
