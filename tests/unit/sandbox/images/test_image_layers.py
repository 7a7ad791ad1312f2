"""Unpacked layers of images: shared by all images, and independent of the order in which images are imported."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.errors import ImageError, SandboxError
from sandbox.images.blobs import BlobStore
from sandbox.images.image_layers import ImageLayers
from sandbox.images.unpacked_trees import StoredLayer
from sandbox.plan.image_values import ImageLayer
from tests.support.images import digest_of, tar_of
from tests.support.tree import snapshot
from tests.unit.sandbox.images.image_store import IDS, unpack_here
from unionfs._stdlib.dataclasses import replace

BASE = tar_of({"etc/": None, "etc/one": b"1", "closed/": None}, mode=0o700)
LINK = tar_of({"etc/two": "=> etc/one"})
INSIDE = tar_of({"closed/file": b"x"})
OWN = tar_of({"usr/": None, "usr/file": b"x"})


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageLayers:
    unpack_here(monkeypatch)
    return ImageLayers(str(tmp_path))


def add(layers: ImageLayers, content: bytes) -> ImageLayer:
    """Store the blob of an uncompressed layer."""
    BlobStore(layers._images).add(content)
    return ImageLayer(
        diff_id=digest_of(content), digest=digest_of(content), size=len(content), media_type="tar"
    )


@contextmanager
def opened(layers: ImageLayers, *contents: bytes) -> Iterator[list[StoredLayer]]:
    """Open the layers of an image, bottom first."""
    found = layers.open([add(layers, content) for content in contents], IDS)
    try:
        yield found
    finally:
        for stored in found:
            stored.close()


def places(layers: ImageLayers, *contents: bytes) -> list[str]:
    with opened(layers, *contents) as found:
        return [one.place for one in found]


def test_a_layer_is_unpacked_once_whatever_is_below_it(layers: ImageLayers) -> None:
    alone = places(layers, OWN)
    assert places(layers, BASE, OWN)[1:] == alone
    assert places(layers, OWN, OWN) == alone * 2
    assert len(layers.made) == 2


@pytest.mark.parametrize("content", [LINK, INSIDE])
def test_a_layer_that_needs_those_below_is_unpacked_over_each_of_them(
    layers: ImageLayers, content: bytes
) -> None:
    other = tar_of({"etc/": None, "etc/one": b"other", "closed/": None}, mode=0o755)
    first, second = places(layers, BASE, content)[1], places(layers, other, content)[1]
    assert first != second
    assert places(layers, BASE, content)[1] == first
    assert snapshot(os.path.join(first, "tree")) != snapshot(os.path.join(second, "tree"))


def test_the_result_does_not_depend_on_which_image_was_unpacked_first(layers: ImageLayers) -> None:
    # Over nothing, the unlisted directory gets the usual mode. Over BASE it has that of BASE.
    alone = places(layers, INSIDE)[0]
    over = places(layers, BASE, INSIDE)[1]
    assert os.stat(os.path.join(alone, "tree/closed")).st_mode & 0o777 == 0o755
    assert os.stat(os.path.join(over, "tree/closed")).st_mode & 0o777 == 0o700
    assert places(layers, INSIDE)[0] == alone


def test_a_layer_with_another_diff_id_is_refused_and_not_kept(layers: ImageLayers) -> None:
    layer = replace(add(layers, OWN), diff_id="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match=rf"{layer.digest}: its content has the diff id {digest_of(OWN)}"):
        layers.open([layer], IDS)
    assert os.listdir(layers.trees.base) == []
    assert layers.made == {}


def test_a_layer_without_a_blob_is_refused(layers: ImageLayers) -> None:
    layer = replace(add(layers, OWN), digest="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="the image store has no blob sha256:000"):
        layers.open([layer], IDS)
    assert os.listdir(layers.trees.base) == []


def test_only_what_was_made_is_discarded_and_not_what_is_in_use(layers: ImageLayers) -> None:
    places(layers, OWN)
    again = ImageLayers(layers._images)
    with opened(again, OWN, BASE, INSIDE) as found:
        again.discard_made()
        assert sorted(again.trees.names()) == sorted(os.path.basename(one.place) for one in found)
    again.discard_made()
    assert again.trees.names() == [os.path.basename(found[0].place)]


def test_a_full_disk_is_an_error_that_names_the_layer_and_the_member(
    layers: ImageLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Sequence[str]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "usr/file")

    monkeypatch.setattr("sandbox.images.bounded.unpack_bounded", full)
    layer = add(layers, OWN)
    with pytest.raises(
        SandboxError, match=f"layer {layer.digest} cannot be unpacked: usr/file: no space left"
    ) as caught:
        layers.open([layer], IDS)
    assert "SANDBOX_CACHE_DIR" in str(caught.value.hint)
    assert os.listdir(layers.trees.base) == []


def test_a_removal_that_is_killed_leaves_no_layer_that_seems_complete(
    layers: ImageLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = places(layers, OWN)
    name = os.path.basename(place)

    class KilledError(BaseException): ...

    def killed(path: str, _ids: object) -> None:
        os.unlink(os.path.join(path, "tree/usr/file"))
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("sandbox.images.unpacked_trees.remove_directory", killed)
        with pytest.raises(KilledError):
            layers.trees.discard_unused(name)
    assert layers.trees.names() == []
    assert layers.trees.open(name) is None
    assert len(layers.trees.interrupted()) == 1
    (again,) = places(layers, OWN)
    assert os.path.exists(os.path.join(again, "tree/usr/file"))
    assert len(layers.trees.remove_interrupted()) == 1
    assert os.listdir(layers.trees.base) == [name]


def test_notices_are_given_once(layers: ImageLayers) -> None:
    content = tar_of({"device": b""}, type=b"3")
    with opened(layers, content) as (first,), opened(layers, content) as (second,):
        assert len(first.notices) == 1
        assert digest_of(content) in first.notices[0]
        assert second.notices == ()


def test_the_descriptors_of_a_failed_import_are_closed(layers: ImageLayers) -> None:
    before = os.listdir("/proc/self/fd")
    layer = replace(add(layers, OWN), diff_id="sha256:" + "0" * 64)
    with pytest.raises(ImageError):
        layers.open([layer], IDS)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_an_image_of_many_layers_needs_more_descriptors_only_while_it_is_unpacked(
    layers: ImageLayers,
) -> None:
    contents = [tar_of({f"f{number}": b""}) for number in range(60)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(map(int, os.listdir("/proc/self/fd"))) + 3 * len(contents) + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, limits[1]))
    try:
        with opened(layers, *contents) as found:
            assert len(found) == len(contents)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(layers.made) == len(contents)
