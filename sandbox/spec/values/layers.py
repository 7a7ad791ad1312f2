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
from sandbox.spec.settings import NOT_ENFORCED, Codec, Cursor, Invalid, setting, settings_of
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Literal

LayerKind = Literal["dir", "tar", "oci", "image"]

_KINDS: dict[str, LayerKind] = {"dir": "dir", "tar": "tar", "oci": "oci", "image": "image"}
_PLANNED_KINDS = ("oci", "image")
_LAYER_HINT = 'write "dir:PATH" or "tar:PATH"'

_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""The suffixes of the names of archives."""

# A name of an image, as container engines write it, with a tag or a digest: [HOST[:PORT]/]PATH[:TAG][@ALGORITHM:HEX]
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}"
_IMAGE_RULE = 'write NAME, NAME:TAG or NAME@DIGEST, such as "debian:13"'


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the root file system.

    `path` is an absolute path on the host; for an image of the store it is the image's name.
    `reference` selects an image of an OCI layout by its tag or digest.
    `cross` lists the mount points inside a directory layer whose content is part of the layer, as paths in the layer.
    `immutable` promises that the directory does not change, so that it may be indexed.
    """

    kind: LayerKind
    path: str
    cross: tuple[str, ...] = ()
    immutable: bool = False
    reference: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTable:
    """A layer written as a table: exactly one key for its kind, and options of a directory layer."""

    dir: str | None = setting(HostPath(), doc="A directory of the host.", example="/")
    tar: str | None = setting(
        HostPath(), doc="A tar archive, plain or compressed with gzip or zstd.", example="base.tar.zst"
    )
    oci: str | None = setting(
        Text(),
        doc="An image in an OCI layout, as PATH or PATH:TAG.",
        example="./image:latest",
        enforced=False,
    )
    image: str | None = setting(
        Text(_IMAGE, _IMAGE_RULE), doc="An image of the local store.", example="debian:13", enforced=False
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
        layer = (
            _image_layer(kind, path, cursor)
            if kind in _PLANNED_KINDS
            else Layer(kind, resolve_host_path(path, cursor))
        )
        if kind in _PLANNED_KINDS:
            cursor.unenforced(quote(kind + ":"), _LAYER_HINT, fragment=kind + ":")
        return layer

    def _from_table(self, table: dict[str, object], cursor: Cursor) -> Layer:
        before = len(cursor.problems.mistakes)
        decoded = decode_table(LayerTable, table, cursor)
        kinds = [kind for kind in _KINDS if kind in table]
        if not kinds and len(cursor.problems.mistakes) > before:
            return Layer("dir", "/")  # a misspelt kind, which is reported already
        if len(kinds) != 1:
            found = f"found {' and '.join(kinds)}" if kinds else "found none"
            raise Invalid(f"expected one kind of layer, {found}", "write { dir = PATH } or { tar = PATH }")
        if kinds != ["dir"]:
            for key in ("cross", "immutable"):
                if key in table:
                    cursor.child(key).report("only a dir layer has this", "remove it", part="key")
        if len(cursor.problems.mistakes) > before:
            return Layer("dir", "/")  # never returned: the problems are raised instead
        if decoded.tar is not None:
            return Layer("tar", decoded.tar)
        for kind, text in (("oci", decoded.oci), ("image", decoded.image)):
            if text is not None:
                return _image_layer(_KINDS[kind], text, cursor.child(kind))
        return Layer("dir", decoded.dir or "/", cross=decoded.cross, immutable=decoded.immutable)

    def encode(self, value: Layer, /) -> object:
        path = f"{value.path}:{value.reference}" if value.reference else value.path
        if not value.cross and not value.immutable:
            return f"{value.kind}:{path}"
        options: dict[str, object] = {"cross": list(value.cross)} if value.cross else {}
        return {value.kind: path} | options | ({"immutable": True} if value.immutable else {})

    def schema(self) -> dict[str, object]:
        return {"anyOf": [text_schema(f"^({'|'.join(_KINDS)}):"), table_schema(LayerTable)]}

    def describe(self) -> str:
        return f'"dir:PATH", "tar:PATH", or a table; "oci:", "image:": {NOT_ENFORCED}'

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
                    for kind in _KINDS
                    if (path := value.get(kind)) is not None
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
    path, colon, reference = text.rpartition(":")
    if not colon or "/" in reference:
        path, reference = text, ""
    return Layer("oci", resolve_host_path(path, cursor), reference=reference)
