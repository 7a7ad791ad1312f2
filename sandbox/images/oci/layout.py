"""What a layout of images has besides its blobs (image-spec, image-layout.md): names of files, and the index with its tags. Pure."""

from __future__ import annotations

import re

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.json_documents import canonical, parse
from sandbox.images.oci.media_types import OCI_INDEX
from sandbox.images.oci.model import REF_NAME, Descriptor, Index
from unionfs._stdlib.dataclasses import replace

MARKER = "oci-layout"
INDEX = "index.json"
BLOBS = "blobs"

MARKER_CONTENT = canonical({"imageLayoutVersion": "1.0.0"})
EMPTY_INDEX = Index(media_type=OCI_INDEX, manifests=())

# image-spec, annotations.md: the grammar of `org.opencontainers.image.ref.name`.
_TAG = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*"
)
_LONGEST_TAG = 255


def blob_path(digest: Digest) -> str:
    """Return the path of the blob with *digest* in a layout."""
    return f"{BLOBS}/{digest.algorithm}/{digest.hex}"


def check_marker(content: bytes, name: str) -> None:
    """Refuse a layout of another version than 1.0; *content* is that of MARKER, *name* is for messages.

    Raises:
        ImageError: *content* is malformed, or of another version.
    """
    version = parse(content, f"{name}: {MARKER}").text("imageLayoutVersion")
    if not re.fullmatch(r"1\.0\.[0-9]{1,9}", version):
        shown = printable(version.encode("utf-8", "backslashreplace"))
        raise ImageError(
            f"{name}: a layout of version {shown}, not 1.0", hint="copy the image with `skopeo copy` to oci:"
        )


def check_tag(tag: str) -> None:
    """Refuse a tag that no layout can have.

    Raises:
        ImageError: *tag* is not of the specification's grammar, or has more than 255 characters.
    """
    if len(tag) > _LONGEST_TAG or _TAG.fullmatch(tag) is None:
        raise ImageError(
            f"{printable(tag.encode('utf-8', 'backslashreplace'))!r} is not a tag",
            hint="use letters and digits, with single characters of - . _ : @ + / between them",
        )


def tagged(index: Index, image: Descriptor, tag: str | None) -> Index:
    """Return *index* with *image* under *tag* in place of what had it; None is the image without a tag.

    The index is sorted by tags, so that the order of writing does not matter. Other entries stay as they are.
    """
    annotations = {key: value for key, value in image.annotations.items() if key != REF_NAME}
    entry = replace(image, annotations=annotations if tag is None else {**annotations, REF_NAME: tag})
    others = [each for each in index.manifests if each.annotations.get(REF_NAME) != tag]
    manifests = sorted((*others, entry), key=lambda each: each.annotations.get(REF_NAME, ""))
    return replace(index, manifests=tuple(manifests))
