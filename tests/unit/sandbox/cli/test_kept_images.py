"""`sandbox ls`, `df`, `rm` and `prune` on images of the store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sandbox.images.file_versions import version_of
from sandbox.images.importing import host_platform, import_image
from sandbox.images.places import scratch_in
from sandbox.images.transports.layout import Layout
from tests.support.images import Image, tar_of, write_layout
from tests.unit.sandbox.cli.support import printed, run
from tests.unit.sandbox.images.image_store import NOTHING, files_of, imported, unpack_here

BASE = tar_of({"base": b"b" * 50_000})
ONE = Image(layers=(BASE, tar_of({"one": b"1" * 5000})), compressed=False)
TWO = Image(layers=(BASE, tar_of({"two": b"2" * 5000})), compressed=False)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the image directory with two images that share a layer; there is no state directory."""
    unpack_here(monkeypatch)
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDBOX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SANDBOX_RUN_DIR", str(tmp_path / "run"))
    found = tmp_path / "cache/images"
    imported(found, tmp_path / "one", ONE, "one:1")
    imported(found, tmp_path / "two", TWO, "two:1")
    return found


def of_file(images: Path, layout: Path) -> str:
    """Import an image as a start with the layer "oci:LAYOUT" does; return its name."""
    name = f"oci:{write_layout(layout, Image(layers=(tar_of({'file': b'x'}),)))}"
    source = Layout(str(layout), "", name, scratch_in(str(images)))
    import_image(str(images), source, host_platform(), name, version=version_of(str(layout)))
    source.close()
    return name


def test_ls_lists_images_with_all_their_space_and_df_counts_what_they_share_once(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = printed(capsys, "ls")
    assert [(item["kind"], item["name"], item["referenced"]) for item in (one, two)] == [
        ("image", "one:1", True),
        ("image", "two:1", True),
    ]
    assert one["source"] == [f"oci:{tmp_path}/one:t"]
    # Each has its blobs, and its layers unpacked.
    assert one["bytes"] > 2 * len(BASE)
    (sums,) = [kind for kind in printed(capsys, "df")["kinds"] if kind["kind"] == "image"]
    assert sums["count"] == 2
    assert 2 * len(BASE) < sums["bytes"] < one["bytes"] + two["bytes"] - len(BASE)
    assert sums["unreferenced_bytes"] == 0
    _, out, _ = run(capsys, "ls")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["image:one:1", "image:two:1"]
    assert not (tmp_path / "state").exists()
    assert images.exists()


def test_rm_removes_an_image_and_what_no_other_has(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "rm", "image:one:1") == {"removed": ["image:one:1"]}
    assert [item["name"] for item in printed(capsys, "ls")] == ["two:1"]
    assert len(files_of(images)["layers"]) == 2
    status, _, err = run(capsys, "rm", "image:one:1", "image:two:1")
    assert status == 125
    assert "the image store has no image one:1" in err
    assert files_of(images) == NOTHING


def test_rm_of_a_bare_name_names_the_image_that_may_be_meant(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "image", "tag", "one:1", "it")
    status, _, err = run(capsys, "rm", "it")
    assert status == 125
    assert "did you mean image:it?" in err
    assert len(files_of(images)["records"]) == 2


def test_prune_removes_what_no_image_uses_and_keeps_every_name(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(images)
    assert printed(capsys, "prune")["leftovers"] == []
    blob = images / "blobs/sha256" / ("a" * 64)
    blob.write_bytes(bytes(1000))
    (sums,) = [kind for kind in printed(capsys, "df")["kinds"] if kind["kind"] == "leftover"]
    assert (sums["count"], sums["bytes"]) == (1, 1000)
    found = printed(capsys, "prune", "--dry-run")
    assert (found["leftovers"], found["removed"], found["bytes"]) == ([str(blob)], [], 1000)
    assert blob.exists()
    found = printed(capsys, "prune")
    assert (found["leftovers"], found["bytes"]) == ([str(blob)], 1000)
    assert files_of(images) == before
    assert printed(capsys, "prune", "--data", "--yes")["removed"] == []
    assert files_of(images) == before


def test_prune_removes_the_image_of_a_file_that_is_gone(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(images)
    name = of_file(images, tmp_path / "layout")
    assert printed(capsys, "prune")["removed"] == []
    shutil.rmtree(tmp_path / "layout")
    (item,) = [item for item in printed(capsys, "ls") if item["name"] == name]
    assert item["referenced"] is False
    (sums,) = [kind for kind in printed(capsys, "df")["kinds"] if kind["kind"] == "leftover"]
    assert sums["count"] == 0
    assert printed(capsys, "prune", "--dry-run")["removed"] == [f"image:{name}"]
    assert printed(capsys, "prune")["removed"] == [f"image:{name}"]
    assert files_of(images) == before


@pytest.mark.parametrize("verb", ["ls", "df", "prune"])
def test_a_damaged_file_of_names_is_an_error_that_names_it(
    verb: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "images.json").write_text("x")
    before = files_of(images)
    status, _, err = run(capsys, verb)
    assert status == 125
    assert f"{images}/images.json is damaged" in err
    assert files_of(images) == before


def test_what_a_killed_removal_or_import_has_left_is_a_leftover(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (".removed-12345678", "a" * 64 + "-" + "b" * 16):
        (images / "layers" / name / "tree").mkdir(parents=True)
        (images / "layers" / name / "lock").touch()
    (sums,) = [kind for kind in printed(capsys, "df")["kinds"] if kind["kind"] == "leftover"]
    assert sums["count"] == 2
    printed(capsys, "prune")
    assert len(os.listdir(images / "layers")) == 3
