"""Describe the images of the store: what each takes, how much of it other images share, and how it was made."""

from __future__ import annotations

import time

from sandbox.images.blobs import BlobStore
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.image_config import decode_config
from sandbox.images.oci.json_documents import DOCUMENT_LIMIT
from sandbox.images.stored_images import StoredImages, missing
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.images.oci.image_config import ImageConfig
    from sandbox.images.stored_images import ImageName, ImageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """A name of an image with the bytes of its blobs: those that only this image has, and those that others have, too."""

    name: ImageName
    record: ImageRecord | None
    own: int
    shared: int

    def as_dict(self) -> dict[str, Any]:
        """Return the image for JSON."""
        return {
            "name": self.name.name,
            "digest": self.name.digest,
            "index": self.name.index or None,
            "source": self.name.source or None,
            "platform": None if self.record is None else self.record.platform,
            "layers": None if self.record is None else len(self.record.layers),
            "created": self.record.created or None if self.record is not None else None,
            "stored": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.name.time)),
            "bytes": self.own + self.shared,
            "own_bytes": self.own,
            "shared_bytes": self.shared,
        }


def list_images(images: str) -> list[ListedImage]:
    """Return all names of the store, sorted.

    Raises:
        StateError: the file of names is damaged.
    """
    stored = StoredImages(images)
    names = sorted(stored.names().values(), key=lambda one: one.name)
    records = {digest: stored.record(digest) for digest in {one.digest for one in names}}
    holders: dict[str, set[str]] = {}
    for digest, record in records.items():
        for blob in _layers(record):
            holders.setdefault(blob, set()).add(digest)
    found = []
    for name in names:
        record = records[name.digest]
        own = sum(size for blob, size in _layers(record).items() if len(holders[blob]) == 1)
        found.append(
            ListedImage(name=name, record=record, own=own, shared=sum(_layers(record).values()) - own)
        )
    return found


def _layers(record: ImageRecord | None) -> dict[str, int]:
    """Return the sizes of the blobs of the layers, by digest; an image may have the same layer twice."""
    return {} if record is None else {layer.digest: layer.size for layer in record.layers}


def find_record(images: str, name: str) -> tuple[ImageName, ImageRecord]:
    """Return the name and the record of the image *name*.

    Raises:
        ImageError: the store has no such image, or its record is damaged.
        StateError: the file of names is damaged.
    """
    stored = StoredImages(images)
    found = stored.find(name)
    record = None if found is None else stored.record(found.digest)
    if found is None or record is None:
        raise missing(name)
    return found, record


def inspect(images: str, name: str) -> dict[str, Any]:
    """Return all that the store knows about the image *name*, for JSON.

    Raises:
        ImageError: the store has no such image, or a blob of it is missing.
    """
    found, record = find_record(images, name)
    config = config_of(images, record)
    listed = next(one for one in list_images(images) if one.name.name == found.name)
    return {
        **listed.as_dict(),
        "media_type": record.media_type,
        "config_digest": record.config,
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "bytes": layer.size,
                "media_type": layer.media_type,
            }
            for layer in record.layers
        ],
        "config": config.process.as_document(),
    }


def history(images: str, name: str) -> list[dict[str, Any]]:
    """Return the steps by which the image *name* was made, oldest first, each with the bytes of its layer.

    Raises:
        ImageError: the store has no such image, or its configuration is missing or damaged.
    """
    _, record = find_record(images, name)
    layers = iter(record.layers)
    rows = []
    for step in config_of(images, record).history:
        layer = None if step.empty_layer else next(layers, None)
        rows.append(
            {
                "created": step.created or None,
                "created_by": step.created_by or None,
                "comment": step.comment or None,
                "digest": None if layer is None else layer.digest,
                "bytes": 0 if layer is None else layer.size,
            }
        )
    rows += [
        {
            "created": None,
            "created_by": None,
            "comment": None,
            "digest": layer.digest,
            "bytes": layer.size,
        }
        for layer in layers
    ]
    return rows


def config_of(images: str, record: ImageRecord) -> ImageConfig:
    """Return the configuration of the image of *record*.

    Raises:
        ImageError: it is missing or damaged.
    """
    content = BlobStore(images).read(Digest.parse(record.config), DOCUMENT_LIMIT)
    return decode_config(content, f"configuration {record.config}")


def total(listed: Iterable[ListedImage]) -> int:
    """Return the bytes of the layers of all *listed* images; a blob of several images counts once."""
    sizes: dict[str, int] = {}
    for one in listed:
        sizes.update(_layers(one.record))
    return sum(sizes.values())
