"""Open the source that a layer of an environment file, or an argument of a command, names."""

from __future__ import annotations

import os

from sandbox.errors import ImageError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.transports.image_source import ImageSource
    from sandbox.spec.values import Layer

_HINT = "write oci:PATH, docker-archive:PATH or docker://HOST/NAME:TAG"


def open_source(text: str, scratch: str) -> ImageSource:
    """Open the source *text*: `oci:PATH[:TAG]`, `docker-archive:PATH[:NAME:TAG]` or `docker://HOST/NAME[:TAG|@DIGEST]`.

    Relative paths are relative to the working directory. *scratch* is a directory for decompressed archives.

    Raises:
        ImageError: it is of another form, or cannot be read.
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        raise ImageError(f"{text}: the kind of the source is missing", hint=_HINT)
    if kind == "docker":
        from sandbox.images.transports.registry_image import RegistryImage

        return RegistryImage(text, os.environ)
    if kind not in ("oci", "docker-archive"):
        raise ImageError(f"{text}: {kind}: is not a source of images", hint=_HINT)
    path, reference = split_reference(kind, rest)
    path = os.path.abspath(path)
    return _open_file(kind, path, reference, f"{kind}:{path}{reference and ':'}{reference}", scratch)


def open_layer(layer: Layer, scratch: str) -> ImageSource:
    """Open the source of *layer*, of the kind "oci" or "docker-archive"; see `open_source`."""
    return _open_file(layer.kind, layer.path, layer.reference, layer.shown(), scratch)


def _open_file(kind: str, path: str, reference: str, name: str, scratch: str) -> ImageSource:
    if kind == "oci":
        from sandbox.images.transports.layout import Layout

        return Layout(path, reference, name, scratch)
    from sandbox.images.transports.docker_archive import DockerArchive

    return DockerArchive(path, reference, name, scratch)


def split_reference(kind: str, text: str) -> tuple[str, str]:
    """Return the path and the reference in *text*, which follows "oci:" or "docker-archive:".

    The reference of an archive is NAME:TAG, where NAME may contain slashes and a port. That of a layout is a tag or a digest.
    """
    if kind == "docker-archive":
        path, _, reference = text.partition(":")
        return path, reference
    for algorithm in ("sha256", "sha512"):
        path, found, digest = text.rpartition(f":{algorithm}:")
        if found:
            return path, f"{algorithm}:{digest}"
    path, colon, reference = text.rpartition(":")
    return (text, "") if not colon or "/" in reference else (path, reference)
