"""Keep the layers of earlier builds by the keys of their steps (sandbox/images/build/cache_key.py).

    IMAGES/build-cache.json     {"version": 1, "steps": {KEY: LAYER or null}}, the latest used last

An entry counts while the store has the blob of its layer. The cache keeps no blob: `sandbox image prune` and `sandbox image rm`
remove the layers that no image has, and so the steps of other stages and of builds that failed.
"""

from __future__ import annotations

import os

from sandbox.errors import StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.oci.digest import Digest
from sandbox.plan.image_values import ImageLayer
from sandbox.state.locks import exclusively_locked
from sandbox.state.trusted_files import read_json, replace_json
from unionfs._stdlib.typing import Any

_NAME = "build-cache.json"
_VERSION = 1
_MOST_STEPS = 2000
"""Some 300 bytes each: `read_json` reads at most one MiB."""


class BuildCache:
    """The cache of one image directory. Owns nothing; several builds may use it at once."""

    def __init__(self, images: str, *, variant: str) -> None:
        """Use the cache of *images*. *variant* is what else makes equal steps give other blobs, such as the compression."""
        self._images = images
        self._path = os.path.join(images, _NAME)
        self._variant = variant
        self._blobs = BlobStore(images)

    def find(self, key: str) -> tuple[bool, ImageLayer | None]:
        """Return whether the step with *key* is known, and its layer: None if it changed nothing."""
        steps = self._read()
        name = self._name(key)
        if name not in steps:
            return False, None
        value = steps[name]
        if value is None:
            return True, None
        try:
            layer = ImageLayer(
                diff_id=str(Digest.parse(str(value["diff_id"]))),
                digest=str(Digest.parse(str(value["digest"]))),
                size=int(value["size"]),
                media_type=str(value["media_type"]),
            )
        except (ValueError, TypeError, KeyError):
            return False, None
        known = self._blobs.has(Digest.parse(layer.digest))
        return known, layer if known else None

    def add(self, key: str, layer: ImageLayer | None) -> None:
        """Remember that the step with *key* made *layer*, and forget steps whose layers are gone.

        Raises:
            StateError: the cache cannot be written.
        """
        try:
            with exclusively_locked(self._images):
                steps = {name: value for name, value in self._read().items() if self._is_there(value)}
                steps.pop(self._name(key), None)
                steps[self._name(key)] = None if layer is None else _as_json(layer)
                for name in list(steps)[:-_MOST_STEPS]:
                    del steps[name]
                replace_json(self._path, {"version": _VERSION, "steps": steps})
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be written: {(error.strerror or str(error)).lower()}",
                hint="free some space, or set SANDBOX_CACHE_DIR to another directory",
            ) from None

    def _name(self, key: str) -> str:
        return f"{key} {self._variant}"

    def _is_there(self, value: Any) -> bool:
        try:
            return value is None or self._blobs.has(Digest.parse(str(value["digest"])))
        except (ValueError, TypeError, KeyError):
            return False

    def _read(self) -> dict[str, Any]:
        """Return the steps. A cache that is damaged, or of another version, is as good as none."""
        try:
            value = read_json(self._path)
            steps = value["steps"] if value["version"] == _VERSION else {}
            return dict(steps)
        except (OSError, ValueError, TypeError, KeyError):
            return {}


def _as_json(layer: ImageLayer) -> dict[str, Any]:
    return {
        "diff_id": layer.diff_id,
        "digest": layer.digest,
        "size": layer.size,
        "media_type": layer.media_type,
    }
