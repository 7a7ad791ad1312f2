"""Layers that are fetched in part, in the store: identified by their tables, whole after a kill, and removed with their images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.errors import ImageError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.chunked.fetch_table import fetch_table
from sandbox.images.chunked.partial_layers import PartialLayers
from sandbox.images.chunked.toc import FOOTER
from sandbox.images.image_layers import names_of
from sandbox.images.mounted_layers import MountedLayers, open_recorded_layer
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.model import Descriptor
from sandbox.images.places import blob_path, fetched_in_part
from sandbox.images.unpacked_trees import StoredLayer
from sandbox.plan.image_values import ImageLayer
from tests.support.chunked import ChunkedLayer, write_estargz, write_zstd_chunked
from tests.support.images import digest_of, tar_of
from tests.unit.sandbox.images.image_store import IDS, unpack_here
from unionfs._stdlib.dataclasses import replace
from unionfs.layer_index.archive_chunks import ChunkTable

BASE = tar_of({"etc/": None, "etc/one": b"1", "closed/": None}, mode=0o700)
INSIDE = tar_of({"closed/file": b"x"})


class Source:
    """Stands for an image of a registry (`RegistryImage`)."""

    name = "docker://registry/team/app:1"

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self.ranges: list[tuple[int, int]] = []

    def read_range(self, _descriptor: Descriptor, offset: int, length: int) -> bytes:
        self.ranges.append((offset, length))
        return self.blob[offset : offset + length]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    unpack_here(monkeypatch)
    return str(tmp_path)


def fetch(images: str, layer: ChunkedLayer, blob: str = "") -> ImageLayer:
    """Fetch the table of *layer*; return the layer of an image, with *blob* as the digest of its blob."""
    digest = blob or digest_of(layer.blob)
    described = Descriptor(
        media_type=layer.media_type,
        digest=Digest.parse(digest),
        size=len(layer.blob),
        annotations=layer.annotations,
    )
    assert fetch_table(Source(layer.blob), PartialLayers(images), described)  # type: ignore[arg-type]
    return ImageLayer(
        diff_id=digest_of(layer.tar), digest=digest, size=len(layer.blob), media_type="x", table=layer.table
    )


def add(images: str, content: bytes) -> ImageLayer:
    """Store the blob of an uncompressed layer."""
    BlobStore(images).add(content)
    return ImageLayer(
        diff_id=digest_of(content), digest=digest_of(content), size=len(content), media_type="tar"
    )


@contextmanager
def opened(images: str, *image: ImageLayer, mounted: bool = False) -> Iterator[Sequence[StoredLayer]]:
    found = MountedLayers(images).open(
        image, IDS, "name:1", mounted=mounted, partial=fetched_in_part(images, image)
    )
    try:
        yield found
    finally:
        for stored in found:
            stored.close()


@pytest.mark.parametrize("write", [write_zstd_chunked, write_estargz])
def test_only_the_table_is_fetched_and_once(images: str, write: Callable[[bytes], ChunkedLayer]) -> None:
    layer = write(BASE)
    source = Source(layer.blob)
    described = Descriptor(
        media_type=layer.media_type,
        digest=Digest.parse(digest_of(layer.blob)),
        size=len(layer.blob),
        annotations=layer.annotations,
    )
    for _ in range(2):
        assert fetch_table(source, PartialLayers(images), described)  # type: ignore[arg-type]
    assert len(source.ranges) == (1 if write is write_zstd_chunked else 2)
    assert write is write_zstd_chunked or source.ranges[0] == (len(layer.blob) - FOOTER, FOOTER)
    assert list(map(str, PartialLayers(images).digests())) == [layer.table]


def test_a_layer_without_a_table_is_not_fetched_in_part(images: str) -> None:
    described = Descriptor(media_type="x", digest=Digest.of(b"x"), size=1)
    assert not fetch_table(Source(b"x"), PartialLayers(images), described)  # type: ignore[arg-type]
    wrong = write_estargz(BASE)
    described = replace(described, size=len(wrong.blob), annotations=wrong.annotations)
    blob = wrong.blob[:-FOOTER] + bytes(FOOTER)
    assert not fetch_table(Source(blob), PartialLayers(images), described)  # type: ignore[arg-type]
    assert list(PartialLayers(images).digests()) == []


def test_the_index_the_data_and_the_table_of_chunks_fit_together(images: str) -> None:
    layer = fetch(images, write_zstd_chunked(BASE))
    assert fetched_in_part(images, [layer]) == {layer.table}
    with opened(images, layer) as (stored,):
        assert stored.chunks_fd is not None
        assert stored.archive_fd is not None
        table = ChunkTable(os.pread(stored.chunks_fd, 1 << 20, 0))
        assert os.fstat(stored.archive_fd).st_size == table.size == 1
        assert names_of(stored).is_directory("/etc")
        place = stored.place
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(stored.archive_fd, b"x", 0)  # the server gets this one
    fds = open_recorded_layer(images, place)
    assert fds.chunks_fd is not None
    for fd in fds:
        os.close(fd)  # type: ignore[arg-type]
    PartialLayers(images).remove(Digest.parse(layer.table))
    with pytest.raises(StateError, match="cannot be opened"):
        open_recorded_layer(images, place)


def test_a_complete_blob_is_used_as_a_whole(images: str) -> None:
    chunked = write_zstd_chunked(BASE)
    layer = fetch(images, chunked)
    BlobStore(images).add(chunked.blob)
    assert os.path.exists(blob_path(images, layer.digest))
    assert fetched_in_part(images, [layer]) == frozenset()


def test_an_image_that_states_another_table_for_a_known_blob_replaces_nothing(images: str) -> None:
    """A registry could serve anything for the blob of a known layer, as nothing compares its digest."""
    genuine = write_zstd_chunked(BASE)
    forged = write_zstd_chunked(tar_of({"etc/": None, "etc/one": b"forged"}, mode=0o777))
    blob, diff_id = digest_of(genuine.blob), digest_of(BASE)
    first = replace(fetch(images, forged, blob), diff_id=diff_id)
    second = fetch(images, genuine, blob)
    with opened(images, first) as (one,), opened(images, second) as (two,):
        assert one.place != two.place
        assert names_of(one).attributes("/etc") != names_of(two).attributes("/etc")
        assert os.fstat(one.archive_fd or 0).st_ino != os.fstat(two.archive_fd or 0).st_ino


def test_a_layer_above_a_lazy_one_is_not_that_above_the_layer_whose_diff_id_it_states(images: str) -> None:
    """An unpacked layer takes attributes of the one below. A lazy one below may state any diff id."""
    inside, base = add(images, INSIDE), add(images, BASE)
    forged = write_zstd_chunked(tar_of({"closed/": None}, mode=0o777))
    lying = replace(fetch(images, forged), diff_id=base.diff_id)
    for mounted in (False, True):
        modes = []
        for bottom in (lying, base, lying):
            with opened(images, bottom, inside, mounted=mounted) as (_, above):
                if mounted:
                    attributes = names_of(above).attributes("/closed")
                    assert attributes is not None
                    modes.append(attributes.mode)
                else:
                    modes.append(os.stat(os.path.join(above.place, "tree/closed")).st_mode & 0o777)
        assert modes == [0o777, 0o700, 0o777]


def test_a_hard_link_to_a_file_of_a_lazy_layer_is_refused(images: str) -> None:
    layer = fetch(images, write_zstd_chunked(BASE))
    link = add(images, tar_of({"etc/two": "=> etc/one"}))
    with pytest.raises(ImageError, match="etc/one, a file of a layer below that is not unpacked"):
        MountedLayers(images).open([layer, link], IDS, "name:1", mounted=False, partial={layer.table})


@pytest.mark.parametrize("damage", ["table", "place.json", "missing"])
def test_a_damaged_table_in_the_store_is_an_error_with_a_remedy(images: str, damage: str) -> None:
    layer = fetch(images, write_zstd_chunked(BASE))
    path = Path(PartialLayers(images).path(layer.table))
    if damage == "missing":
        (path / "table").unlink()
    else:
        (path / damage).write_bytes(b"[]")
    with pytest.raises(ImageError) as caught:
        MountedLayers(images).open([layer], IDS, "name:1", mounted=False, partial={layer.table})
    assert caught.value.hint
    assert list(Path(images).glob("layers/*/members")) == []


def test_what_a_killed_process_has_left_is_removed(images: str) -> None:
    layers = PartialLayers(images)
    layer = fetch(images, write_zstd_chunked(BASE))
    left = Path(images, "lazy/.new-0123")
    left.mkdir()
    (left / "table").write_bytes(b"x")
    assert list(map(str, layers.digests())) == [layer.table]
    layers.remove_interrupted()
    assert not left.exists()
    assert layers.size(layer.table) > 0
    assert layers.remove(Digest.parse(layer.table)) > 0
    assert os.listdir(Path(images, "lazy")) == []
    assert layers.remove(Digest.parse(layer.table)) == 0


def test_a_full_disk_is_an_error_and_leaves_nothing(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="no space left on device"):
        fetch(images, write_zstd_chunked(BASE))
    assert os.listdir(Path(images, "lazy")) == []
