"""Read an image from an OCI layout, a directory or a tar of one (image-spec, image-layout.md)."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci.json_documents import DAMAGED, DOCUMENT_LIMIT
from sandbox.images.oci.layout import INDEX, MARKER, blob_path, check_marker
from sandbox.images.oci.model import REF_NAME, Descriptor, decode_index
from sandbox.images.transports.file_source import FileSource
from sandbox.images.transports.files import read_small
from sandbox.images.transports.image_source import missing

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.oci.digest import Digest


class Layout(FileSource):
    """An image of a layout. Owns the open files until :meth:`close`."""

    def __init__(self, path: str, reference: str, name: str, scratch: str) -> None:
        """Open the layout at *path*. *reference* is a tag, a digest, or "" for the only image; *name* is for messages.

        *scratch* is a directory for a decompressed archive.

        Raises:
            ImageError: it is no layout, or cannot be read.
        """
        super().__init__(path, name, scratch)
        self._reference = reference
        try:
            marker = read_small(self._files, MARKER, DOCUMENT_LIMIT, name)
            if marker is None:
                raise ImageError(
                    f"{name}: has no file {MARKER}, so it is no OCI layout",
                    hint='for an archive of `docker save`, write "docker-archive:PATH"; for an exported container, "tar:PATH"',
                )
            check_marker(marker, name)
        except BaseException:
            self._files.close()
            raise

    def top(self) -> Descriptor:
        """Return the descriptor that the tag or digest selects.

        Raises:
            ImageError: there is none, or more than one.
        """
        content = read_small(self._files, INDEX, DOCUMENT_LIMIT, self.name)
        if content is None:
            raise ImageError(f"{self.name}: has no {INDEX}", hint=DAMAGED)
        manifests = decode_index(content, f"{self.name}: {INDEX}").manifests
        wanted = self._reference
        if wanted.startswith(("sha256:", "sha512:")):
            found = [one for one in manifests if str(one.digest) == wanted]
        elif wanted:
            found = [one for one in manifests if one.annotations.get(REF_NAME) == wanted]
        else:
            found = list(manifests)
        if len({one.digest for one in found}) == 1:
            return found[0]
        tags = sorted({one.annotations[REF_NAME] for one in manifests if REF_NAME in one.annotations})
        listed = printable(", ".join(tags[:20]).encode("utf-8", "backslashreplace")) or "no tags"
        problem = (
            "has more than one image" if found else f"has no image {wanted}" if wanted else "has no image"
        )
        raise ImageError(f"{self.name}: {problem}", hint=f"append a tag to the path; there are: {listed}")

    def document(self, descriptor: Descriptor) -> bytes:
        """Return the content of a document; see `ImageSource.document`."""
        content = read_small(self._files, blob_path(descriptor.digest), DOCUMENT_LIMIT, self.name)
        if content is None:
            raise missing(self.name, descriptor.digest)
        return content

    def _path_of(self, digest: Digest) -> str:
        return blob_path(digest)
