"""Recognize a container image that a file names as if it were a root file system, and say what to write instead.

An image is a list of archives with metadata. The formats are those of the OCI image specification (image-layout.md), of
`docker save` (docker-archive) and of skopeo's `dir:` transport. An image is recognized by its members. Pure functions on names
and content.
"""

from __future__ import annotations

import re

from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MARKER_LIMIT = 1 << 16
"""The number of bytes of a marker file that suffice for :func:`format_of`."""


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """An image format: its name, and the transports of containers-transports(5) for its archive and its directory form."""

    name: str
    archive: str | None
    directory: str | None


OCI_LAYOUT = ImageFormat("an OCI layout", "oci-archive", "oci")
DOCKER_ARCHIVE = ImageFormat("a docker-archive", "docker-archive", None)
SKOPEO_DIRECTORY = ImageFormat("an image as skopeo's dir: transport writes it", None, "dir")
FORMATS = (OCI_LAYOUT, DOCKER_ARCHIVE, SKOPEO_DIRECTORY)


def _is_layout(content: bytes) -> bool:
    return b'"imageLayoutVersion"' in content


def _is_docker_manifest(content: bytes) -> bool:
    # A list of images. Of a large file only the beginning is available, so it is not parsed.
    is_list = re.match(rb"\s*\[\s*\{", content) is not None
    return is_list and b'"Config"' in content and b'"Layers"' in content


def _is_skopeo_version(content: bytes) -> bool:
    return content.startswith(b"Directory Transport Version: ")


_MARKERS: Mapping[str, tuple[ImageFormat, Callable[[bytes], bool]]] = {
    "oci-layout": (OCI_LAYOUT, _is_layout),
    "manifest.json": (DOCKER_ARCHIVE, _is_docker_manifest),
    "version": (SKOPEO_DIRECTORY, _is_skopeo_version),
}

MARKERS: tuple[str, ...] = tuple(_MARKERS)
"""The files at the top of an image that identify its format, the most specific first.

Newer `docker save` also writes an OCI layout.
"""


def format_of(marker: str, content: bytes) -> ImageFormat | None:
    """Return the format of an image that has a file *marker* with *content* at its top; None if it need not be an image.

    The first :data:`MARKER_LIMIT` bytes of *content* suffice.
    """
    found = _MARKERS.get(marker)
    return found[0] if found is not None and found[1](content) else None


def refusal(image: ImageFormat, path: str, *, is_directory: bool) -> tuple[str, str]:
    """Return the message and hint for an image at *path* that is used as a layer."""
    import shlex  # needed only for messages

    transport = image.directory if is_directory else image.archive
    message = f"{path} is {image.name}: a container image, which contains the archives of a root file system but is not one itself"
    if transport is None:
        return message, "name the archives of its layers instead, each as tar:, bottom first"
    source = shlex.quote(f"{transport}:{path}")
    return message, (
        f'`podman export -o root.tar $(podman create {source} true)` creates one archive from it: write "tar:root.tar"'
    )
