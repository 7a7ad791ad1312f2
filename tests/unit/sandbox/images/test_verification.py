"""Verification finds each kind of damage to the store, and none in a store without damage."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandbox.images.stored_images import StoredImages
from sandbox.images.verification import verify
from tests.support.images import Image, digest_of, tar_of
from tests.unit.sandbox.images.image_store import imported, unpack_here

LAYER = tar_of({"file": b"x" * 5000})
IMAGE = Image(layers=(LAYER,), compressed=False)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unpack_here(monkeypatch)
    imported(tmp_path / "images", tmp_path / "layout", IMAGE)
    return tmp_path / "images"


def blob(images: Path, content: bytes) -> Path:
    return images / "blobs/sha256" / digest_of(content).partition(":")[2]


def test_an_undamaged_store_has_no_problems(images: Path, tmp_path: Path) -> None:
    assert verify(str(images)) == []
    assert verify(str(tmp_path / "missing")) == []
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("content", [LAYER, IMAGE.config_content(), IMAGE.manifest_content()])
def test_a_changed_byte_is_found(images: Path, content: bytes) -> None:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    blob(images, content).write_bytes(changed)
    problems = verify(str(images))
    assert len(problems) == 1
    assert digest_of(content) in problems[0]


@pytest.mark.parametrize("content", [LAYER, IMAGE.config_content(), IMAGE.manifest_content()])
def test_a_missing_blob_is_found(images: Path, content: bytes) -> None:
    blob(images, content).unlink()
    problems = verify(str(images))
    assert len(problems) == 1
    assert digest_of(content) in problems[0]


@pytest.mark.parametrize("size", [0, 512, 5000])
def test_a_truncated_layer_is_found(images: Path, size: int) -> None:
    os.truncate(blob(images, LAYER), size)
    (problem,) = verify(str(images))
    assert digest_of(LAYER) in problem


def test_another_diff_id_is_found(images: Path) -> None:
    (record,) = (images / "manifests").iterdir()
    content = json.loads(record.read_text())
    content["layers"][0]["diff_id"] = "sha256:" + "0" * 64
    record.write_text(json.dumps(content))
    (problem,) = verify(str(images))
    assert "its content has the diff id" in problem


def test_a_missing_record_of_a_name_is_found(images: Path) -> None:
    StoredImages(str(images)).remove_record(IMAGE.digest)
    assert verify(str(images)) == [f"sample:1: the record of {IMAGE.digest} is missing or damaged"]
