"""Read an image from an archive of `docker save`: manifest.json, configurations, and layers as tar files.

The archive has no manifest of the image. One is made here: a layer is usually a plain tar, so its digest is its diff id, which
the configuration has. The digest of the manifest is therefore the same each time.
"""

from __future__ import annotations

import os
import posixpath

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci.digest import Digest, new_hash
from sandbox.images.oci.image_config import decode_config
from sandbox.images.oci.json_documents import DAMAGED, DOCUMENT_LIMIT, parse
from sandbox.images.oci.media_types import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST
from sandbox.images.oci.model import Descriptor, Manifest
from sandbox.images.transports.file_source import FileSource
from sandbox.images.transports.files import Extent, read_small
from sandbox.images.transports.image_source import missing
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.oci.json_documents import Fields

_LIST = "manifest.json"
_COMPRESSED = {b"\x1f\x8b": ".gzip", b"\x28\xb5\x2f\xfd": ".zstd"}
"""The ends of media types by the first bytes of a blob."""
_STEP = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One image of the archive: the paths of its configuration and layers, bottom first, and its names."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


class DockerArchive(FileSource):
    """An image of an archive of `docker save`. Owns the open files until :meth:`close`."""

    def __init__(self, path: str, reference: str, name: str, scratch: str) -> None:
        """Open the archive at *path*. *reference* is NAME:TAG, or "" for the only image; *name* is for messages.

        *scratch* is a directory for a decompressed archive.

        Raises:
            ImageError: it is no such archive, it has not that image, or it cannot be read.
        """
        super().__init__(path, name, scratch)
        try:
            self._entry = self._select(reference)
            self._manifest, self._documents, self._paths = self._describe()
        except BaseException:
            self._files.close()
            raise

    def top(self) -> Descriptor:
        """Return the descriptor of the manifest."""
        return self._manifest

    def document(self, descriptor: Descriptor) -> bytes:
        """Return the content of a document; see `ImageSource.document`."""
        try:
            return self._documents[descriptor.digest]
        except KeyError:
            raise missing(self.name, descriptor.digest) from None

    def _path_of(self, digest: Digest) -> str:
        return self._paths.get(digest, "")

    def _select(self, reference: str) -> _Entry:
        content = read_small(self._files, _LIST, DOCUMENT_LIMIT, self.name)
        if content is None:
            raise ImageError(
                f"{self.name}: has no {_LIST}, so it is no archive of `docker save`",
                hint='for an OCI layout, write "oci:PATH"; for an exported container, "tar:PATH"',
            )
        # `parse` takes an object, and the document is an array.
        document = parse(b'{"images":' + content + b"}", f"{self.name}: {_LIST}")
        entries = [self._decode(fields) for fields in document.objects("images")]
        wanted = _normalized(reference) if reference else ""
        found = [one for one in entries if not wanted or wanted in map(_normalized, one.names)]
        if len(found) == 1:
            return found[0]
        names = [shown for one in entries for shown in one.names]
        listed = printable(", ".join(names[:20]).encode("utf-8", "backslashreplace")) or "no names"
        problem = (
            "has more than one image"
            if found
            else f"has no image {reference}"
            if reference
            else "has no image"
        )
        raise ImageError(f"{self.name}: {problem}", hint=f"append a name to the path; there are: {listed}")

    def _decode(self, fields: Fields) -> _Entry:
        return _Entry(
            config=posixpath.normpath(fields.text("Config")),
            layers=tuple(map(posixpath.normpath, fields.texts("Layers"))),
            names=fields.texts("RepoTags"),
        )

    def _describe(self) -> tuple[Descriptor, dict[Digest, bytes], dict[Digest, str]]:
        """Make the manifest; return its descriptor, the documents, and the paths of the layers by digest."""
        content = read_small(self._files, self._entry.config, DOCUMENT_LIMIT, self.name)
        if content is None:
            shown = printable(self._entry.config.encode("utf-8", "backslashreplace"))
            raise ImageError(f"{self.name}: the configuration {shown} is missing", hint=DAMAGED)
        config = decode_config(content, f"{self.name}: the configuration")
        if len(config.diff_ids) != len(self._entry.layers):
            raise ImageError(
                f"{self.name}: {_LIST} has {len(self._entry.layers)} layers, but the configuration has {len(config.diff_ids)}",
                hint=DAMAGED,
            )
        layers, paths = [], {}
        for diff_id, path in zip(config.diff_ids, self._entry.layers, strict=True):
            extent = self._files.find(path)
            if extent is None:
                shown = printable(path.encode("utf-8", "backslashreplace"))
                raise ImageError(f"{self.name}: the layer {shown} is missing", hint=DAMAGED)
            layer = _describe_layer(extent, diff_id)
            layers.append(layer)
            paths[layer.digest] = path
        described = Descriptor.of(DOCKER_CONFIG, content)
        manifest = Manifest(media_type=DOCKER_MANIFEST, config=described, layers=tuple(layers)).encode()
        top = Descriptor.of(DOCKER_MANIFEST, manifest)
        return top, {top.digest: manifest, described.digest: content}, paths


def _describe_layer(extent: Extent, diff_id: Digest) -> Descriptor:
    """Return the descriptor of the layer *extent*. The digest of a compressed one, which newer versions write, is computed."""
    head = os.pread(extent.fd, min(8, extent.size), extent.offset)
    suffix = next((suffix for magic, suffix in _COMPRESSED.items() if head.startswith(magic)), "")
    if not suffix:
        return Descriptor(media_type=DOCKER_LAYER, digest=diff_id, size=extent.size)
    found = new_hash("sha256")
    position, end = extent.offset, extent.offset + extent.size
    while position < end and (piece := os.pread(extent.fd, min(_STEP, end - position), position)):
        found.update(piece)
        position += len(piece)
    digest = Digest("sha256", found.hexdigest())
    return Descriptor(media_type=DOCKER_LAYER + suffix, digest=digest, size=extent.size)


def _normalized(name: str) -> str:
    """Return *name* with its host and tag, as docker does: "debian" is "docker.io/library/debian:latest"."""
    first, slash, rest = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{first}/{rest}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
