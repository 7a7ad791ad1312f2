"""Layers of what a union has changed: equal results are equal layers, and umoci unpacks them to the union's tree."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.images.oci.layout_writer import write_layout
from tests.unit.sandbox.images.oci.layer_streams import Layer, T
from tests.unit.sandbox.images.oci.sample_images import image_of
from tests.unit.sandbox.images.oci.test_other_tools import unpacked
from tests.unit.unionfs.changes.archives import (
    LOWER,
    differences,
    facts_on_disk,
    links_in,
    links_on_disk,
    written,
)
from tests.unit.unionfs.changes.test_umoci import as_umoci_can, changed, packed
from tests.unit.unionfs.changes.trees import shown_by
from tests.unit.unionfs.operations import FORMS
from tests.unit.unionfs.support import Union

MakeUnion = Callable[[str], Union]


@pytest.fixture
def make_union(tmp_path: Path) -> Iterator[MakeUnion]:
    """Return a function that opens a new union over LOWER with marks of the given form. They are closed at the end."""
    made: list[Union] = []

    def make(form: str) -> Union:
        base = tmp_path / f"union{len(made)}"
        base.mkdir()
        made.append(Union(base, (LOWER,), {}, form=FORMS[form]))
        return made[-1]

    yield make
    for union in made:
        union.close()


@pytest.mark.umoci
@pytest.mark.parametrize("form", sorted(FORMS))
def test_umoci_unpacks_what_the_union_shows(make_union: MakeUnion, tmp_path: Path, form: str) -> None:
    union = make_union(form)
    changed(union)
    layers = [
        Layer(content, tmp_path, compression="gzip")
        for content in (packed(union.lowers[0]), written(union, "layer"))
    ]
    write_layout(str(tmp_path / "layout"), image_of(layers)[0], "t")
    rootfs = unpacked(tmp_path / "layout", "t", tmp_path / "bundle")
    shown = as_umoci_can(shown_by(union))
    assert differences(shown, as_umoci_can(facts_on_disk(rootfs))) == {}
    assert links_on_disk(rootfs) == links_in(union, shown)


def test_times_of_access_and_change_that_another_tar_has_written_are_left_out(
    make_union: MakeUnion, tmp_path: Path
) -> None:
    lower = make_union(min(FORMS)).lowers[0]
    first = packed(lower)
    assert b"atime=" in first
    for path in lower.rglob("*"):
        if not path.is_symlink():
            os.utime(path, ns=(T * 10**9, path.stat().st_mtime_ns))
    second = packed(lower)
    assert first != second
    assert Layer(first, tmp_path).blob == Layer(second, tmp_path).blob


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_changes_does_not_change_the_layer(
    make_union: MakeUnion, tmp_path: Path, form: str, seed: int
) -> None:
    layers, streams = set(), set()
    for number in range(2):
        union = make_union(form)
        order = random.Random(f"{seed}-{number}")

        def shuffled(*operations: Callable[[], object], order: random.Random = order) -> None:
            for operation in order.sample(operations, len(operations)):
                operation()

        union.mkdir("new")
        names = [f"new/{name}" for name in "zyxw"] + ["0", "~"]
        order.shuffle(names)
        union.create(names[0], b"many names")
        for name in names[1:]:
            union.link(names[0], name)
        shuffled(
            lambda union=union: union.unlink("b"),
            lambda union=union: union.rename("e", "moved"),
            lambda union=union: union.create("new/-", b"1"),
            lambda union=union: union.create("new/.hidden", b"2"),
            lambda union=union: union.create("new-er", b"3"),
            lambda union=union: union.chmod("big", 0o600 | stat.S_ISUID),
            lambda union=union: union.unlink("d/sub/deep/x"),
            lambda union=union: union.write("h1", b"THREE"),
        )
        content = written(union, "layer")
        streams.add(content)
        layers.add(Layer(content, tmp_path, latest=T).blob)
    assert len(streams) == 2
    assert len(layers) == 1
