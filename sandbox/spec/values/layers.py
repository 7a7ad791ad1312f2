"""Codec of a layer of the root file system, written as one string or as a table."""

from __future__ import annotations

import re

from sandbox.spec.codecs import (
    Boolean,
    HostPath,
    ListOf,
    SandboxPath,
    Text,
    expect_text,
    mismatch,
    resolve_host_path,
    text_schema,
)
from sandbox.spec.decode import decode_table, table_schema
from sandbox.spec.notation import nearest, quote, shown
from sandbox.spec.settings import Codec, Cursor, Invalid, setting, settings_of
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import Any, Literal

LayerKind = Literal["dir", "tar", "oci", "docker-archive", "image", "docker"]

_KINDS: dict[str, LayerKind] = {
    "dir": "dir",
    "tar": "tar",
    "oci": "oci",
    "docker-archive": "docker-archive",
    "image": "image",
    "docker": "docker",
}
_KEYS = {kind.replace("-", "_"): kind for kind in _KINDS}
"""The kinds by their keys in a table."""
IMAGE_KINDS: frozenset[LayerKind] = frozenset({"oci", "docker-archive", "image", "docker"})
"""The kinds that are images: they have layers, and defaults for the program."""
_LAYER_HINT = (
    'write "dir:PATH", "tar:PATH", "oci:PATH", "docker-archive:PATH", "image:NAME" or "docker://HOST/NAME"'
)
_ONE_KIND = "write one of { dir = PATH }, { tar = PATH }, { oci = PATH }, { docker_archive = PATH }, { image = NAME } and { docker = NAME }"

_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""The suffixes of the names of archives."""

# A name of an image, as container engines write it, with a tag or a digest: [HOST[:PORT]/]PATH[:TAG][@ALGORITHM:HEX]
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}"
_IMAGE_RULE = 'write NAME, NAME:TAG or NAME@DIGEST, such as "debian:13"'
# The code that fetches images checks the parts of a reference (sandbox/images/registry/reference.py).
_REFERENCE = r"(//)?[A-Za-z0-9\[][A-Za-z0-9._/:@\[\]-]{0,511}"
_REFERENCE_RULE = 'write docker://HOST/NAME:TAG, such as "docker://docker.io/library/debian:13"'


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the root file system.

    `path` is an absolute path on the host. For an image of the store it is the image's name, and for an image of a registry
    HOST/NAME with its tag or digest.
    `reference` selects an image of an OCI layout or of a docker-archive.
    `cross` lists the mount points inside a directory layer whose content is part of the layer, as paths in the layer.
    `immutable` promises that the directory does not change, so that it may be indexed.
    `mount` has an archive, or the layers of an image, mounted instead of unpacked.
    """

    kind: LayerKind
    path: str
    cross: tuple[str, ...] = ()
    immutable: bool = False
    reference: str = ""
    mount: bool = False

    def shown(self) -> str:
        """Return the layer as an environment file writes it, without options."""
        return f"{self.kind}{'://' if self.kind == 'docker' else ':'}{self.named()}"

    def named(self) -> str:
        """Return the path or the name, with the reference if there is one."""
        return f"{self.path}:{self.reference}" if self.reference else self.path


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTable:
    """A layer written as a table: exactly one key for its kind, and options of a directory, an archive or an image."""

    dir: str | None = setting(HostPath(), doc="A directory of the host.", example="/")
    tar: str | None = setting(
        HostPath(), doc="A tar archive, plain or compressed with gzip or zstd.", example="base.tar.zst"
    )
    oci: str | None = setting(
        Text(),
        doc="An image in an OCI layout, a directory or a tar of one, as PATH or PATH:TAG.",
        example="./image:latest",
    )
    docker_archive: str | None = setting(
        Text(),
        doc="An image in an archive of `docker save`, as PATH or PATH:NAME:TAG.",
        example="./image.tar",
    )
    image: str | None = setting(
        Text(_IMAGE, _IMAGE_RULE), doc="An image of the local store.", example="debian:13"
    )
    docker: str | None = setting(
        Text(_REFERENCE, _REFERENCE_RULE),
        doc="An image of a registry, as HOST/NAME:TAG or HOST/NAME@DIGEST.",
        example="docker.io/library/debian:13",
    )
    cross: tuple[str, ...] = setting(
        ListOf(SandboxPath(), distinct=True),
        doc="Mount points in the directory whose content is shown. All others appear as empty directories or files.",
        example=["/usr", "/home"],
        default=(),
    )
    immutable: bool = setting(
        Boolean(),
        doc="Whether the directory is guaranteed not to change while it is used, so that it may be indexed.",
        example=True,
        default=False,
    )
    mount: bool = setting(
        Boolean(),
        doc="Whether the archive, or each layer of the image, is mounted instead of unpacked. If it is compressed, it has to "
        "consist of small frames, as pzstd, zstd:chunked and eStargz write them.",
        example=True,
        default=False,
    )


class LayerCodec(Codec[Layer]):
    """One string, "dir:PATH" or "tar:PATH", or a table with one of these keys and options."""

    expects = "layer"
    toml_types = ("string", "table")

    def decode(self, value: object, cursor: Cursor, /) -> Layer:
        if isinstance(value, str):
            return self._from_text(expect_text(self, value), cursor)
        if isinstance(value, dict):
            return self._from_table(value, cursor)
        raise mismatch(self, value, _LAYER_HINT)

    def _from_text(self, text: str, cursor: Cursor) -> Layer:
        word, colon, path = text.partition(":")
        if not colon:
            prefix = "tar:" if text.lower().endswith(_ARCHIVES) else "dir:"
            raise Invalid(
                f"{shown(text)} has no prefix that sets the kind of layer",
                f"write {quote(prefix + text[:60])}",
            )
        kind = _KINDS.get(word)
        if kind is None:
            meant = nearest(word, _KINDS)
            hint = f"did you mean {quote(meant + ':')}?" if meant else _LAYER_HINT
            raise Invalid(f"unknown kind of layer {shown(word + ':')}", hint)
        if kind == "docker" and not path.startswith("//"):
            raise Invalid(f"{shown(text)} is not a reference to a registry", _REFERENCE_RULE)
        if kind in IMAGE_KINDS:
            return _image_layer(kind, path, cursor)
        return Layer(kind, resolve_host_path(path, cursor))

    def _from_table(self, table: dict[str, object], cursor: Cursor) -> Layer:
        before = len(cursor.problems.mistakes)
        decoded = decode_table(LayerTable, table, cursor)
        kinds = [key for key in _KEYS if key in table]
        if not kinds and len(cursor.problems.mistakes) > before:
            return Layer("dir", "/")  # a misspelt kind, which is reported already
        if len(kinds) != 1:
            found = f"found {' and '.join(kinds)}" if kinds else "found none"
            raise Invalid(f"expected one kind of layer, {found}", _ONE_KIND)
        if kinds != ["dir"]:
            for key in ("cross", "immutable"):
                if key in table:
                    cursor.child(key).report("only a dir layer has this", "remove it", part="key")
        if kinds == ["dir"] and "mount" in table:
            cursor.child("mount").report("a dir layer is always used as it is", "remove it", part="key")
        if len(cursor.problems.mistakes) > before:
            return Layer("dir", "/")  # never returned: the problems are raised instead
        if decoded.tar is not None:
            return Layer("tar", decoded.tar, mount=decoded.mount)
        for key, text in (
            ("oci", decoded.oci),
            ("docker_archive", decoded.docker_archive),
            ("image", decoded.image),
            ("docker", decoded.docker),
        ):
            if text is not None:
                image = _image_layer(_KINDS[_KEYS[key]], text, cursor.child(key))
                return replace(image, mount=True) if decoded.mount else image
        return Layer("dir", decoded.dir or "/", cross=decoded.cross, immutable=decoded.immutable)

    def encode(self, value: Layer, /) -> object:
        if value.mount:
            return {value.kind.replace("-", "_"): value.named(), "mount": True}
        if not value.cross and not value.immutable:
            return value.shown()
        options: dict[str, object] = {"cross": list(value.cross)} if value.cross else {}
        return {value.kind: value.path} | options | ({"immutable": True} if value.immutable else {})

    def schema(self) -> dict[str, object]:
        return {"anyOf": [text_schema(f"^({'|'.join(_KINDS)}):"), table_schema(LayerTable)]}

    def describe(self) -> str:
        return '"dir:PATH", "tar:PATH", "oci:PATH", "docker-archive:PATH", "image:NAME", "docker://HOST/NAME", or a table'

    def inside(self, key: str | int, /) -> Codec[Any] | None:
        setting = settings_of(LayerTable).get(key) if isinstance(key, str) else None
        return setting.codec if setting else None

    def names(self, value: object, /) -> tuple[object, ...]:
        if isinstance(value, str):
            return (value, value.partition(":")[2])
        if isinstance(value, dict):
            return (
                value,
                *(
                    part
                    for key, kind in _KEYS.items()
                    if (path := value.get(key)) is not None
                    for part in (path, f"{kind}:{path}")
                ),
            )
        return (value,)


def _image_layer(kind: LayerKind, text: str, cursor: Cursor) -> Layer:
    """Return the layer for an image: of an OCI layout on the host, or of the store by its name."""
    if kind == "image":
        if not re.fullmatch(_IMAGE, text):
            raise Invalid(f"{shown(text)} is not the name of an image", _IMAGE_RULE)
        return Layer("image", text)
    if kind == "docker":
        if not re.fullmatch(_REFERENCE, text):
            raise Invalid(f"{shown(text)} is not a reference to a registry", _REFERENCE_RULE)
        return Layer("docker", text.removeprefix("//"))
    # The reference of a docker-archive is NAME:TAG, where NAME may contain slashes and a port; that of a layout is a tag.
    path, colon, reference = text.partition(":") if kind == "docker-archive" else text.rpartition(":")
    if kind == "oci" and path.endswith((":sha256", ":sha512")):
        path, _, algorithm = path.rpartition(":")
        reference = f"{algorithm}:{reference}"
    if not colon or (kind == "oci" and "/" in reference):
        path, reference = text, ""
    return Layer(kind, resolve_host_path(path, cursor), reference=reference)
