"""Lists and descriptions of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.errors import ImageError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.collection import tag
from sandbox.images.listing import history, inspect, list_images, total
from sandbox.images.oci.digest import Digest
from sandbox.images.stored_images import StoredImages
from tests.support.images import MACHINE, Image, digest_of, tar_of
from tests.unit.sandbox.images.image_store import imported, unpack_here

BASE, ONE, TWO = tar_of({"base": b"b" * 9999}), tar_of({"one": b"1"}), tar_of({"two": b"2"})
STEPS = [
    {"created": "2020-01-01T00:00:00Z", "created_by": "ADD base"},
    {"created_by": "ENV A=b", "empty_layer": True},
    {"comment": "by hand"},
]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    unpack_here(monkeypatch)
    for name, layers in (("one", (BASE, ONE)), ("two", (BASE, TWO, TWO))):
        image = Image(
            layers=layers,
            compressed=False,
            config={"Cmd": ["sh"], "Labels": {"a": "b"}},
            document={"history": STEPS, "created": "2021-01-01T00:00:00Z"},
        )
        imported(tmp_path / "images", tmp_path / name, image, f"{name}:1")
    return str(tmp_path / "images")


def test_names_are_listed_with_what_only_they_have_and_what_others_have_too(images: str) -> None:
    tag(images, "one:1", "also:1")
    listed = {one.name.name: one for one in list_images(images)}
    assert list(listed) == ["also:1", "one:1", "two:1"]
    sizes = {name: (one.own, one.shared) for name, one in listed.items()}
    # A second name of one image shares nothing with another image, and a layer that occurs twice is one blob.
    assert sizes == {name: (len(TWO if name == "two:1" else ONE), len(BASE)) for name in listed}
    assert total(listed.values()) == len(BASE) + len(ONE) + len(TWO)


def test_an_image_as_json_has_digest_sizes_and_source(images: str, tmp_path: Path) -> None:
    found = inspect(images, "one:1")
    assert found["name"] == "one:1"
    assert found["digest"] == StoredImages(images).names()["one:1"].digest
    assert found["source"] == f"oci:{tmp_path}/one:t"
    assert found["platform"] == f"linux/{MACHINE}"
    assert found["created"] == "2021-01-01T00:00:00Z"
    assert (found["bytes"], found["own_bytes"], found["shared_bytes"]) == (
        len(BASE) + len(ONE),
        len(ONE),
        len(BASE),
    )
    assert [layer["diff_id"] for layer in found["layers"]] == [digest_of(BASE), digest_of(ONE)]
    assert found["config"] == {"Cmd": ["sh"], "Labels": {"a": "b"}}


def test_the_history_has_a_row_for_each_step_and_for_each_layer_without_one(images: str) -> None:
    rows = history(images, "two:1")
    assert [(row["created_by"], row["comment"], row["digest"], row["bytes"]) for row in rows] == [
        ("ADD base", None, digest_of(BASE), len(BASE)),
        ("ENV A=b", None, None, 0),
        (None, "by hand", digest_of(TWO), len(TWO)),
        (None, None, digest_of(TWO), len(TWO)),
    ]


def test_an_image_can_be_described_by_its_digest(images: str) -> None:
    digest = StoredImages(images).names()["two:1"].digest
    assert inspect(images, f"two@{digest}")["name"] == "two:1"


@pytest.mark.parametrize("describe", [inspect, history])
def test_a_missing_image_or_blob_is_an_error(images: str, describe: type) -> None:
    with pytest.raises(ImageError, match="the image store has no image three"):
        describe(images, "three")
    record = StoredImages(images).records()[0]
    BlobStore(images).remove(Digest.parse(record.config))
    name = next(one.name for one in StoredImages(images).names().values() if one.digest == record.digest)
    with pytest.raises(ImageError, match=f"has no blob {record.config}"):
        describe(images, name)


def test_an_image_without_a_record_is_listed_and_not_described(images: str) -> None:
    digest = StoredImages(images).names()["one:1"].digest
    StoredImages(images).remove_record(digest)
    listed = list_images(images)
    assert [(one.name.name, one.record is None) for one in listed] == [("one:1", True), ("two:1", False)]
    assert listed[0].as_dict()["layers"] is None
    assert listed[1].own == len(BASE) + len(TWO)
    with pytest.raises(ImageError):
        inspect(images, "one:1")


def test_a_store_that_does_not_exist_is_empty_and_a_damaged_one_is_an_error(
    images: str, tmp_path: Path
) -> None:
    assert list_images(str(tmp_path / "missing")) == []
    Path(images, "images.json").write_text("x")
    with pytest.raises(StateError, match="is damaged"):
        list_images(images)
