"""Define images of the image store as values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayer:
    """One layer of an image, as the image's manifest and configuration name it. Digests are "sha256:" and hexadecimal digits."""

    #: The digest of the uncompressed tar.
    diff_id: str
    #: The digest, the size in bytes and the media type of the blob, which may be compressed.
    digest: str
    size: int
    media_type: str
    #: The digest of the table of contents by the manifest, if the layer can be fetched in part; "" if it cannot.
    table: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDefaults:
    """The defaults of an image for the program, as its configuration has them (image-spec, config.md); empty for none."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    #: NAME=VALUE
    env: tuple[str, ...] = ()
    user: str = ""
    cwd: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of the image store."""

    #: Its name in messages: as the environment file writes it.
    name: str
    #: The digest of its manifest.
    digest: str
    #: Bottom first.
    layers: tuple[ImageLayer, ...]
    defaults: ImageDefaults = ImageDefaults()
    #: The tables of the layers that are fetched in part, while a sandbox reads them, and the image of a registry that has the
    #: layers, "docker://HOST/NAME".
    partial: frozenset[str] = frozenset()
    source: str = ""

    @property
    def identity(self) -> str:
        """Its name and the digest of its manifest: another content has another identity."""
        return f"{self.name}@{self.digest}"


NO_IMAGES: Mapping[int, StoredImage] = MappingProxyType({})
