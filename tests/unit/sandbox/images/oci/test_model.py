"""Manifests and indexes are decoded strictly, encoded canonically, and images chosen by platform."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.oci import media_types
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.model import (
    Descriptor,
    Index,
    Manifest,
    choose,
    decode,
    decode_index,
    decode_manifest,
)
from sandbox.images.oci.platforms import Platform
from tests.unit.sandbox.images.oci.documents_of_images import (
    OTHER,
    descriptor,
    encoded,
    index,
    manifest,
)

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
WORDS = TEXTS.filter(bool)
DIGESTS = st.builds(Digest, st.just("sha256"), st.from_regex("[0-9a-f]{64}", fullmatch=True)) | st.builds(
    Digest, st.just("sha512"), st.from_regex("[0-9a-f]{128}", fullmatch=True)
)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=3)
#: Unknown fields: none of these names is one of the specification's.
EXTRA = st.dictionaries(
    WORDS.map(lambda text: f"x-{text}"), st.integers() | TEXTS | st.lists(TEXTS), max_size=2
)
PLATFORMS = st.builds(
    Platform,
    os=WORDS,
    architecture=WORDS,
    variant=TEXTS,
    os_version=TEXTS,
    os_features=st.lists(TEXTS, max_size=2).map(tuple),
    extra=EXTRA,
)


def descriptors(types: st.SearchStrategy[str]) -> st.SearchStrategy[Descriptor]:
    return st.builds(
        Descriptor,
        media_type=types,
        digest=DIGESTS,
        size=st.integers(0, (1 << 63) - 1),
        annotations=MAPS,
        urls=st.lists(WORDS, max_size=2).map(tuple),
        platform=st.none() | PLATFORMS,
        extra=EXTRA,
    )


MANIFESTS = st.builds(
    Manifest,
    media_type=st.sampled_from(sorted(media_types.MANIFESTS)),
    config=descriptors(st.sampled_from(sorted(media_types.CONFIGS))),
    layers=st.lists(descriptors(st.sampled_from(sorted(media_types.LAYERS))), max_size=3).map(tuple),
    annotations=MAPS,
    extra=EXTRA,
)
INDEXES = st.builds(
    Index,
    media_type=st.sampled_from(sorted(media_types.INDEXES)),
    manifests=st.lists(descriptors(WORDS), max_size=3).map(tuple),
    annotations=MAPS,
    extra=EXTRA,
)


@given(MANIFESTS | INDEXES)
def test_a_document_is_decoded_as_it_was_encoded(value: Manifest | Index) -> None:
    content = value.encode()
    assert decode(content, "doc") == value
    assert decode(content, "doc", value.media_type).encode() == content


@given(st.data())
def test_a_document_with_any_changed_value_is_a_value_or_refused(data: st.DataObject) -> None:
    document: Any = data.draw(st.sampled_from([manifest(), index("linux/amd64", None)]))
    at: Any = document
    while isinstance(at, dict | list) and at:
        parent, key = at, data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        at = parent[key]
        if data.draw(st.booleans()):
            break
    parent[key] = data.draw(st.sampled_from([None, True, -1, 1.5, "", "x", [], {}, [1], {"a": 1}, 1 << 64]))
    try:
        value = decode(encoded(document), "doc")
    except ImageError:
        return
    assert decode(value.encode(), "doc") == value


@pytest.mark.parametrize("name", ["manifest", "index"])
def test_the_type_may_be_stated_by_the_document_the_sender_or_only_by_the_fields(name: str) -> None:
    document = manifest() if name == "manifest" else index("linux/amd64")
    stated = document.pop("mediaType")
    assert decode(encoded(document), "doc").media_type == stated
    docker = media_types.DOCKER_MANIFEST if name == "manifest" else media_types.DOCKER_LIST
    assert decode(encoded(document), "doc", docker).media_type == docker
    document["mediaType"] = docker
    assert decode(encoded(document), "doc", f"{docker}; charset=utf-8").media_type == docker
    assert decode(encoded(document), "doc", "application/json").media_type == docker
    with pytest.raises(ImageError, match="is served as"):
        decode(encoded(document), "doc", stated)


def test_a_document_that_could_be_both_kinds_is_refused() -> None:
    for extra in ({"layers": []}, {"config": descriptor(media_types.OCI_CONFIG)}):
        with pytest.raises(ImageError, match="a manifest and an index"):
            decode(encoded(index("linux/amd64", **extra)), "doc")


def test_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ImageError, match="an index of images where a manifest"):
        decode_manifest(encoded(index()), "doc")
    with pytest.raises(ImageError, match="a manifest where an index"):
        decode_index(encoded(manifest()), "doc")


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"schemaVersion": 1, "name": "x", "fsLayers": []}, ""),
        ({"schemaVersion": 2}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"}, ""),
    ],
)
def test_schema_1_is_refused_by_name(document: dict[str, Any], media_type: str) -> None:
    with pytest.raises(ImageError, match=r"Docker's schema 1") as caught:
        decode(encoded(document), "doc", media_type)
    assert "skopeo copy --format oci" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}, "is foreign"),
        ({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, "is foreign"),
        ({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"}, "is encrypted"),
        ({"mediaType": "application/vnd.example.model"}, "is of the unknown type application/vnd.example"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused_with_its_digest(layer: dict[str, Any], reason: str) -> None:
    layers = [
        descriptor(media_types.OCI_LAYER),
        {**descriptor(media_types.OCI_LAYER), "digest": OTHER, **layer},
    ]
    with pytest.raises(ImageError, match=f"layer 2 of 2, {OTHER}, {reason}"):
        decode(encoded(manifest(layers=layers)), "doc")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schemaVersion": 3}, "schemaVersion is not 2"),
        ({"schemaVersion": True}, "schemaVersion is not an integer"),
        ({"config": None}, "config is missing"),
        ({"config": descriptor("application/vnd.oci.empty.v1+json")}, "an artifact with a configuration"),
        ({"mediaType": "application/json"}, "mediaType is application/json, which is no image"),
        (
            {"layers": [descriptor(media_types.OCI_LAYER, digest="sha256:../x")]},
            r"layers\[0\].digest is not valid",
        ),
        ({"layers": [descriptor(media_types.OCI_LAYER, size=-1)]}, r"layers\[0\].size is not an integer"),
        ({"layers": [descriptor(media_types.OCI_LAYER, size=None)]}, r"layers\[0\].size is not an integer"),
        ({"layers": [descriptor("")]}, r"layers\[0\].mediaType is missing"),
        ({"layers": {}}, "layers is not an array"),
        ({"annotations": {"a": 1}}, "annotations.a is not a text"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_field(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(encoded(manifest(**fields)), "doc")


def chosen(platform: str, *entries: str | None) -> int:
    found = choose(decode_index(encoded(index(*entries)), "doc"), Platform.parse(platform), "doc")
    return found.size  # the number of the entry


@pytest.mark.parametrize(
    ("platform", "entries", "number"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["windows/amd64", "linux/amd64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386", "linux/amd64/v2"], 0),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v6", ["linux/arm", "linux/arm/v5"], 1),
        ("linux/amd64", ["linux/arm64", None], 1),
        ("linux/amd64", [None, "linux/amd64"], 1),
        ("linux/amd64", ["unknown/unknown", "linux/x86_64"], 1),
    ],
)
def test_the_best_image_that_the_machine_runs_is_chosen(
    platform: str, entries: list[str | None], number: int
) -> None:
    assert chosen(platform, *entries) == number


def test_an_index_without_the_platform_is_refused_with_what_it_has() -> None:
    with pytest.raises(ImageError) as caught:
        chosen(
            "linux/riscv64", "linux/amd64", "unknown/unknown", "linux/arm64/v8", "linux/arm/v7", "linux/amd64"
        )
    assert caught.value.message == (
        "doc: no image for linux/riscv64; there is linux/amd64, linux/arm64, linux/arm/v7"
    )
    for entries in ((), (None, None)):
        with pytest.raises(ImageError, match="there is nothing with a platform"):
            chosen("linux/riscv64", *entries)


def test_a_descriptor_of_some_content_has_its_digest_and_size() -> None:
    found = Descriptor.of(media_types.OCI_CONFIG, b"{}")
    assert found.as_document() == {
        "mediaType": media_types.OCI_CONFIG,
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert found.digest == Digest.of(b"{}")
