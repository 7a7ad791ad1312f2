"""Fetch an image of a registry into the store, and send one of the store to a registry."""

from __future__ import annotations

import os
from functools import partial

from sandbox.errors import ImageError
from sandbox.images.blobs import BlobStore
from sandbox.images.importing import NoBlobProgress, host_platform, import_image
from sandbox.images.listing import find_record
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.json_documents import DOCUMENT_LIMIT
from sandbox.images.oci.platforms import Platform
from sandbox.images.registry.client import client_for
from sandbox.images.registry.reference import SCHEME, parse_reference
from sandbox.images.registry.transfers import run_transfers
from sandbox.images.stored_images import StoredImages
from sandbox.images.transports.registry_image import RegistryImage

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.importing import BlobProgress, Prepare
    from sandbox.images.registry.reference import Reference
    from sandbox.images.registry.settings import TlsSettings
    from sandbox.images.stored_images import ImageRecord

_MOUNTS = 2
"""The most repositories that a blob is requested from; each is one request more if it is no longer there."""


def pull(
    images: str,
    text: str,
    name: str | None = None,
    *,
    platform: str | None = None,
    progress: BlobProgress | None = None,
    prepare: Prepare | None = None,
    authfile: str | None = None,
    tls: TlsSettings | None = None,
    repair: bool = False,
    lazy: bool = False,
) -> ImageRecord:
    """Fetch the image *text*, `docker://HOST/NAME[:TAG][@DIGEST]`, into the image directory *images*; return its record.

    Its name in the store is *name*, or the reference without "docker://". *platform* is OS/ARCHITECTURE[/VARIANT]; None for that
    of this machine, or of the only image. *progress*, *prepare* and *repair* are as for `import_image`, and the rest as for
    `client_for`. With *lazy*, only the tables of contents are fetched of layers that have one.

    Raises:
        ImageError: *text* is no such reference, there is no such image, it is damaged, or the registry cannot be reached.
        StateError: the image directory cannot be written.
    """
    reference = parse_reference(text)
    wanted = host_platform() if platform is None else Platform.parse(platform)
    stored = name or str(reference).removeprefix(SCHEME)
    source = RegistryImage(str(reference), os.environ, authfile=authfile, tls=tls)
    try:
        partly = None
        if lazy:
            from sandbox.images.chunked.fetch_table import fetch_table
            from sandbox.images.chunked.partial_layers import PartialLayers

            partly = partial(fetch_table, source, PartialLayers(images))
        return import_image(
            images,
            source,
            wanted,
            stored,
            progress,
            prepare=prepare,
            required=platform is not None,
            repair=repair,
            partly=partly,
        )
    finally:
        source.close()


def push(
    images: str,
    name: str,
    text: str,
    *,
    progress: BlobProgress | None = None,
    authfile: str | None = None,
    tls: TlsSettings | None = None,
) -> str:
    """Send the image *name* of the store to `docker://HOST/NAME[:TAG]`; return the digest of its manifest, which it keeps.

    Blobs that the registry has already are not sent. Those of images that were fetched from another repository there are mounted.

    Raises:
        ImageError: the store has no such image, *text* is no reference or has another digest, or the registry refuses the image.
    """
    _, record = find_record(images, name)
    reference = parse_reference(text)
    if reference.digest not in (None, record.digest):
        raise ImageError(
            f"{name} has the digest {record.digest}, not that of {text}",
            hint="write docker://HOST/NAME:TAG; an image keeps its digest",
        )
    blobs = BlobStore(images)
    manifest = blobs.read(Digest.parse(record.digest), DOCUMENT_LIMIT)
    sizes = {layer.digest: layer.size for layer in record.layers}
    sizes[record.config] = blobs.size(Digest.parse(record.config))
    mount_from = _repositories(images, reference)
    progress = progress or NoBlobProgress()
    progress.begin(text, list(sizes.values()))
    try:
        with client_for(reference, os.environ, push=True, authfile=authfile, tls=tls) as client:

            def send(digest: str) -> None:
                sent = 0

                def report(position: int) -> None:
                    nonlocal sent
                    progress.advance(position - sent)
                    sent = position

                fd = blobs.open(Digest.parse(digest))
                try:
                    client.push_blob(
                        digest, sizes[digest], fd, mount_from=mount_from.get(digest, ()), report=report
                    )
                finally:
                    os.close(fd)
                progress.advance(sizes[digest] - sent)

            run_transfers([partial(send, digest) for digest in sizes], client.cancel)
            client.put_manifest(reference.tag or reference.target, record.media_type, manifest)
    finally:
        progress.end()
    return record.digest


def _repositories(images: str, target: Reference) -> dict[str, list[str]]:
    """Return the other repositories in the registry of *target* that a blob of the store was fetched from, by its digest."""
    stored = StoredImages(images)
    found: dict[str, list[str]] = {}
    for name in stored.names().values():
        if not name.source.startswith(SCHEME) or (record := stored.record(name.digest)) is None:
            continue
        repository = parse_reference(name.source).repository
        if repository.registry != target.repository.registry or repository.path == target.repository.path:
            continue
        for digest in {record.config, *(layer.digest for layer in record.layers)}:
            paths = found.setdefault(digest, [])
            if repository.path not in paths and len(paths) < _MOUNTS:
                paths.append(repository.path)
    return found
