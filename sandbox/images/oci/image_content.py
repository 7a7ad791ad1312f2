"""One image as the writers take it: its manifest, and a source of its blobs, which are verified while they are read."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.compression import Readable, open_plain
from sandbox.images.oci import media_types
from sandbox.images.oci.digest import Digest, Verifier, new_hash
from sandbox.images.oci.image_config import ImageConfig, check_layers, decode_config
from sandbox.images.oci.json_documents import DAMAGED, DOCUMENT_LIMIT
from sandbox.images.oci.model import Descriptor, Manifest
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import Protocol, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


_CHUNK = 1 << 18

_OCI_TYPES = {
    media_types.DOCKER_CONFIG: media_types.OCI_CONFIG,
    media_types.DOCKER_LAYER: media_types.OCI_LAYER,
    f"{media_types.DOCKER_LAYER}.gzip": f"{media_types.OCI_LAYER}+gzip",
    f"{media_types.DOCKER_LAYER}.zstd": f"{media_types.OCI_LAYER}+zstd",
}


class BlobSource(Protocol):
    """A place that has the blobs of an image, such as the store."""

    def open(self, descriptor: Descriptor, /) -> AbstractContextManager[Readable]:
        """Return the blob of *descriptor*, to be read once from its beginning. Its content need not be verified.

        Raises:
            ImageError: there is no such blob.
            OSError: it cannot be opened.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContent:
    """An image that is to be written. `content` is the manifest as it is stored, whose digest is the name of the image."""

    name: str  # for messages
    manifest: Manifest
    content: bytes
    blobs: BlobSource

    @classmethod
    def of(cls, name: str, manifest: Manifest, blobs: BlobSource) -> Self:
        """Return the image with a new *manifest*."""
        return cls(name=name, manifest=manifest, content=manifest.encode(), blobs=blobs)

    @property
    def descriptor(self) -> Descriptor:
        """Return the descriptor of the manifest."""
        return Descriptor.of(self.manifest.media_type, self.content)

    def as_oci(self) -> Self:
        """Return the image with a manifest of the OCI image-spec: itself, or converted from Docker's schema 2.

        A converted manifest has another digest. Tools that read layouts need not know Docker's types, and umoci does not.
        """
        manifest = self.manifest
        parts = (manifest.config, *manifest.layers)
        if manifest.media_type == media_types.OCI_MANIFEST and not any(
            part.media_type in _OCI_TYPES for part in parts
        ):
            return self
        config, *layers = (
            replace(part, media_type=_OCI_TYPES.get(part.media_type, part.media_type)) for part in parts
        )
        converted = replace(
            manifest, media_type=media_types.OCI_MANIFEST, config=config, layers=tuple(layers)
        )
        return replace(self, manifest=converted, content=converted.encode())

    def config_content(self) -> bytes:
        """Return the configuration as it is stored.

        Raises:
            ImageError: it is larger than DOCUMENT_LIMIT, or has another digest than the manifest demands.
            OSError: it cannot be read.
        """
        if self.manifest.config.size > DOCUMENT_LIMIT:
            raise ImageError(
                f"{self.name}: a configuration of more than {DOCUMENT_LIMIT} bytes", hint=DAMAGED
            )
        return b"".join(self.pieces(self.manifest.config))

    def config(self) -> ImageConfig:
        """Return the configuration, which has a diff id for each layer.

        Raises:
            ImageError: as `config_content`; or the configuration is malformed, or of another number of layers.
            OSError: it cannot be read.
        """
        config = decode_config(
            self.config_content(), f"{self.name}: configuration {self.manifest.config.digest}"
        )
        check_layers(self.manifest, config, self.name)
        return config

    def pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the blob of *descriptor*; only the end of the iteration shows that it is right.

        Raises:
            ImageError: the blob has another size or digest.
            OSError: the blob cannot be read.
        """
        verifier = Verifier(descriptor.digest, descriptor.size, self.name)
        with self.blobs.open(descriptor) as file:
            while data := file.read(_CHUNK):
                verifier.update(data)
                yield data
        verifier.finish()

    def uncompressed(self, layer: Descriptor, diff_id: Digest) -> Iterator[bytes]:
        """Yield the archive in the blob of *layer*; only the end of the iteration shows that it is right.

        Raises:
            ImageError: the blob has another size or digest, its data is damaged, or the archive's digest is not *diff_id*.
            OSError: the blob cannot be read.
        """
        found = new_hash(diff_id.algorithm)
        name = f"{self.name}: layer {layer.digest}"
        for piece in open_plain(_Pieces(self.pieces(layer)), name).pieces:
            found.update(piece)
            yield piece
        if found.hexdigest() != diff_id.hex:
            raise ImageError(
                f"{name} has the diff id {diff_id.algorithm}:{found.hexdigest()} instead of {diff_id}",
                hint=DAMAGED,
            )


class _Pieces:
    """Gives an iterator of pieces the interface of a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _size: int, /) -> bytes:
        return next(self._pieces, b"")
