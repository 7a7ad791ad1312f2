"""The cache of steps, and the digest of what a copy reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.builder import cache as cache_module
from sandbox.builder.cache import BuildCache
from sandbox.builder.context import BuildContext
from sandbox.builder.inputs import scan
from sandbox.images.blobs import BlobStore
from sandbox.images.build.dockerignore import IgnoreRules
from sandbox.images.build.plan import CopyFiles
from sandbox.plan.image_values import ImageLayer


def layer_in(images: Path, content: bytes) -> ImageLayer:
    digest = str(BlobStore(str(images)).add(content))
    return ImageLayer(diff_id=digest, digest=digest, size=len(content), media_type="layer")


def test_a_step_is_found_while_the_store_has_its_layer(tmp_path: Path) -> None:
    cache = BuildCache(str(tmp_path), variant="gzip")
    layer = layer_in(tmp_path, b"one")
    assert cache.find("key") == (False, None)
    cache.add("key", layer)
    cache.add("nothing", None)
    assert cache.find("key") == (True, layer)
    assert cache.find("nothing") == (True, None)
    assert BuildCache(str(tmp_path), variant="zstd").find("key") == (False, None)
    for blob in (tmp_path / "blobs/sha256").iterdir():
        blob.unlink()
    assert cache.find("key") == (False, None)
    cache.add("other", layer_in(tmp_path, b"two"))
    assert "key gzip" not in (tmp_path / "build-cache.json").read_text()


def test_the_oldest_steps_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_MOST_STEPS", 3)
    cache = BuildCache(str(tmp_path), variant="")
    for key in "abcad":
        cache.add(key, None)
    assert [key for key in "abcd" if cache.find(key)[0]] == ["a", "c", "d"]


def test_the_largest_cache_can_be_read_again(tmp_path: Path) -> None:
    cache = BuildCache(str(tmp_path), variant="gzip 253402300799")
    layer = layer_in(tmp_path, b"x")
    steps = {
        f"{number:064x} gzip 253402300799": cache_module._as_json(layer)
        for number in range(cache_module._MOST_STEPS)
    }
    cache_module.replace_json(str(tmp_path / "build-cache.json"), {"version": 1, "steps": steps})
    cache.add("last", layer)
    assert cache.find("last") == (True, layer)
    assert cache.find(f"{1:064x}")[0]
    assert not cache.find(f"{0:064x}")[0]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 2, "steps": {}}', '{"version": 1, "steps": 5}', '{"version": 1}',
     '{"version": 1, "steps": {"key gzip": {"digest": "sha256:../../x", "diff_id": "x", "size": 1, "media_type": ""}}}',
     '{"version": 1, "steps": {"key gzip": [1]}}'],
)  # fmt: skip
def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "build-cache.json").write_text(content)
    cache = BuildCache(str(tmp_path), variant="gzip")
    assert cache.find("key") == (False, None)
    cache.add("key", None)
    assert cache.find("key") == (True, None)


def digest(context: Path, *sources: str) -> str:
    opened = BuildContext(str(context), IgnoreRules())
    try:
        return scan(opened, CopyFiles(sources=sources or ("",), target="/t/")).digest
    finally:
        opened.close()


def make(top: Path) -> Path:
    (top / "d").mkdir(parents=True)
    (top / "d/f").write_text("content")
    (top / "d/l").symlink_to("f")
    (top / "g").write_text("other")
    return top


def test_equal_contexts_at_other_times_and_places_have_one_digest(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two/deep")
    os.utime(two / "d/f", (1, 1))
    two.chmod(0o700)
    assert digest(one) == digest(two)
    assert digest(one, "d") == digest(two, "d")


def test_each_change_of_a_context_changes_its_digest(tmp_path: Path) -> None:
    top = make(tmp_path / "context")
    seen = {digest(top)}

    def check(what: str) -> None:
        found = digest(top)
        assert found not in seen, what
        seen.add(found)

    (top / "d/f").write_text("CONTENT")
    check("content of the same size")
    (top / "d/f").chmod(0o755)
    check("mode")
    (top / "d").chmod(0o700)
    check("mode of a directory")
    (top / "d/f").rename(top / "d/F")
    check("name")
    (top / "d/l").unlink()
    (top / "d/l").symlink_to("g")
    check("target of a link")
    (top / "d/l").unlink()
    (top / "d/l").write_text("g")
    check("kind")
    (top / "h").write_text("other")
    check("another file")
    (top / "h").unlink()
    os.link(top / "g", top / "h")
    check("another name of a file")
    (top / "empty").mkdir()
    check("an empty directory")


def test_the_name_of_a_file_counts_and_that_of_a_directory_does_not(tmp_path: Path) -> None:
    top = make(tmp_path / "context")
    (top / "same").write_text("other")
    (top / "e").mkdir()
    (top / "e/f").write_text("content")
    (top / "e/l").symlink_to("f")
    assert digest(top, "g") != digest(top, "same")
    assert digest(top, "d") == digest(top, "e")
    assert digest(top, "d", "g") != digest(top, "g", "d")
