"""Configurations of images keep what is not known here, and are encoded canonically."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.oci.image_config import (
    History,
    ImageConfig,
    ProcessDefaults,
    check_layers,
    decode_config,
    timestamp,
)
from sandbox.images.oci.model import decode_manifest
from sandbox.images.oci.platforms import Platform
from tests.unit.sandbox.images.oci.documents_of_images import DIGEST, OTHER, config, encoded, manifest
from tests.unit.sandbox.images.oci.test_model import DIGESTS, EXTRA, MAPS, TEXTS, WORDS

LISTS = st.lists(TEXTS, max_size=3).map(tuple)
SETS = st.frozensets(TEXTS, max_size=3).map(lambda found: tuple(sorted(found)))
CONFIGS = st.builds(
    ImageConfig,
    platform=st.builds(
        Platform, os=WORDS, architecture=WORDS, variant=TEXTS, os_version=TEXTS, os_features=LISTS
    ),
    diff_ids=st.lists(DIGESTS, max_size=3).map(tuple),
    process=st.builds(
        ProcessDefaults,
        user=TEXTS,
        env=LISTS,
        entrypoint=LISTS,
        cmd=LISTS,
        working_dir=TEXTS,
        stop_signal=TEXTS,
        exposed_ports=SETS,
        volumes=SETS,
        labels=MAPS,
        extra=EXTRA,
    ),
    history=st.lists(
        st.builds(
            History,
            created=TEXTS,
            created_by=TEXTS,
            author=TEXTS,
            comment=TEXTS,
            empty_layer=st.booleans(),
            extra=EXTRA,
        ),
        max_size=3,
    ).map(tuple),
    created=TEXTS,
    author=TEXTS,
    extra=EXTRA,
)


@given(CONFIGS)
def test_a_configuration_is_decoded_as_it_was_encoded(value: ImageConfig) -> None:
    assert decode_config(value.encode(), "doc") == value
    assert decode_config(value.encode(), "doc").encode() == value.encode()


def test_fields_that_are_not_known_are_kept_wherever_they_stand() -> None:
    document = config(
        created="2024-01-01T00:00:00Z",
        container="x",
        config={
            "Env": ["A=b"],
            "Healthcheck": {"Test": ["CMD", "true"]},
            "OnBuild": ["RUN x"],
            "Shell": ["sh"],
        },
        history=[{"created_by": "RUN x", "new": 1}, {"empty_layer": True}],
    )
    assert json.loads(decode_config(encoded(document), "doc").encode()) == document


def test_null_stands_for_nothing_as_docker_writes_it() -> None:
    nothing = {"Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "OnBuild": None, "Labels": None}
    found = decode_config(encoded(config(config=nothing, history=None)), "doc")
    assert found.process == ProcessDefaults()
    assert decode_config(encoded(config(config=None)), "doc") == found


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"os": None}, "os is missing"),
        ({"architecture": ""}, "architecture is missing"),
        ({"rootfs": None}, "rootfs.type is missing"),
        ({"rootfs": {"type": "base", "diff_ids": []}}, "rootfs.type is not layers"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}, r"rootfs.diff_ids\[0\] is not valid"),
        ({"rootfs": {"type": "layers", "diff_ids": [1]}}, r"rootfs.diff_ids\[0\] is not a text"),
        ({"config": {"Env": "A=b"}}, "config.Env is not an array"),
        ({"config": {"Cmd": ["a\0b"]}}, r"config.Cmd\[0\] contains a zero byte"),
        ({"config": {"Volumes": ["/x"]}}, "config.Volumes is not an object"),
        ({"history": [{"empty_layer": "yes"}]}, r"history\[0\].empty_layer is not a boolean"),
    ],
)
def test_a_malformed_configuration_is_refused_with_the_field(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_config(encoded(config(**fields)), "doc")


def test_as_many_diff_ids_as_layers_are_demanded() -> None:
    image = decode_manifest(encoded(manifest()), "doc")
    check_layers(image, decode_config(encoded(config()), "doc"), "doc")
    for diff_ids in ([], [DIGEST], [DIGEST, OTHER, DIGEST]):
        changed = config(rootfs={"type": "layers", "diff_ids": diff_ids})
        with pytest.raises(ImageError, match=f"has 2 layers, but its configuration has {len(diff_ids)} diff"):
            check_layers(image, decode_config(encoded(changed), "doc"), "doc")


def test_times_are_in_utc_whatever_the_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert timestamp(0) == "1970-01-01T00:00:00Z"
    assert timestamp(1_700_000_000) == "2023-11-14T22:13:20Z"
    assert timestamp(-62_135_596_800) == "0001-01-01T00:00:00Z"
    with pytest.raises(ValueError, match="years 1 to 9999"):
        timestamp(1 << 60)
