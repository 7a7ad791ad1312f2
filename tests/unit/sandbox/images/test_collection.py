"""Removal of images: what is used stays, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from sandbox.errors import ImageError, SandboxError, StateError
from sandbox.images import collection
from sandbox.images.collection import collect, importing, remove, tag, unused, unused_parts, users_of
from sandbox.images.file_versions import version_of
from sandbox.images.importing import host_platform, import_image
from sandbox.images.places import scratch_in
from sandbox.images.stored_images import ImageName, StoredImages
from sandbox.images.transports.layout import Layout
from sandbox.images.unpacked_trees import UnpackedTrees
from sandbox.images.verification import verify
from sandbox.state.location import Locations
from sandbox.state.stack_record import RecordedLayer, RecordedStack
from tests.support.images import Image, tar_of, write_layout
from tests.unit.sandbox.images.image_store import NOTHING, files_of, imported, unpack_here

BASE = tar_of({"base": b"b" * 3000})
ONE = Image(layers=(BASE, tar_of({"one": b"1"})))
TWO = Image(layers=(BASE, tar_of({"two": b"2"})))


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_here(monkeypatch)


@pytest.fixture
def where(tmp_path: Path) -> Locations:
    return Locations(state=str(tmp_path / "state"), images=str(tmp_path / "images"))


def add(where: Locations, image: Image, name: str) -> str:
    return imported(
        Path(where.images), Path(where.state).parent / f"{name.partition(':')[0]}.lay", image, name
    ).digest


def found(where: Locations) -> dict[str, list[str]]:
    return files_of(Path(where.images))


def keep_layer(where: Locations, name: str, identity: str, place: str = "") -> Path:
    """Write the record of a persistent layer above an image, as a start does."""
    directory = Path(where.state, "sandboxes", name)
    directory.mkdir(parents=True)
    recorded = RecordedLayer(kind="image", path=identity, place=place or None)
    stack = RecordedStack(writable=str(directory), layers=(recorded,))
    (directory / "state.json").write_text(json.dumps(stack.as_json()))
    return directory


def test_a_removed_image_leaves_nothing_that_no_other_image_has(where: Locations) -> None:
    add(where, ONE, "one:1")
    before = found(where)
    add(where, TWO, "two:1")
    gone = remove(where, ["two:1"])
    assert found(where) == before
    assert (len(gone.blobs), len(gone.layers), gone.images) == (3, 1, (TWO.digest,))
    assert gone.bytes > 0
    assert verify(where.images) == []
    remove(where, ["one:1"])
    assert found(where) == NOTHING


def test_an_image_with_another_name_stays(where: Locations) -> None:
    add(where, ONE, "one:1")
    tag(where.images, "one:1", "other")
    before = found(where)
    assert remove(where, ["one:1"]) == collection.Collected()
    assert found(where) == before
    assert list(StoredImages(where.images).names()) == ["other:latest"]
    remove(where, ["other"])
    assert found(where) == NOTHING


def test_a_new_image_of_an_old_name_leaves_the_old_one_to_be_collected(where: Locations) -> None:
    add(where, ONE, "one:1")
    add(where, TWO, "one:1")
    assert collect(where).images == (ONE.digest,)
    assert [record.digest for record in StoredImages(where.images).records()] == [TWO.digest]
    assert verify(where.images) == []


@pytest.mark.parametrize("name", ["missing", "two:1", "one", ""])
def test_a_name_that_does_not_exist_is_an_error_and_removes_nothing(where: Locations, name: str) -> None:
    add(where, ONE, "one:1")
    before = found(where)
    with pytest.raises(ImageError, match="the image store has no image"):
        remove(where, ["one:1", name])
    assert list(StoredImages(where.images).names()) == ["one:1"]
    assert found(where) == before


def test_an_image_is_not_removed_by_its_digest(where: Locations) -> None:
    digest = add(where, ONE, "one:1")
    with pytest.raises(ImageError, match="is the image one:1") as caught:
        remove(where, [f"one@{digest}"])
    assert caught.value.hint == "remove it by that name: one:1"


def test_removal_from_a_store_that_does_not_exist_is_an_error_and_makes_none(where: Locations) -> None:
    with pytest.raises(ImageError, match="has no image"):
        remove(where, ["one:1"])
    assert collect(where) == collection.Collected()
    assert not os.path.exists(where.images)


def test_the_image_of_a_writable_layer_stays_without_a_name(where: Locations) -> None:
    digest = add(where, ONE, "one:1")
    add(where, TWO, "two:1")
    layer = keep_layer(where, "box", f"one:1@{digest}")
    assert users_of(where, digest) == ["layer:box"]
    assert unused(where) == ["two:1"]
    with pytest.raises(StateError, match="image one:1 is in use by layer:box") as caught:
        remove(where, ["two:1", "one:1"])
    assert caught.value.hint == "end or remove that first"
    assert sorted(StoredImages(where.images).names()) == ["one:1", "two:1"]
    add(where, TWO, "one:1")  # takes the name
    before = found(where)
    assert collect(where).images == ()
    assert found(where) == before
    shutil.rmtree(layer)
    assert collect(where).images == (digest,)


def test_an_unpacked_layer_that_a_writable_layer_names_stays(where: Locations) -> None:
    digest = add(where, ONE, "one:1")
    places = found(where)["layers"]
    keep_layer(where, "box", f"one:1@{digest}", places[0])
    StoredImages(where.images).remove_record(digest)
    collect(where)
    assert found(where)["layers"] == places[:1]


def of_file(where: Locations, layout: Path, image: Image) -> str:
    """Import *image* as a start with the layer "oci:LAYOUT" does."""
    write_layout(layout, image)
    name = f"oci:{layout}"
    source = Layout(str(layout), "", name, scratch_in(where.images))
    import_image(where.images, source, host_platform(), name, version=version_of(str(layout)))
    source.close()
    return name


def test_images_of_files_are_removed_when_the_file_has_changed_or_is_gone(
    where: Locations, tmp_path: Path
) -> None:
    first = of_file(where, tmp_path / "first", ONE)
    second = of_file(where, tmp_path / "second", TWO)
    assert collect(where) == collection.Collected()
    shutil.rmtree(tmp_path / "second")
    assert unused_parts(where).names == (second,)
    gone = collect(where)
    assert (gone.names, gone.images) == ((second,), (TWO.digest,))
    (tmp_path / "first/index.json").write_text("{}  ")
    assert collect(where).names == (first,)
    assert found(where) == NOTHING


def test_the_image_of_a_file_that_is_gone_stays_while_it_is_in_use(where: Locations, tmp_path: Path) -> None:
    name = of_file(where, tmp_path / "first", ONE)
    shutil.rmtree(tmp_path / "first")
    layer = keep_layer(where, "box", f"{name}@{ONE.digest}")
    assert collect(where) == collection.Collected()
    assert list(StoredImages(where.images).names()) == [name]
    shutil.rmtree(layer)
    assert collect(where).names == (name,)


def test_the_image_of_a_file_can_be_removed_by_its_name(where: Locations, tmp_path: Path) -> None:
    name = of_file(where, tmp_path / "first", ONE)
    assert unused(where) == [name]
    remove(where, [name])
    assert found(where) == NOTHING


def test_what_would_be_removed_is_what_is_removed(where: Locations, tmp_path: Path) -> None:
    add(where, ONE, "one:1")
    of_file(where, tmp_path / "gone", TWO)
    shutil.rmtree(tmp_path / "gone")
    before = unused_parts(where)
    assert before == unused_parts(where)
    gone = collect(where)
    assert (gone.names, gone.images, gone.layers) == (before.names, before.images, before.layers)
    assert gone.blobs == tuple(str(digest) for digest, _ in before.blobs)
    assert gone.bytes == sum(size for _, size in before.blobs) > 0
    assert unused_parts(where) == collection.Unused()


def test_nothing_is_collected_while_an_import_runs(where: Locations) -> None:
    os.makedirs(where.images)
    collected = threading.Event()

    def run() -> None:
        collect(where)
        collected.set()

    thread = threading.Thread(target=run)
    with importing(where.images):
        thread.start()
        assert not collected.wait(0.2)
    thread.join(60)
    assert collected.is_set()


def test_a_layer_that_cannot_be_removed_does_not_prevent_the_rest(
    where: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(where, ONE, "one:1")
    first = found(where)["layers"][0]
    discard_unused = UnpackedTrees.discard_unused

    def failing(trees: UnpackedTrees, name: str) -> bool:
        if name == first:
            raise SandboxError("the ids of its files are no longer yours")
        return discard_unused(trees, name)

    monkeypatch.setattr(UnpackedTrees, "discard_unused", failing)
    with pytest.raises(SandboxError, match="no longer yours"):
        remove(where, ["one:1"])
    assert found(where) == {**NOTHING, "layers": [first]}


def test_a_damaged_record_is_removed_with_its_blobs_unless_a_name_needs_it(where: Locations) -> None:
    digest = add(where, ONE, "one:1")
    record = Path(where.images, "manifests", digest.partition(":")[2] + ".json")
    record.write_text("{")
    collect(where)
    assert record.exists()
    assert "one:1: the record of" in verify(where.images)[0]
    with StoredImages(where.images).changing() as names:
        names.clear()
    collect(where)
    assert found(where) == NOTHING


def test_a_tag_needs_a_name_and_an_image(where: Locations) -> None:
    add(where, ONE, "one:1")
    for new in ("a@b", "", "oci:/x", "a b"):
        with pytest.raises(ImageError, match="cannot be the name of an image"):
            tag(where.images, "one:1", new)
    with pytest.raises(ImageError, match="has no image two"):
        tag(where.images, "two", "new")
    assert list(StoredImages(where.images).names()) == ["one:1"]


def test_a_tag_of_an_image_of_a_file_stays_when_the_file_is_gone(where: Locations, tmp_path: Path) -> None:
    name = of_file(where, tmp_path / "first", ONE)
    tag(where.images, name, "mine:1")
    shutil.rmtree(tmp_path / "first")
    collect(where)
    names = StoredImages(where.images).names()
    assert list(names) == ["mine:1"]
    assert isinstance(names["mine:1"], ImageName)
    assert verify(where.images) == []
