"""The indexes of layers of images that are mounted: verified, shared, and equal to what unpacking would show."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.errors import ImageError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.image_layers import ImageLayers, names_of
from sandbox.images.mounted_archives import MEMBERS
from sandbox.images.mounted_layers import MountedLayers, open_recorded_layer
from sandbox.images.unpacked_trees import StoredLayer
from sandbox.plan.image_values import ImageLayer
from tests.support.images import digest_of, tar_of
from tests.unit.sandbox.images.image_store import IDS, unpack_here
from unionfs._stdlib.dataclasses import replace

BASE = tar_of({"etc/": None, "etc/one": b"1", "closed/": None, "gone/": None}, mode=0o700)
INSIDE = tar_of({"closed/file": b"x"})
LINK = tar_of({"etc/two": "=> etc/one"})
HIDING = tar_of({".wh.closed": b"", "closed/file": b"x"})
OWN = tar_of({"usr/": None, "usr/file": b"x"})


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MountedLayers:
    unpack_here(monkeypatch)
    return MountedLayers(str(tmp_path))


def add(layers: MountedLayers, content: bytes, *, packed: bool = False) -> ImageLayer:
    """Store the blob of a layer."""
    blob = gzip.compress(content, mtime=0) if packed else content
    BlobStore(layers._images).add(blob)
    return ImageLayer(diff_id=digest_of(content), digest=digest_of(blob), size=len(blob), media_type="tar")


@contextmanager
def opened(layers: MountedLayers, *image: ImageLayer | bytes) -> Iterator[list[StoredLayer]]:
    """Open the layers of an image, bottom first."""
    parts = [add(layers, one) if isinstance(one, bytes) else one for one in image]
    found = layers.open(parts, IDS, "oci:/image:1")
    try:
        yield found
    finally:
        for stored in found:
            stored.close()


def mode_of(layers: MountedLayers, path: str, *contents: bytes) -> int:
    """Return the mode of the directory *path* in the topmost layer of the image with *contents*."""
    with opened(layers, *contents) as found:
        attributes = names_of(found[-1]).attributes(path)
        assert attributes is not None
        return attributes.mode


def kept(layers: MountedLayers) -> list[str]:
    return sorted(layers._trees.names())


def test_a_layer_is_indexed_once_whatever_is_below_it(layers: MountedLayers) -> None:
    with opened(layers, OWN) as alone, opened(layers, BASE, OWN, OWN) as over:
        assert {one.place for one in over[1:]} == {alone[0].place}
        assert alone[0].archive_fd is not None
        assert os.pread(alone[0].archive_fd, 1 << 20, 0) == OWN
        assert os.listdir(os.path.join(alone[0].place, "tree")) == []
    assert len(kept(layers)) == 2


def test_two_blobs_of_one_content_have_an_index_each(layers: MountedLayers) -> None:
    with opened(layers, add(layers, OWN)) as plain, opened(layers, add(layers, OWN, packed=True)) as packed:
        assert plain[0].place != packed[0].place
        assert names_of(packed[0]).is_directory("/usr")


@pytest.mark.parametrize("content", [INSIDE, HIDING])
def test_a_directory_that_the_layer_does_not_list_is_as_when_unpacking(
    layers: MountedLayers, content: bytes
) -> None:
    found = ImageLayers(layers._images).open([add(layers, BASE), add(layers, content)], IDS)
    unpacked = os.stat(os.path.join(found[-1].place, "tree/closed")).st_mode & 0o777
    for stored in found:
        stored.close()
    assert mode_of(layers, "/closed", BASE, content) == unpacked == (0o700 if content is INSIDE else 0o755)
    assert mode_of(layers, "/closed", content) == 0o755
    assert mode_of(layers, "/closed", BASE, content) == unpacked


def test_layers_between_are_searched_from_the_top_and_their_whiteouts_count(layers: MountedLayers) -> None:
    between = tar_of({"closed/": None}, mode=0o711)
    assert mode_of(layers, "/closed", BASE, between, OWN, INSIDE) == 0o711
    hidden = tar_of({".wh.closed": b""})
    assert mode_of(layers, "/closed", BASE, between, hidden, INSIDE) == 0o755
    opaque = tar_of({".wh..wh..opq": b""})
    assert mode_of(layers, "/closed", BASE, opaque, INSIDE) == 0o755
    other = tar_of({"closed": b"a file"})
    assert mode_of(layers, "/closed", BASE, other, INSIDE) == 0o755


def test_a_hard_link_to_a_file_of_a_lower_layer_is_refused(layers: MountedLayers) -> None:
    with pytest.raises(ImageError, match="etc/two: a hard link to etc/one, which is not an earlier member"):
        layers.open([add(layers, BASE), add(layers, LINK)], IDS, "oci:/image:1")


@pytest.mark.parametrize("what", ["digest", "size", "diff_id"])
def test_a_blob_with_another_digest_size_or_diff_id_is_refused_and_not_kept(
    layers: MountedLayers, what: str
) -> None:
    layer = add(layers, OWN, packed=True)
    if what == "digest":
        path = Path(BlobStore(layers._images).base, layer.digest.replace(":", "/"))
        path.write_bytes(gzip.compress(OWN, 1, mtime=1))
        layer = replace(layer, size=path.stat().st_size)
    elif what == "size":
        layer = replace(layer, size=layer.size + 1)
    else:
        layer = replace(layer, diff_id="sha256:" + "0" * 64)
    message = {"digest": "has another digest", "size": "bytes, not the", "diff_id": "has the diff id"}[what]
    with pytest.raises(ImageError, match=message):
        layers.open([layer], IDS, "oci:/image:1")
    assert kept(layers) == []
    assert layers.made == {}


def test_a_damaged_index_is_made_again(layers: MountedLayers) -> None:
    with opened(layers, OWN) as found:
        members = Path(found[0].place, MEMBERS)
        good = members.read_bytes()
    members.write_bytes(good[:-1])
    with opened(layers, OWN):
        assert members.read_bytes() == good


@pytest.mark.parametrize(
    ("source", "commands"),
    [
        ("oci:/image:1", ["skopeo copy", "oci:/image:1 oci:seekable:1;"]),
        ("h/n:1", ["sandbox export image:h/n:1 oci:plain && skopeo copy", "oci:plain oci:seekable:1;"]),
    ],
)
def test_a_layer_in_large_pieces_is_refused_with_the_command_that_packs_it_again(
    layers: MountedLayers, source: str, commands: Sequence[str]
) -> None:
    large = add(layers, tar_of({"zeros": bytes(20 << 20)}), packed=True)
    with pytest.raises(ImageError, match="its files cannot be read where they are") as caught:
        layers.open([large], IDS, source)
    assert caught.value.hint is not None
    assert all(command in caught.value.hint for command in commands)
    assert kept(layers) == []


def test_a_layer_of_several_pieces_with_a_large_one_is_refused_without_that_command(
    layers: MountedLayers,
) -> None:
    content = tar_of({"small": b"x", "zeros": bytes(20 << 20)})
    blob = gzip.compress(content[:512]) + gzip.compress(content[512:], 1)
    BlobStore(layers._images).add(blob)
    layer = replace(add(layers, content), digest=digest_of(blob), size=len(blob))
    with pytest.raises(ImageError, match="its files cannot be read where they are") as caught:
        layers.open([layer], IDS, "oci:/image:1")
    assert caught.value.hint == 'remove "mount = true", which unpacks it'


def test_only_what_was_made_is_discarded_and_not_what_is_in_use(layers: MountedLayers) -> None:
    with opened(layers, OWN):
        pass
    again = MountedLayers(layers._images)
    with opened(again, OWN, BASE) as found:
        again.discard_made()
        assert len(kept(again)) == 2
    again.discard_made()
    assert kept(again) == [os.path.basename(found[0].place)]


def test_a_reader_finds_the_blob_and_the_index(layers: MountedLayers) -> None:
    with opened(layers, OWN) as found:
        place = found[0].place
    fds = open_recorded_layer(layers._images, place)
    assert os.pread(fds.archive_fd, 1 << 20, 0) == OWN
    assert os.path.samestat(os.fstat(fds.members_fd), os.stat(os.path.join(place, MEMBERS)))
    assert fds.chunks_fd is None
    for fd in fds[:2]:
        os.close(fd)


@pytest.mark.parametrize("damage", ["index", "digest", "blob", "nothing"])
def test_a_reader_refuses_what_is_damaged_or_gone(layers: MountedLayers, damage: str) -> None:
    with opened(layers, OWN) as found:
        place = found[0].place
    if damage == "nothing":
        with pytest.raises(FileNotFoundError):
            open_recorded_layer(layers._images, place + "x")
        return
    if damage == "blob":
        Path(BlobStore(layers._images).base, digest_of(OWN).replace(":", "/")).unlink()
    else:
        Path(place, {"index": MEMBERS, "digest": "blob"}[damage]).write_bytes(b"x" * 100)
    with pytest.raises(StateError) as caught:
        open_recorded_layer(layers._images, place)
    assert caught.value.hint
