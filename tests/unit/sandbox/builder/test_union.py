"""Looking up paths in the union of trees with whiteouts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.builder.union import Union
from sandbox.errors import ImageError

Layer = dict[str, str]
"""The objects of a layer by their paths: "dir", "file", ".wh." for a whiteout, ".opq" for an opaque directory, or the target of a link."""


@contextmanager
def union_of(base: Path, layers: Sequence[Layer]) -> Iterator[Union]:
    """Give the union of *layers*, bottom first."""
    fds = []
    for number, layer in enumerate(layers):
        top = base / str(number)
        top.mkdir()
        for path, kind in layer.items():
            _make(top / path, kind)
        fds.insert(0, os.open(top, os.O_PATH | os.O_DIRECTORY))
    try:
        yield Union(fds)
    finally:
        for fd in fds:
            os.close(fd)


def _make(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "dir":
        path.mkdir(exist_ok=True)
    elif kind == ".opq":
        path.mkdir(exist_ok=True)
        (path / ".wh..wh..opq").touch()
    elif kind == ".wh.":
        path.with_name(f".wh.{path.name}").touch()
    elif kind == "file":
        path.write_text(path.name)
    else:
        path.symlink_to(kind)


def test_the_topmost_layer_with_an_object_counts(tmp_path: Path) -> None:
    with union_of(
        tmp_path, [{"a": "file", "b": "file", "d/x": "file"}, {"a": "dir", "b": ".wh.", "d": ".opq"}]
    ) as union:
        assert [union.kind(path) for path in ("/", "/a", "/b", "/c", "/d", "/d/x")] == [
            "directory", "directory", "", "", "directory", "",
        ]  # fmt: skip
        assert union.listing("/") == {"a": True, "d": True}
        assert union.listing("/d") == {}


def test_links_are_followed_within_the_root(tmp_path: Path) -> None:
    layer = {
        "usr/lib/x": "file",
        "lib": "usr/lib",
        "abs": "/usr",
        "out": "../../../usr",
        "loop": "loop",
        "gone": "/no",
    }
    with union_of(tmp_path, [layer]) as union:
        assert union.resolve("/lib/x") == "/usr/lib/x"
        assert union.resolve("/abs/lib/../lib") == "/usr/lib"
        assert union.resolve("/out/lib") == "/usr/lib"
        assert union.resolve("/gone/a") == "/no/a"
        assert union.resolve("/none/a/../b") == "/none/b"
        with pytest.raises(ImageError, match="too many symbolic links"):
            union.resolve("/loop/x")


def test_only_regular_files_up_to_the_limit_are_read(tmp_path: Path) -> None:
    with union_of(tmp_path, [{"etc/passwd": "../file", "file": "file", "d": "dir"}]) as union:
        os.mkfifo(tmp_path / "0" / "fifo")
        assert union.read("/etc/passwd", 4) == b"file"
        assert union.read("/etc/passwd", 3) is None
        assert union.read("/d", 9) is None
        assert union.read("/fifo", 9) is None
        assert union.read("/none", 9) is None


def test_nothing_is_everything_without_layers(tmp_path: Path) -> None:
    with union_of(tmp_path, []) as union:
        assert union.kind("/") == "directory"
        assert union.kind("/a") == ""
        assert union.listing("/") == {}


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
KINDS = st.sampled_from(["dir", "file", ".wh.", ".opq"])


def consistent(layer: Layer) -> Layer:
    """Return the part of *layer* in which no file has files below it, and no whiteout has its own name beside it."""
    kept: Layer = {}
    for path, kind in sorted(layer.items()):
        parents = [path[:number] for number, char in enumerate(path) if char == "/"]
        if all(kept.get(parent, "dir") in ("dir", ".opq") for parent in parents):
            kept[path] = kind
            for parent in parents:
                kept.setdefault(parent, "dir")
    return dict(sorted(kept.items()))


def merged(layers: Sequence[Layer]) -> Layer:
    """Return what unpacking *layers* one over the other gives: the definition of whiteouts (image-spec, layer.md)."""
    shown: Layer = {}
    for layer in layers:
        for path, kind in layer.items():
            inside = [other for other in shown if other.startswith(f"{path}/")]
            if kind in (".wh.", ".opq", "file") or shown.get(path) == "file":
                for other in (*inside, *([path] if path in shown else [])):
                    del shown[other]
        for path, kind in layer.items():
            if kind != ".wh.":
                shown[path] = "file" if kind == "file" else "dir"
    return shown


@settings(deadline=None, max_examples=150)
@given(st.lists(st.dictionaries(PATHS, KINDS, max_size=6).map(consistent), max_size=3))
def test_a_union_shows_what_unpacking_its_layers_gives(layers: list[Layer]) -> None:
    expected = merged(layers)
    with TemporaryDirectory() as base, union_of(Path(base), layers) as union:
        found: Layer = {}
        pending = [""]
        while pending:
            at = pending.pop()
            for name, is_directory in union.listing(f"/{at}").items():
                path = f"{at}/{name}" if at else name
                found[path] = "dir" if is_directory else "file"
                assert union.kind(f"/{path}") == ("directory" if is_directory else "other")
                if is_directory:
                    pending.append(path)
        assert found == expected
