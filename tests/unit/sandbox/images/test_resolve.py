"""The images of an environment file: found in the store, imported when their file is new, and refused with their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.errors import SpecError, StateError
from sandbox.images.adding import unpacker
from sandbox.images.importing import NoBlobProgress
from sandbox.images.resolve import Fetch, find_images
from sandbox.images.stored_images import StoredImages
from sandbox.plan.image_values import StoredImage
from sandbox.spec.load import parse
from tests.support.images import Image, docker_files, tar_of, write_layout
from tests.unit.sandbox.images.image_store import IDS, NOTHING, files_of, imported, unpack_here

ONE = Image(layers=(tar_of({"one": b"1"}),), config={"Cmd": ["one"]})
TWO = Image(layers=(tar_of({"two": b"2"}),), config={"Cmd": ["two"]})


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_here(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


def find(images: Path, *layers: str, fetch: bool = True) -> dict[int, StoredImage]:
    text = f"[root]\nlayers = {json.dumps(list(layers))}\n"
    spec = parse(text.encode(), path=str(images.parent / "test.toml"), environ={})
    how = Fetch(progress=NoBlobProgress, unpack=unpacker(str(images), IDS, lambda _text: None))
    return find_images(spec, str(images), fetch=how if fetch else None)


def test_images_are_found_by_the_numbers_of_their_layers(images: Path, tmp_path: Path) -> None:
    imported(images, tmp_path / "one", ONE, "one:1")
    write_layout(tmp_path / "two", TWO)
    found = find(images, "dir:/", "image:one:1", "tar:base.tar", "oci:./two")
    assert {number: (image.name, image.digest) for number, image in found.items()} == {
        1: ("one:1", ONE.digest),
        3: (f"oci:{tmp_path}/two", TWO.digest),
    }
    assert found[3].defaults.command == ("two",)


def test_nothing_is_imported_without_a_request(images: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "two", TWO)
    assert find(images, "oci:./two", "image:one:1", fetch=False) == {}
    assert not images.exists()


def test_an_unchanged_layout_is_imported_once_and_a_changed_one_again(images: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "lay", ONE)
    find(images, "oci:./lay:t")
    before = os.stat(images / "images.json")
    assert find(images, "oci:./lay:t")[0].digest == ONE.digest
    assert os.stat(images / "images.json") == before
    assert find(images, "oci:./lay:t", fetch=False)[0].digest == ONE.digest
    write_layout(tmp_path / "lay", TWO)
    assert find(images, "oci:./lay:t", fetch=False) == {}
    assert find(images, "oci:./lay:t")[0].digest == TWO.digest


def test_an_archive_is_imported_again_after_its_time_has_changed(images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(tar_of(docker_files(ONE)))
    layer = "docker-archive:./image.tar:sample:1"
    first = find(images, layer)[0].digest
    archive.write_bytes(tar_of(docker_files(TWO)))
    os.utime(archive, ns=(0, 1))
    assert find(images, layer, fetch=False) == {}
    assert find(images, layer)[0].digest != first


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("image:missing:1", "the image store has no image missing:1"),
        ("oci:./missing", "oci:.*/missing: no such file or directory"),
        ("oci:./lay:other", "has no image other"),
        ("docker-archive:./lay", "has no manifest.json, so it is no archive of `docker save`"),
    ],
)
def test_an_image_that_cannot_be_found_is_refused_at_its_place_in_the_file(
    layer: str, message: str, images: Path, tmp_path: Path
) -> None:
    write_layout(tmp_path / "lay", ONE)
    with pytest.raises(SpecError, match=message) as caught:
        find(images, "dir:/", layer)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.as_dict()["key"] == "root.layers[1]"
    assert diagnostic.as_dict()["line"] == 2
    assert diagnostic.as_dict()["hint"]


def test_a_damaged_image_is_refused_and_leaves_nothing(images: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "lay", Image(layers=(b"no tar" * 999,)))
    with pytest.raises(SpecError, match=r"oci:.*/lay: layer: sha256:"):
        find(images, "oci:./lay")
    assert files_of(images) == NOTHING
    assert StoredImages(str(images)).names() == {}


def test_a_damaged_store_is_an_error_that_names_the_file(images: Path) -> None:
    images.mkdir()
    (images / "images.json").write_text("x")
    with pytest.raises(StateError, match=r"images.json is damaged"):
        find(images, "image:one:1", fetch=False)


def test_a_record_that_is_damaged_is_made_again_from_the_file(images: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "lay", ONE)
    find(images, "oci:./lay")
    (record,) = (images / "manifests").iterdir()
    record.write_text("{")
    assert find(images, "oci:./lay", fetch=False) == {}
    assert find(images, "oci:./lay")[0].digest == ONE.digest


def test_a_stored_image_is_found_without_the_code_that_reads_images(images: Path, tmp_path: Path) -> None:
    imported(images, tmp_path / "one", ONE, "one:1")
    program = f"""
import sys
from sandbox.images.resolve import Fetch, find_images
from sandbox.spec.load import parse
spec = parse(b'[root]\\nlayers = ["image:one:1"]\\n', path="t.toml", environ={{}})
assert find_images(spec, {str(images)!r}, fetch=Fetch(progress=None, unpack=None))
print(*sorted(name for name in sys.modules if name.startswith("sandbox.images")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [
        "sandbox.images",
        "sandbox.images.places",
        "sandbox.images.resolve",
        "sandbox.images.stored_images",
    ]
