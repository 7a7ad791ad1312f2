"""Read an image of a registry through the client of sandbox/images/registry/."""

from __future__ import annotations

import os

from sandbox.images.oci.digest import Digest
from sandbox.images.oci.media_types import INDEXES, MANIFESTS
from sandbox.images.oci.model import Descriptor
from sandbox.images.registry.client import client_for
from sandbox.images.registry.reference import parse_reference

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.images.registry.settings import TlsSettings


class RegistryImage:
    """An image of a registry (implements `ImageSource`). Owns connections and a thread until :meth:`close`."""

    def __init__(
        self,
        text: str,
        environ: Mapping[str, str],
        *,
        authfile: str | None = None,
        tls: TlsSettings | None = None,
    ) -> None:
        """Make no connection yet. *text* is `docker://HOST/NAME[:TAG][@DIGEST]`; the rest is as for `client_for`.

        Raises:
            ImageError: *text* is no such reference, or a configuration file is malformed or blocks the image.
        """
        self._reference = parse_reference(text)
        self.name = str(self._reference)
        self._client = client_for(self._reference, environ, authfile=authfile, tls=tls)
        self._documents: dict[Digest, bytes] = {}

    def top(self) -> Descriptor:
        """Return the descriptor of the manifest or index that the registry has for the tag or digest.

        Raises:
            RegistryError: there is none, or the registry cannot be reached.
        """
        found = self._client.manifest(self._reference.target)
        digest = Digest.parse(found.digest)
        self._documents[digest] = found.content
        return Descriptor(media_type=found.media_type, digest=digest, size=len(found.content))

    def document(self, descriptor: Descriptor) -> bytes:
        """Return the content of a document; see `ImageSource.document`."""
        known = self._documents.get(descriptor.digest)
        if known is not None:
            return known
        if descriptor.media_type in MANIFESTS | INDEXES:
            return self._client.manifest(str(descriptor.digest)).content
        fd = os.memfd_create("document", os.MFD_CLOEXEC)
        with open(fd, "rb") as file:
            self._client.download(str(descriptor.digest), descriptor.size, fd)
            file.seek(0)
            return file.read()

    def copy(self, descriptor: Descriptor, target_fd: int, progress: Callable[[int], None]) -> None:
        """Write a blob to *target_fd*, which may have its beginning; see `ImageSource.copy`."""
        before = 0

        def report(position: int) -> None:
            nonlocal before
            progress(position - before)
            before = position

        self._client.download(str(descriptor.digest), descriptor.size, target_fd, report)

    def read_range(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        """Return *length* bytes of a blob from *offset*. They are not verified.

        Raises:
            RegistryError: the request failed, or the registry does not serve ranges.
        """
        return self._client.read_range(str(descriptor.digest), offset, length)

    def cancel(self) -> None:
        """End all transfers at once."""
        self._client.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
