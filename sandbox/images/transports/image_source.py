"""Define the protocol of the sources of images, and find the manifest of one image for one platform."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.oci.digest import Verifier
from sandbox.images.oci.image_config import ImageConfig, check_layers, decode_config
from sandbox.images.oci.json_documents import DAMAGED, DOCUMENT_LIMIT
from sandbox.images.oci.model import Descriptor, Manifest, choose, decode
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.oci.digest import Digest
    from sandbox.images.oci.platforms import Platform

_INDEXES = 4
"""The most indexes inside each other; tools write one."""


class ImageSource(Protocol):
    """Gives the parts of one image. The creator calls :meth:`close`."""

    #: The source as an environment file writes it, for messages.
    name: str

    def top(self) -> Descriptor:
        """Return the descriptor of the image's manifest or index."""

    def document(self, descriptor: Descriptor) -> bytes:
        """Return the content of a manifest, an index or a configuration, of at most DOCUMENT_LIMIT bytes.

        Raises:
            ImageError: it is missing, larger than its descriptor tells, or cannot be read.
        """

    def copy(self, descriptor: Descriptor, target_fd: int, progress: Callable[[int], None]) -> None:
        """Write the blob of *descriptor* to *target_fd*, a file that may have its beginning already; *progress* gets byte counts.

        Raises:
            ImageError: it is missing or cannot be read, or its digest or size is another; the target is then empty.
        """

    def cancel(self) -> None:
        """End the transfers of all threads soon, with errors. The source can only be closed then."""

    def close(self) -> None:
        """Close the files and connections of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """One image of a source: its documents, decoded and as bytes."""

    #: The descriptor of the manifest, and that of the index which the image was chosen from; None if there was none.
    descriptor: Descriptor
    manifest: Manifest
    manifest_content: bytes
    config: ImageConfig
    config_content: bytes
    index: Descriptor | None = None
    index_content: bytes = b""


def find_image(source: ImageSource, platform: Platform, *, required: bool = False) -> FoundImage:
    """Return the image of *source* for *platform*.

    A source without an index has one image, which is for any platform unless *required*.

    Raises:
        ImageError: there is none for *platform*, or a document is damaged or describes an image that cannot be used.
    """
    descriptor = source.top()
    index: Descriptor | None = None
    index_content = b""
    for _ in range(_INDEXES):
        content = checked(source, descriptor)
        found = decode(content, f"{source.name}: {descriptor.digest}", descriptor.media_type)
        if isinstance(found, Manifest):
            break
        if index is None:
            index, index_content = descriptor, content
        descriptor = choose(found, platform, source.name)
    else:
        raise ImageError(f"{source.name}: more than {_INDEXES} indexes inside each other", hint=DAMAGED)
    config_content = checked(source, found.config)
    config = decode_config(config_content, f"{source.name}: {found.config.digest}")
    check_layers(found, config, source.name)
    if required and (index is None or descriptor.platform is None):
        _check_platform(config, platform, source.name)
    return FoundImage(
        descriptor=descriptor,
        manifest=found,
        manifest_content=content,
        config=config,
        config_content=config_content,
        index=index,
        index_content=index_content,
    )


def _check_platform(config: ImageConfig, platform: Platform, name: str) -> None:
    """Refuse an image that is not for *platform*: an index would have named its platform."""
    if config.platform.normalized() not in platform.substitutes():
        raise ImageError(
            f"{name}: no image for {platform}; there is {config.platform}",
            hint=f"write --platform {config.platform}, if this machine can run its programs",
        )


def checked(source: ImageSource, descriptor: Descriptor) -> bytes:
    """Return the document of *descriptor* after its size and digest were compared.

    Raises:
        ImageError: they differ, or it cannot be read.
    """
    if descriptor.size > DOCUMENT_LIMIT:
        raise ImageError(
            f"{source.name}: the document {descriptor.digest} has {descriptor.size} bytes, more than {DOCUMENT_LIMIT}",
            hint=DAMAGED,
        )
    content = source.document(descriptor)
    verifier = Verifier(descriptor.digest, descriptor.size, source.name)
    verifier.update(content)
    verifier.finish()
    return content


def missing(name: str, digest: Digest) -> ImageError:
    """Return the error that the source *name* does not have the blob *digest*."""
    return ImageError(f"{name}: the blob {digest} is missing", hint="get the image again from its source")
