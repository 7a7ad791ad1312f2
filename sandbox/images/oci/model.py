"""Manifests and indexes of images as values, decoded from untrusted bytes (OCI image-spec 1.1 and Docker schema 2). Pure.

`decode` returns the `Manifest` or the `Index` in a document, and refuses what cannot be used: schema 1, artifacts that are no
images, foreign and encrypted layers. `choose` selects the image for a platform from an index. A value is encoded by
`encode`, which gives equal bytes for equal values. What a registry or a layout has stored is kept as it is, because its digest
is the name of the image.
"""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci import media_types, platforms
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.json_documents import DAMAGED, Fields, canonical, parse
from sandbox.images.oci.platforms import Platform
from unionfs._stdlib.dataclasses import dataclass, field, replace
from unionfs._stdlib.typing import Any, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation of a descriptor in the index of a layout that has its tag (image-spec, annotations.md)."""

_DESCRIPTOR = ("mediaType", "digest", "size", "annotations", "urls", "platform")
_MANIFEST = ("schemaVersion", "mediaType", "config", "layers", "annotations")
_INDEX = ("schemaVersion", "mediaType", "manifests", "annotations")


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A reference to some content (image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int  # in bytes
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields that are not known here

    @classmethod
    def decode(cls, fields: Fields) -> Self:
        """Return the descriptor in *fields*.

        Raises:
            ImageError: a field is missing, or not as the specification demands.
        """
        text = fields.text("digest")
        try:
            digest = Digest.parse(text)
        except ValueError as error:
            fields.refuse("digest", f"is not valid: {error}")
        platform = None
        if "platform" in fields:
            given = fields.inner("platform")
            platform = replace(Platform.decode(given), extra=given.rest(platforms.FIELDS))
        return cls(
            media_type=fields.text("mediaType"),
            digest=digest,
            size=fields.integer("size"),
            annotations=fields.text_map("annotations"),
            urls=fields.texts("urls"),
            platform=platform,
            extra=fields.rest(_DESCRIPTOR),
        )

    @classmethod
    def of(cls, media_type: str, content: bytes) -> Self:
        """Return the descriptor of *content*."""
        return cls(media_type=media_type, digest=Digest.of(content), size=len(content))

    def as_document(self) -> dict[str, Any]:
        """Return the descriptor for JSON."""
        document = {
            **self.extra,
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.urls:
            document["urls"] = list(self.urls)
        if self.platform is not None:
            document["platform"] = self.platform.as_document()
        return document


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The configuration and the layers of one image, bottom first (image-spec, manifest.md)."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the manifest as canonical JSON."""
        document = {
            **self.extra,
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.as_document(),
            "layers": [layer.as_document() for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical(document)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """Images for several platforms, or those of a layout (image-spec, image-index.md)."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the index as canonical JSON."""
        document = {
            **self.extra,
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.as_document() for manifest in self.manifests],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical(document)


def decode(content: bytes, name: str, media_type: str = "") -> Manifest | Index:
    """Return the manifest or the index in *content*; *name*, its source and digest, is for messages.

    *media_type* is that of the descriptor or of the response of the registry, "" if it is not known. It must be that which the
    document states. A document that could be both kinds is refused, as two readers would not run the same image
    (CVE-2021-41190).

    Raises:
        ImageError: the document is malformed, of another kind, or describes an image that cannot be used.
    """
    fields = parse(content, name)
    found = _media_type(fields, media_type)
    if found in media_types.MANIFESTS:
        return _manifest(fields, found)
    return _index(fields, found)


def decode_manifest(content: bytes, name: str, media_type: str = "") -> Manifest:
    """Return the manifest in *content*. Arguments and errors are those of `decode`; an index is an error, too."""
    found = decode(content, name, media_type)
    if isinstance(found, Index):
        raise ImageError(f"{name}: an index of images where a manifest is expected", hint=DAMAGED)
    return found


def decode_index(content: bytes, name: str, media_type: str = "") -> Index:
    """Return the index in *content*. Arguments and errors are those of `decode`; a manifest is an error, too."""
    found = decode(content, name, media_type)
    if isinstance(found, Manifest):
        raise ImageError(f"{name}: a manifest where an index of images is expected", hint=DAMAGED)
    return found


def choose(index: Index, platform: Platform, name: str) -> Descriptor:
    """Return the entry of *index* for *platform*: the best that the machine runs, and the first of equal ones.

    An entry without a platform is chosen if it is the only one and no other matches; its configuration has the platform. The
    entry may be an index itself. *name* is for messages.

    Raises:
        ImageError: *index* has nothing for *platform*; the message lists what it has.
    """
    entries = [
        (entry, entry.platform.normalized()) for entry in index.manifests if entry.platform is not None
    ]
    for wanted in platform.substitutes():
        for entry, found in entries:
            if found == wanted:
                return entry
    rest = [entry for entry in index.manifests if entry.platform is None]
    if len(rest) == 1:
        return rest[0]
    # Entries for unknown/unknown are attestations about the others, not images.
    found_names = dict.fromkeys(str(found) for _, found in entries if found.os != "unknown")
    listed = ", ".join(list(found_names)[:20]) or "nothing with a platform"
    raise ImageError(
        f"{name}: no image for {platform}; there is {listed}",
        hint="choose one of these with --platform, if this machine can run its programs"
        if found_names
        else None,
    )


def _media_type(fields: Fields, expected: str) -> str:
    """Return the type of the document *fields*."""
    stated = fields.optional_text("mediaType")
    expected = expected.partition(";")[0].strip()  # a response may add a character set
    version = fields.integer("schemaVersion") if "schemaVersion" in fields else 0
    if version == 1 or media_types.SCHEMA_1 & {stated, expected}:
        raise ImageError(
            f"{fields.name}: a manifest of Docker's schema 1, which is not supported",
            hint="convert the image with `skopeo copy --format oci`",
        )
    if version != 2:
        fields.refuse("schemaVersion", "is not 2")
    known = media_types.MANIFESTS | media_types.INDEXES
    if stated and expected in known and stated != expected:
        fields.refuse("mediaType", f"is {_shown(stated)}, but the document is served as {expected}")
    if "manifests" in fields and ("layers" in fields or "config" in fields):
        fields.refuse("manifests", "stands beside layers: the document is a manifest and an index")
    found = stated or (expected if expected in known else "")
    if not found:  # `mediaType` is optional in both
        found = media_types.OCI_INDEX if "manifests" in fields else media_types.OCI_MANIFEST
    if found not in known:
        fields.refuse("mediaType", f"is {_shown(found)}, which is no image")
    return found


def _index(fields: Fields, media_type: str) -> Index:
    return Index(
        media_type=media_type,
        manifests=tuple(Descriptor.decode(entry) for entry in fields.objects("manifests")),
        annotations=fields.text_map("annotations"),
        extra=fields.rest(_INDEX),
    )


def _manifest(fields: Fields, media_type: str) -> Manifest:
    if "config" not in fields:
        fields.refuse("config", "is missing")
    manifest = Manifest(
        media_type=media_type,
        config=Descriptor.decode(fields.inner("config")),
        layers=tuple(Descriptor.decode(layer) for layer in fields.objects("layers")),
        annotations=fields.text_map("annotations"),
        extra=fields.rest(_MANIFEST),
    )
    if manifest.config.media_type not in media_types.CONFIGS:
        raise ImageError(
            f"{fields.name}: an artifact with a configuration of type {_shown(manifest.config.media_type)}, not an image",
            hint="give the name of an image",
        )
    for number, layer in enumerate(manifest.layers, 1):
        _check_layer(fields.name, f"layer {number} of {len(manifest.layers)}, {layer.digest},", layer)
    return manifest


def _check_layer(name: str, shown: str, layer: Descriptor) -> None:
    """Refuse a layer that cannot be read; *shown* names it."""
    if media_types.is_encrypted(layer.media_type):
        raise ImageError(
            f"{name}: {shown} is encrypted",
            hint="copy the image with `skopeo copy --decryption-key KEY`, and use the copy",
        )
    if media_types.is_foreign(layer.media_type):
        raise ImageError(
            f"{name}: {shown} is foreign: the image does not contain it",
            hint="choose an image that contains all its layers; only those for Windows usually do not",
        )
    if layer.media_type not in media_types.LAYERS:
        raise ImageError(
            f"{name}: {shown} is of the unknown type {_shown(layer.media_type)}",
            hint="convert the image with `skopeo copy --format oci`",
        )


def _shown(text: str) -> str:
    return printable(text.encode("utf-8", "backslashreplace"))
