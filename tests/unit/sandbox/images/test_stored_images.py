"""Names and records of images: what they refer to, and what is done with damaged files."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.errors import ImageError, StateError
from sandbox.images.stored_images import (
    ImageName,
    ImageRecord,
    StoredImages,
    check_new_name,
    is_of_file,
    normalized,
)
from sandbox.plan.image_values import ImageDefaults, ImageLayer
from sandbox.spec.load import parse
from unionfs._stdlib.dataclasses import replace

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
LAYER = ImageLayer(diff_id=C, digest=B, size=7, media_type="application/x")
RECORD = ImageRecord(
    digest=A,
    media_type="application/y",
    config=B,
    platform="linux/amd64",
    layers=(LAYER, LAYER),
    defaults=ImageDefaults(entrypoint=("/bin/sh", "-c"), env=("A=b",), user="5:6", stop_signal="9"),
    created="2020-01-01T00:00:00Z",
)


@pytest.fixture
def stored(tmp_path: Path) -> StoredImages:
    return StoredImages(str(tmp_path / "images"))


def test_a_record_and_its_names_are_read_as_they_were_written(stored: StoredImages) -> None:
    name = ImageName(name="debian:13", digest=A, index=C, source="oci:/x", version=(1, 2**70))
    stored.add(RECORD, name)
    stored.add(RECORD, replace(name, name="other:1", index=""))
    assert stored.record(A) == RECORD
    assert stored.records() == [RECORD]
    found = stored.names()
    assert sorted(found) == ["debian:13", "other:1"]
    assert replace(found["debian:13"], time=0.0) == name
    assert found["debian:13"].time > 1.7e9


def test_nothing_is_stored_before_the_first_image(stored: StoredImages) -> None:
    assert (stored.names(), stored.records(), stored.record(A), stored.find("debian")) == ({}, [], None, None)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("debian", "debian:latest"),
        ("debian:latest", "debian:latest"),
        ("debian:13", "debian:13"),
        (f"debian@{A}", "debian:latest"),
        (f"debian@{C}", "debian:13"),  # the digest of its index
        (f"debian:13@{A}", "debian:latest"),  # the digest decides, as for docker
        (f"other@{A}", None),
        ("image:debian", "debian:latest"),
        ("image:debian:13", "debian:13"),
        (f"image:debian@{C}", "debian:13"),
        ("image:oci:/lay", "oci:/lay"),
        ("host:5000/debian", "host:5000/debian:latest"),
        ("host:5000/debian:latest", "host:5000/debian:latest"),
        ("oci:/lay", "oci:/lay"),
        ("debian:12", None),
        ("", None),
    ],
)
def test_a_name_refers_to_one_image(stored: StoredImages, wanted: str, found: str | None) -> None:
    for name, digest, index in (
        ("debian:latest", A, ""),
        ("debian:13", B, C),
        ("host:5000/debian:latest", B, ""),
        ("oci:/lay", C, ""),
    ):
        stored.add(replace(RECORD, digest=digest), ImageName(name=name, digest=digest, index=index))
    one = stored.find(wanted)
    assert (None if one is None else one.name) == found


@given(st.text(max_size=40))
@example("oci")
@example("docker-archive")
def test_a_name_that_images_may_get_is_one_that_files_may_use(name: str) -> None:
    with suppress(ImageError):
        check_new_name(name)
        _check_usable(name)


def _check_usable(name: str) -> None:
    assert not is_of_file(normalized(name))
    spec = parse(f"[root]\nlayers = [{json.dumps('image:' + name)}]\n".encode(), path="t.toml", environ={})
    assert spec.root.layers[0].path == name


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a\nb", "-a", "a@b", f"a@{A}", "oci:/x", "docker-archive:x", "image:a", "a" * 300, "\u00e4"],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match="cannot be the name of an image") as caught:
        check_new_name(name)
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"{}", b'{"version": 1, "names": []}', b"\xff", b"[" * 200000]
)
def test_a_damaged_file_of_names_is_named_and_not_replaced(stored: StoredImages, content: bytes) -> None:
    os.makedirs(stored.images)
    path = os.path.join(stored.images, "images.json")
    Path(path).write_bytes(content)
    with pytest.raises(StateError, match=f"{path} is damaged") as caught:
        stored.add(RECORD, ImageName(name="a:b", digest=A))
    assert caught.value.hint
    assert Path(path).read_bytes() == content


def test_a_file_of_another_version_is_refused(stored: StoredImages) -> None:
    os.makedirs(stored.images)
    Path(stored.images, "images.json").write_text('{"version": 2, "names": {}}')
    with pytest.raises(StateError, match="written by another version"):
        stored.names()


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:../../x"},
        {"config": "x"},
        {"layers": [{"diff_id": "sha256:" + "g" * 64, "digest": B, "size": 1, "media_type": ""}]},
        {"layers": None},
        {"defaults": {"unknown": ""}},
    ],
)
def test_a_damaged_record_is_as_good_as_none(stored: StoredImages, change: dict[str, Any]) -> None:
    stored.add(RECORD, ImageName(name="a:b", digest=A))
    path = Path(stored.images, "manifests", f"{'a' * 64}.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert stored.record(A) is None
    assert stored.records() == []
    stored.remove_unreadable({A})
    assert path.exists()
    stored.remove_unreadable(set())
    assert not path.exists()


def test_files_of_killed_writers_are_no_records_and_are_removed(stored: StoredImages) -> None:
    stored.add(RECORD, ImageName(name="a:b", digest=A))
    record = Path(stored.images, "manifests", f"{'a' * 64}.json")
    left = [record.with_name(record.name + ".12345678.new"), Path(stored.images, "images.json.12345678.new")]
    for path in left:
        path.write_bytes(record.read_bytes())
    assert stored.records() == [RECORD]
    stored.remove_unreadable({A})
    assert not any(path.exists() for path in left)
    assert stored.records() == [RECORD]
    assert list(stored.names()) == ["a:b"]


def test_a_failed_change_writes_nothing(stored: StoredImages) -> None:
    stored.add(RECORD, ImageName(name="a:b", digest=A))
    with pytest.raises(ImageError), stored.changing() as names:
        names.clear()
        raise ImageError("refused")
    assert list(stored.names()) == ["a:b"]


def test_thousands_of_names_can_be_stored(stored: StoredImages) -> None:
    with stored.changing() as names:
        for number in range(5000):
            name = f"a{number}:1"
            names[name] = ImageName(name=name, digest=A, source="oci:/" + "x" * 200)
    assert os.path.getsize(os.path.join(stored.images, "images.json")) > 1 << 20
    assert len(stored.names()) == 5000


def test_a_record_that_could_not_be_read_again_is_refused(stored: StoredImages) -> None:
    large = replace(RECORD, defaults=ImageDefaults(env=("A=" + "x" * (1 << 20),)))
    with pytest.raises(ImageError, match=f"oci:it: image {A}: its 2 layers and its defaults take more than"):
        large.checked("oci:it")
    fitting = replace(RECORD, defaults=ImageDefaults(env=("A=" + "x" * (1 << 19),)))
    stored.add(fitting.checked("oci:it"), None)
    assert stored.record(A) == fitting
