"""Layouts are complete or as before, and tags of other images stay."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.compression import Readable
from sandbox.images.oci import media_types
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.image_content import ImageContent
from sandbox.images.oci.layout import check_tag
from sandbox.images.oci.layout_writer import write_layout
from sandbox.images.oci.model import REF_NAME, Descriptor, decode_manifest
from tests.unit.sandbox.images.oci.layer_streams import file
from tests.unit.sandbox.images.oci.sample_images import MemoryBlobs, image


def files_in(path: Path) -> dict[str, bytes]:
    return {
        str(found.relative_to(path)): found.read_bytes() for found in path.rglob("*") if not found.is_dir()
    }


def tags_in(path: Path) -> dict[str | None, str]:
    entries = json.loads((path / "index.json").read_text())["manifests"]
    tags = {entry.get("annotations", {}).get(REF_NAME): entry["digest"] for entry in entries}
    assert len(tags) == len(entries)
    return tags


def check_blobs(path: Path) -> None:
    """Every blob has its digest, and everything that the index refers to is there."""
    for found in (path / "blobs").glob("*/*"):
        assert str(Digest.of(found.read_bytes())) == f"{found.parent.name}:{found.name}"
    for digest in tags_in(path).values():
        manifest = decode_manifest((path / "blobs" / digest.replace(":", "/")).read_bytes(), "it")
        for part in (manifest.config, *manifest.layers):
            assert (path / "blobs" / str(part.digest).replace(":", "/")).stat().st_size == part.size


def test_a_layout_has_the_image_and_nothing_else(tmp_path: Path) -> None:
    content, blobs = image(tmp_path)
    path = tmp_path / "layout"
    assert write_layout(str(path), content, "v1") == content.descriptor
    expected = {f"blobs/{digest.replace(':', '/')}": blob for digest, blob in blobs.by_digest.items()}
    expected[f"blobs/sha256/{content.descriptor.digest.hex}"] = content.content
    expected["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    found = files_in(path)
    index = json.loads(found.pop("index.json"))
    assert found == expected
    assert index == {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [
            {
                "mediaType": media_types.OCI_MANIFEST,
                "digest": str(content.descriptor.digest),
                "size": len(content.content),
                "annotations": {REF_NAME: "v1"},
            }
        ],
    }
    assert sorted(os.listdir(path)) == ["blobs", "index.json", "oci-layout"]


def test_the_bytes_of_the_manifest_are_kept(tmp_path: Path) -> None:
    content, blobs = image(tmp_path)
    indented = json.dumps(json.loads(content.content), indent=3).encode()
    stored = ImageContent(name="it", manifest=content.manifest, content=indented, blobs=blobs)
    assert write_layout(str(tmp_path / "layout"), stored).digest == Digest.of(indented)


def test_other_tags_and_unknown_fields_of_a_layout_stay(tmp_path: Path) -> None:
    path = tmp_path / "layout"
    one, _ = image(tmp_path)
    two, _ = image(tmp_path, changes=([file(b"two")],))
    for tag, content in (("b", one), ("a", two), (None, two), ("c", one)):
        write_layout(str(path), content, tag)
    document = json.loads((path / "index.json").read_text())
    document["x-more"] = [1]
    document["manifests"][-1]["x-of-c"] = {"y": None, "z": "w"}
    document["manifests"][-1]["platform"] = {"os": "linux", "architecture": "amd64", "features": ["f"]}
    (path / "index.json").write_text(json.dumps(document))
    write_layout(str(path), two, "b")
    first, second = str(one.descriptor.digest), str(two.descriptor.digest)
    assert tags_in(path) == {None: second, "a": second, "b": second, "c": first}
    after = json.loads((path / "index.json").read_text())
    assert after["x-more"] == [1]
    assert after["manifests"][-1] == document["manifests"][-1]
    check_blobs(path)


def test_equal_images_make_equal_layouts_in_any_order(tmp_path: Path) -> None:
    one, _ = image(tmp_path)
    two, _ = image(tmp_path, changes=([file(b"two")],))
    for name, order in (("x", [("a", one), ("b", two)]), ("y", [("b", two), ("a", one)])):
        for tag, content in order:
            write_layout(str(tmp_path / name), content, tag)
    assert files_in(tmp_path / "x") == files_in(tmp_path / "y")


def test_a_blob_that_the_layout_has_is_not_read_again(tmp_path: Path) -> None:
    content, blobs = image(tmp_path)
    path = tmp_path / "layout"
    write_layout(str(path), content, "a")
    write_layout(str(path), content, "b")
    assert set(blobs.reads.values()) == {1}
    layer = path / "blobs/sha256" / content.manifest.layers[0].digest.hex
    layer.write_bytes(layer.read_bytes()[:-1])  # as a tool leaves it that was killed
    write_layout(str(path), content, "b")
    check_blobs(path)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_docker_types_are_converted(compression: str, tmp_path: Path) -> None:
    docker, _ = image(tmp_path, compression=compression, docker=True)
    oci, _ = image(tmp_path, compression=compression)
    assert write_layout(str(tmp_path / "layout"), docker, "t") == oci.descriptor
    assert docker.as_oci().content == oci.content
    assert oci.as_oci() is oci


class Damaged(MemoryBlobs):
    """Blobs of which one has another content."""

    def __init__(self, blobs: MemoryBlobs, digest: str, content: bytes) -> None:
        super().__init__()
        self.by_digest = {**blobs.by_digest, digest: content}


@pytest.mark.parametrize("part", ["config", "layer"])
@pytest.mark.parametrize("change", ["short", "long", "other"])
def test_a_damaged_blob_leaves_the_layout_as_it_was(part: str, change: str, tmp_path: Path) -> None:
    path = tmp_path / "layout"
    before, _ = image(tmp_path, changes=([file(b"before")],))
    write_layout(str(path), before, "t")
    files = files_in(path)
    content, blobs = image(tmp_path)
    digest = str((content.manifest.config if part == "config" else content.manifest.layers[1]).digest)
    whole = blobs.by_digest[digest]
    damaged = {"short": whole[:-1], "long": whole + b"x", "other": b"x" + whole[1:]}[change]
    broken = ImageContent.of("image:broken", content.manifest, Damaged(blobs, digest, damaged))
    with pytest.raises(ImageError, match=f"image:broken: blob {digest} has"):
        write_layout(str(path), broken, "t")
    after = files_in(path)
    assert {name: after[name] for name in files} == files
    assert not any(os.path.basename(name).startswith(".") for name in after)
    check_blobs(path)


def broken_image(tmp_path: Path, before: Callable[[], object]) -> ImageContent:
    """Return an image whose last layer is damaged; *before* is called before the first blob is read."""
    content, blobs = image(tmp_path)
    damaged = Damaged(blobs, str(content.manifest.layers[-1].digest), b"damaged")

    class Source:
        def open(self, descriptor: Descriptor, /) -> AbstractContextManager[Readable]:
            if descriptor == content.manifest.config:
                before()
            return damaged.open(descriptor)

    return ImageContent.of("image:broken", content.manifest, Source())


def test_a_layout_that_a_failed_call_has_begun_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(ImageError, match="image:broken"):
        write_layout(str(place / "layout"), broken_image(tmp_path, lambda: None), "t")
    assert os.listdir(place) == []


def test_a_layout_in_which_another_process_has_completed_an_image_stays(tmp_path: Path) -> None:
    path = tmp_path / "layout"
    other, _ = image(tmp_path, changes=([file(b"other")],))
    broken = broken_image(tmp_path, lambda: write_layout(str(path), other, "other"))
    with pytest.raises(ImageError, match="image:broken"):
        write_layout(str(path), broken, "t")
    assert list(tags_in(path)) == ["other"]
    check_blobs(path)


def test_another_directory_in_the_place_of_a_layout_is_not_removed(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()

    def replace() -> None:
        (place / "layout").rename(place / "moved")
        (place / "layout").mkdir()

    with pytest.raises(ImageError, match="image:broken"):
        write_layout(str(place / "layout"), broken_image(tmp_path, replace), "t")
    assert sorted(os.listdir(place)) == ["layout", "moved"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("failing", range(1, 12))
def test_a_failure_at_any_call_leaves_a_layout_that_can_be_completed(
    call: str, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "layout"
    one, _ = image(tmp_path, changes=([file(b"one")],))
    two, _ = image(tmp_path)
    write_layout(str(path), one, "t")
    before = tags_in(path)
    calls = 0
    real = getattr(os, call)

    def failing_call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "no space")
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing_call)
        try:
            write_layout(str(path), two, "t")
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - later calls than the last do not fail
            assert tags_in(path) in (before, {"t": str(two.descriptor.digest)})
    assert not [name for name in files_in(path) if os.path.basename(name).startswith(".")]
    check_blobs(path)
    write_layout(str(path), two, "t")
    assert tags_in(path) == {"t": str(two.descriptor.digest)}
    check_blobs(path)


def test_files_are_synced_before_they_get_their_names_and_the_index_is_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, _ = image(tmp_path)
    calls: list[tuple[str, object]] = []
    fsync, rename = os.fsync, os.rename

    def recording_fsync(fd: int) -> None:
        info = os.fstat(fd)
        calls.append(("sync", "directory" if stat.S_ISDIR(info.st_mode) else info.st_ino))
        fsync(fd)

    def recording_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append(("rename", (os.stat(source, dir_fd=src_dir_fd).st_ino, target)))
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording_rename)
    write_layout(str(tmp_path / "layout"), content, "t")
    renamed = [(at, what) for at, (call, what) in enumerate(calls) if call == "rename"]
    for at, (inode, _) in renamed:  # type: ignore[misc]
        assert calls[at - 1] == ("sync", inode)
        assert calls[at + 1] == ("sync", "directory")
    digests = [part.digest.hex for part in (content.manifest.config, *content.manifest.layers)]
    expected = ["oci-layout", *digests, content.descriptor.digest.hex, "index.json"]
    assert [target for _, (_, target) in renamed] == expected  # type: ignore[misc]


def test_a_layout_that_was_begun_without_an_index_is_completed(tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    path = tmp_path / "layout"
    path.mkdir()
    (path / ".oci-layout.12345678").write_bytes(b"")  # of a killed process
    write_layout(str(path), content, "t")
    (path / "index.json").unlink()
    write_layout(str(path), content, "t")
    assert list(tags_in(path)) == ["t"]


def test_writers_at_once_lose_no_tag(tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    path = str(tmp_path / "layout")
    threads = [threading.Thread(target=write_layout, args=(path, content, f"t{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, tags_in(tmp_path / "layout"))) == [f"t{n}" for n in range(8)]
    check_blobs(tmp_path / "layout")


def test_a_directory_that_is_no_layout_is_left_alone(tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    with pytest.raises(ImageError, match="no layout of images and not empty"):
        write_layout(str(other), content, "t")
    assert files_in(other) == {"file": b"mine"}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("oci-layout", "{}", "oci-layout: imageLayoutVersion is missing"),
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}', "a layout of version 2.0.0, not 1.0"),
        ("oci-layout", "[" * 200_000, "nested"),
        ("index.json", "", "index.json: not valid JSON"),
        ("index.json", "{}", "index.json: schemaVersion is not 2"),
        (
            "index.json",
            '{"schemaVersion": 2, "manifests": [{}]}',
            r"index.json: manifests\[0\].digest is missing",
        ),
        ("index.json", " " * (5 << 20), "more than 4194304 bytes"),
    ],
)
def test_a_malformed_layout_is_left_as_it_is(name: str, text: str, reason: str, tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    path = tmp_path / "layout"
    write_layout(str(path), content, "t")
    (path / name).write_text(text)
    with pytest.raises(ImageError, match=reason):
        write_layout(str(path), content, "u")
    assert (path / name).read_text() == text


@pytest.mark.parametrize("link", ["blobs", "blobs/sha256", "index.json", "oci-layout"])
def test_no_symbolic_link_leads_out_of_a_layout(link: str, tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    path = tmp_path / "layout"
    write_layout(str(path), content, "t")
    outside = tmp_path / "outside"
    (path / link).rename(outside)
    (path / link).symlink_to(outside)
    before = files_in(outside) if outside.is_dir() else outside.read_bytes()
    other, _ = image(tmp_path, changes=([file(b"other")],))
    with pytest.raises(OSError):
        write_layout(str(path), other, "u")
    assert (files_in(outside) if outside.is_dir() else outside.read_bytes()) == before


def test_files_of_a_layout_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    before = os.umask(0o027)
    try:
        write_layout(str(tmp_path / "layout"), content, "t")
    finally:
        os.umask(before)
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "layout").rglob("*")}
    assert modes == {(True, 0o750), (False, 0o640)}


@given(st.from_regex(r"[A-Za-z0-9]+([-._:@+/][A-Za-z0-9]+){0,4}", fullmatch=True))
def test_tags_of_the_grammar_are_taken(tag: str) -> None:
    check_tag(tag)


@pytest.mark.parametrize(
    "tag", ["", "-a", "a-", "a..b", "a b", "a\n", "\u00e4", "/a", "a//b", "a" * 256, "a---b"]
)
def test_what_is_no_tag_is_refused_before_anything_is_written(tag: str, tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    with pytest.raises(ImageError, match="is not a tag"):
        write_layout(str(tmp_path / "layout"), content, tag)
    assert not (tmp_path / "layout").exists()
