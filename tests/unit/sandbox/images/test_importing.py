"""Imports: nothing is published before everything was verified, and a failed import leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import ImageError, SandboxError, StateError
from sandbox.images.collection import importing
from sandbox.images.importing import host_platform, import_image
from sandbox.images.oci.model import Descriptor
from sandbox.images.places import scratch_in
from sandbox.images.stored_images import ImageRecord, StoredImages
from sandbox.images.transports.layout import Layout
from sandbox.images.verification import verify
from tests.support.images import (
    INDEX,
    MANIFEST,
    Image,
    add_blob,
    describe,
    digest_of,
    tar_of,
    write_index,
    write_layout,
)
from tests.unit.sandbox.images.image_store import NOTHING, files_of, imported, unpack_here

ONE, TWO = tar_of({"one": b"1" * 5000}), tar_of({"two": b"2"})
SAMPLE = Image(layers=(ONE, TWO), config={"Cmd": ["sh"], "Env": ["A=b"], "User": "5", "WorkingDir": "/x"})


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_here(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir(mode=0o700)
    return tmp_path / "images"


def test_an_image_is_imported_with_its_documents_layers_and_defaults(images: Path, tmp_path: Path) -> None:
    record = imported(images, tmp_path / "layout", SAMPLE)
    assert record.digest == SAMPLE.digest
    assert [layer.diff_id for layer in record.layers] == [digest_of(ONE), digest_of(TWO)]
    assert (record.defaults.command, record.defaults.env) == (("sh",), ("A=b",))
    assert (record.defaults.user, record.defaults.cwd) == ("5", "/x")
    blobs = [*SAMPLE.blobs(), SAMPLE.config_content(), SAMPLE.manifest_content()]
    found = files_of(images)
    assert found["blobs"] == sorted(digest_of(one).partition(":")[2] for one in blobs)
    assert found["partial"] == []
    assert [name.partition("-")[0] for name in found["layers"]] == sorted(
        digest_of(one).partition(":")[2] for one in (ONE, TWO)
    )
    assert StoredImages(str(images)).names()["sample:1"].digest == SAMPLE.digest
    assert verify(str(images)) == []


def test_the_record_is_written_after_the_layers_and_the_name_last(images: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", SAMPLE)
    source = Layout(str(tmp_path / "layout"), "", "oci:it", scratch_in(str(images)))
    seen: list[tuple[int, list[str], list[str]]] = []

    def prepare(_record: ImageRecord) -> None:
        found = files_of(images)
        seen.append((len(found["blobs"]), found["records"], list(StoredImages(str(images)).names())))

    import_image(str(images), source, host_platform(), "a:b", prepare=prepare)
    source.close()
    assert seen == [(4, [], [])]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image(layers=(ONE, TWO), diff_ids=(digest_of(ONE), digest_of(ONE))), "its content has the diff id"),
        (Image(layers=(ONE, tar_of({"../out": b""}))), r"\.\./out"),
        (Image(layers=(ONE, b"no archive" * 100)), "layer: sha256:"),
        (Image(layers=(ONE, TWO), diff_ids=("sha512:" + "0" * 128,) * 2), "no digest that can be verified"),
    ],
)
def test_an_image_whose_layers_cannot_be_unpacked_leaves_nothing(
    image: Image, message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        imported(images, tmp_path / "layout", image)
    assert caught.value.message.startswith(f"oci:{tmp_path}/layout:t: ")
    assert caught.value.hint
    assert files_of(images) == NOTHING
    assert StoredImages(str(images)).names() == {}


def test_what_another_image_has_stays_when_an_import_fails(images: Path, tmp_path: Path) -> None:
    imported(images, tmp_path / "good", SAMPLE)
    before = files_of(images)
    with pytest.raises(ImageError):
        imported(images, tmp_path / "bad", Image(layers=(ONE, TWO), diff_ids=(digest_of(ONE),) * 2), "bad:1")
    assert files_of(images) == before
    assert verify(str(images)) == []


def test_one_layer_in_two_compressions_is_unpacked_once(images: Path, tmp_path: Path) -> None:
    imported(images, tmp_path / "one", SAMPLE)
    before = files_of(images)["layers"]
    imported(images, tmp_path / "two", Image(layers=(ONE, TWO, ONE), compressed=False), "plain:1")
    assert files_of(images)["layers"] == before
    assert verify(str(images)) == []


def damage(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b"", "has 0 bytes instead of"),
        (b"longer" * 9999, "bytes instead of"),
        ("same size", "has the digest sha256:"),
    ],
)
def test_a_damaged_blob_is_named_with_its_source_and_leaves_nothing(
    content: bytes | str | None, message: str, images: Path, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "layout", SAMPLE)
    blob = SAMPLE.blobs()[1]
    path = layout / "blobs/sha256" / digest_of(blob).partition(":")[2]
    damage(path, bytes(len(blob)) if isinstance(content, str) else content)
    source = Layout(str(layout), "t", "oci:it", scratch_in(str(images)))
    try:
        with pytest.raises(ImageError, match=rf"oci:it: .*blob {digest_of(blob)} .*{message}") as caught:
            import_image(str(images), source, host_platform(), "a:b", resumable=False)
    finally:
        source.close()
    assert caught.value.hint
    assert files_of(images) == NOTHING


def test_complete_blobs_of_a_source_that_resumes_stay_after_an_error(images: Path, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", SAMPLE)
    damage(layout / "blobs/sha256" / digest_of(SAMPLE.blobs()[1]).partition(":")[2], None)
    source = Layout(str(layout), "t", "oci:it", scratch_in(str(images)))
    with pytest.raises(ImageError):
        import_image(str(images), source, host_platform(), "a:b")
    source.close()
    assert files_of(images)["records"] == []
    assert set(files_of(images)["blobs"]) <= {digest_of(SAMPLE.blobs()[0]).partition(":")[2]}


def test_blobs_stay_while_another_import_may_use_them(images: Path, tmp_path: Path) -> None:
    with importing(str(images)), pytest.raises(ImageError):
        imported(images, tmp_path / "layout", Image(layers=(ONE,), diff_ids=(digest_of(TWO),)))
    assert len(files_of(images)["blobs"]) == 3
    assert files_of(images)["records"] == []


def test_two_imports_of_one_image_at_once_succeed(images: Path, tmp_path: Path) -> None:
    image = Image(layers=[tar_of({f"f{number}": bytes(1 << 20)}) for number in range(6)])
    results: list[Any] = []

    def run(name: str) -> None:
        try:
            results.append(imported(images, tmp_path / name, image, f"{name}:1", unpack=False).digest)
        except SandboxError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [image.digest] * 3
    assert files_of(images)["partial"] == []
    assert verify(str(images)) == []


class Slow:
    """A source whose first blob fails, and whose second one is copied until the first has failed."""

    name = "oci:slow"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.top = layout.top
        self.document = layout.document
        self._started = threading.Event()
        self._ended = threading.Event()
        self.copied = 0

    def copy(self, descriptor: Descriptor, _fd: int, progress: Callable[[int], None]) -> None:
        if descriptor.size == len(SAMPLE.blobs()[0]):
            assert self._started.wait(60)
            raise ImageError("the first blob is damaged")
        self._started.set()
        while not self._ended.wait(0.01):
            self.copied += 1
            assert self.copied < 6000
            progress(0)
        raise ImageError("cancelled")

    def cancel(self) -> None:
        self._ended.set()

    def close(self) -> None: ...


def test_the_first_error_ends_the_other_copies_and_is_the_one_reported(images: Path, tmp_path: Path) -> None:
    layout = Layout(str(write_layout(tmp_path / "layout", SAMPLE)), "t", "oci:it", scratch_in(str(images)))
    with pytest.raises(ImageError, match="the first blob is damaged"):
        import_image(str(images), Slow(layout), host_platform(), "a:b")
    layout.close()
    assert files_of(images) == NOTHING


def test_an_image_is_chosen_for_the_platform_and_its_index_is_kept(images: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    other = Image(layers=(TWO,), architecture="s390x")
    write_layout(layout, SAMPLE, other, tags=("", ""))
    entries = [
        describe(
            MANIFEST,
            image.manifest_content(),
            platform={"os": "linux", "architecture": image.architecture},
        )
        for image in (other, SAMPLE)
    ]
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    add_blob(layout, index)
    write_index(layout, [describe(INDEX, index)])
    source = Layout(str(layout), "", "oci:it", scratch_in(str(images)))
    record = import_image(str(images), source, host_platform(), "a:b")
    source.close()
    assert record.digest == SAMPLE.digest
    assert StoredImages(str(images)).names()["a:b"].index == digest_of(index)
    assert digest_of(index).partition(":")[2] in files_of(images)["blobs"]
    assert verify(str(images)) == []


def test_an_image_directory_that_cannot_be_written_is_an_error_with_its_remedy(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StateError, match=r"oci:.*: blob sha256:.*: no space left on device") as caught:
        imported(images, tmp_path / "layout", SAMPLE)
    assert "SANDBOX_CACHE_DIR" in str(caught.value.hint)
    assert files_of(images) == NOTHING


def test_a_lack_of_descriptors_is_an_error_that_names_the_source_and_leaves_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/a/tree")

    monkeypatch.setattr("sandbox.images.image_layers.start_with_ids", lacking)
    with pytest.raises(
        StateError, match=r"oci:.*: its layers cannot be unpacked: /a/tree: too many"
    ) as caught:
        imported(images, tmp_path / "layout", SAMPLE)
    assert "ulimit -n" in str(caught.value.hint)
    assert files_of(images) == NOTHING
