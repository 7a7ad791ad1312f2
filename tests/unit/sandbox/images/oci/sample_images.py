"""An image for tests of the writers, its blobs in memory, and the tree that it shows."""

from __future__ import annotations

import io
import stat
from contextlib import closing
from pathlib import Path

from sandbox.images.oci import media_types
from sandbox.images.oci.image_config import History, ImageConfig, ProcessDefaults, timestamp
from sandbox.images.oci.image_content import ImageContent
from sandbox.images.oci.model import Descriptor, Manifest
from sandbox.images.oci.platforms import Platform
from tests.support.tree import Entry
from tests.unit.sandbox.images.oci.layer_streams import Change, Layer, T, directory, file, mark, stream
from unionfs._stdlib.dataclasses import replace

LOWER = [
    directory(b"."),
    directory(b"d", mode=0o750),
    file(b"d/hidden", b"x"),
    directory(b"e"),
    file(b"e/kept", b"kept"),
    file(b"e/removed", b"removed"),
    file(b"one", b"two names", b"other"),
]
UPPER = [
    directory(b"d", mode=0o755),
    mark(b"d/.wh..wh..opq"),
    file(b"d/new", b"new", mode=0o640),
    directory(b"e"),
    mark(b"e/.wh.removed"),
    file(b"first", b"linked", b"e/second", mode=0o4755),
    Change(names=(b"link",), type=stat.S_IFLNK, mode=0o777, link=b"e/kept"),
    file("n\u00e4me-".encode() * 20, b"long", xattrs={b"user.k": b"v"}),
]


def _file(data: bytes, mode: int = 0o644, nlink: int = 1, **xattrs: bytes) -> Entry:
    return Entry(type="file", mode=mode, size=len(data), data=data, nlink=nlink, xattrs=xattrs)


#: The tree that the image shows, as `snapshot(..., ids=False, nlink=True)` describes it.
SHOWN = {
    b"d": Entry(type="dir", mode=0o755),
    b"d/new": _file(b"new", 0o640),
    b"e": Entry(type="dir", mode=0o755),
    b"e/kept": _file(b"kept"),
    b"e/second": _file(b"linked", 0o4755, 2),
    b"first": _file(b"linked", 0o4755, 2),
    b"link": Entry(type="symlink", mode=None, target=b"e/kept", nlink=1),
    "n\u00e4me-".encode() * 20: _file(b"long", **{"user.k": b"v"}),
    b"one": _file(b"two names", nlink=2),
    b"other": _file(b"two names", nlink=2),
}


class MemoryBlobs:
    """Blobs by digest. `reads` counts how often each was opened."""

    def __init__(self) -> None:
        self.by_digest: dict[str, bytes] = {}
        self.reads: dict[str, int] = {}

    def add(self, media_type: str, content: bytes) -> Descriptor:
        descriptor = Descriptor.of(media_type, content)
        self.by_digest[str(descriptor.digest)] = content
        return descriptor

    def open(self, descriptor: Descriptor) -> closing[io.BytesIO]:
        digest = str(descriptor.digest)
        self.reads[digest] = self.reads.get(digest, 0) + 1
        return closing(io.BytesIO(self.by_digest[digest]))


def image(
    temporary: Path,
    *,
    compression: str = "gzip",
    docker: bool = False,
    changes: tuple[list[Change], ...] = (LOWER, UPPER),
) -> tuple[ImageContent, MemoryBlobs]:
    """Return an image of *changes*, with the types of Docker's schema 2 if *docker*."""
    layers = [Layer(stream(each), temporary, compression=compression, latest=T) for each in changes]
    return image_of(layers, compression=compression if docker else None)


def image_of(layers: list[Layer], *, compression: str | None = None) -> tuple[ImageContent, MemoryBlobs]:
    """Return an image of *layers*; with the types of Docker's schema 2 if their *compression* is given."""
    blobs = MemoryBlobs()
    for layer in layers:
        blobs.by_digest[str(layer.written.descriptor.digest)] = layer.blob
    config = ImageConfig(
        platform=Platform(os="linux", architecture="amd64"),
        diff_ids=tuple(layer.written.diff_id for layer in layers),
        process=ProcessDefaults(env=("PATH=/bin",), cmd=("sh", "-c", "exit 0"), labels={"a": "b"}),
        history=tuple(History(created=timestamp(T), created_by=f"step {n}") for n in range(len(layers))),
        created=timestamp(T),
    )
    descriptors = tuple(layer.written.descriptor for layer in layers)
    if compression is None:
        manifest_type, config_type = media_types.OCI_MANIFEST, media_types.OCI_CONFIG
    else:
        manifest_type, config_type = media_types.DOCKER_MANIFEST, media_types.DOCKER_CONFIG
        layer_type = media_types.DOCKER_LAYER + (f".{compression}" if compression else "")
        descriptors = tuple(replace(each, media_type=layer_type) for each in descriptors)
    manifest = Manifest(
        media_type=manifest_type, config=blobs.add(config_type, config.encode()), layers=descriptors
    )
    return ImageContent.of("image:sample", manifest, blobs), blobs
