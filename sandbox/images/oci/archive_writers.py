"""Write an image as one archive: `oci-archive`, a tar of a layout, and `docker-archive`, which `docker load` reads.

Equal images give equal archives. The caller opens the output, and must remove it after an error, because blobs are verified while
they are written.
"""

from __future__ import annotations

import re
import stat

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci import layout
from sandbox.images.oci.image_content import ImageContent
from sandbox.images.oci.json_documents import canonical
from sandbox.images.oci.layer_blob import Output
from unionfs.changes import pax

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# The grammar of a reference with a tag (distribution/reference), whose parts are lower-case apart from the tag.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[0-9]+)?/)?"
_REFERENCE = re.compile(rf"{_HOST}{_PART}(?:/{_PART})*:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}")


def write_oci_archive(output: Output, image: ImageContent, tag: str | None = None) -> None:
    """Write *image* under *tag* to *output*, as the tar of a layout. A manifest of Docker's schema 2 is converted.

    Raises:
        ImageError: *tag* is not possible, or the image is damaged.
        OSError: a blob cannot be read, or *output* not be written.
    """
    if tag is not None:
        layout.check_tag(tag)
    image = image.as_oci()
    index = layout.tagged(layout.EMPTY_INDEX, image.descriptor, tag)
    blobs = {layout.blob_path(part.digest): part for part in (image.manifest.config, *image.manifest.layers)}
    manifest = layout.blob_path(image.descriptor.digest)
    archive = _Archive(output)
    archive.directory(layout.BLOBS)
    seen = ""
    for path in sorted({*blobs, manifest}):
        directory = path.rpartition("/")[0]
        if directory != seen:
            archive.directory(directory)
            seen = directory
        if path == manifest:
            archive.file(path, len(image.content), (image.content,))
        else:
            archive.file(path, blobs[path].size, image.pieces(blobs[path]))
    for path, content in ((layout.INDEX, index.encode()), (layout.MARKER, layout.MARKER_CONTENT)):
        archive.file(path, len(content), (content,))
    archive.end()


def write_docker_archive(output: Output, image: ImageContent, references: Sequence[str] = ()) -> None:
    """Write *image* to *output*, so that it gets the names *references*, such as `localhost/name:tag`, where it is loaded.

    The layers are not compressed, as the format demands, so each is read twice: its header has the size.

    Raises:
        ImageError: a reference is not possible, or the image is damaged.
        OSError: a blob cannot be read, or *output* not be written.
    """
    for reference in references:
        check_reference(reference)
    config = image.config()
    content = image.config_content()
    layers = dict(zip(config.diff_ids, image.manifest.layers, strict=True))
    config_name = f"{image.manifest.config.digest.hex}.json"
    listed = {
        "Config": config_name,
        "RepoTags": list(references),
        "Layers": [f"{diff_id.hex}.tar" for diff_id in config.diff_ids],
    }
    manifest = canonical([listed])
    archive = _Archive(output)
    archive.file("manifest.json", len(manifest), (manifest,))
    archive.file(config_name, len(content), (content,))
    for diff_id, layer in layers.items():
        size = sum(map(len, image.uncompressed(layer, diff_id)))
        archive.file(f"{diff_id.hex}.tar", size, image.uncompressed(layer, diff_id))
    archive.end()


def check_reference(reference: str) -> None:
    """Refuse a name that an image cannot get where `docker load` loads it.

    Raises:
        ImageError: *reference* is not NAME:TAG or HOST/NAME:TAG.
    """
    if len(reference) > 255 + 128 or _REFERENCE.fullmatch(reference) is None:
        raise ImageError(
            f"{printable(reference.encode('utf-8', 'backslashreplace'))!r} is not a name with a tag",
            hint="write NAME:TAG or HOST/NAME:TAG, with the name in lower case",
        )


class _Archive:
    """An archive that is being written. All members belong to root and are as old as the epoch."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def directory(self, path: str) -> None:
        self._output.write(pax.header(pax.Member(path=path.encode(), mode=stat.S_IFDIR | 0o755)))

    def file(self, path: str, size: int, pieces: Iterable[bytes]) -> None:
        """Add the file *path* with *size* bytes, which are those of *pieces*."""
        self._output.write(pax.header(pax.Member(path=path.encode(), mode=stat.S_IFREG | 0o644, size=size)))
        written = 0
        for piece in pieces:
            written += len(piece)
            self._output.write(piece)
        if written != size:
            raise ImageError(f"{path}: {written} bytes instead of {size}", hint="run the command again")
        self._output.write(bytes(-size % pax.BLOCK))

    def end(self) -> None:
        self._output.write(pax.END)
