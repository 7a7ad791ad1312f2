"""Archives of trees and of single objects, holes in files, and what changes while an archive is written."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import File
from tests.unit.unionfs.changes.archives import (
    LOWER,
    data_ranges,
    differences,
    facts_on_disk,
    links_in,
    links_on_disk,
    listed,
    names,
    unpack,
    without_sockets,
    written,
)
from tests.unit.unionfs.changes.trees import shown_by, source_of
from tests.unit.unionfs.operations import FORMS
from tests.unit.unionfs.support import Union
from unionfs._stdlib.dataclasses import replace
from unionfs.assemble import LayerSource
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.stream import Stream
from unionfs.formats.whiteout import NO_MARKS
from unionfs.layer.directory import LayerDir
from unionfs.layer.ownership import IdPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.unionfs.changes.conftest import Layer
    from tests.unit.unionfs.conftest import MakeUnion
    from unionfs.types import Mark

ROOT = os.geteuid() == 0

# -- holes ---------------------------------------------------------------------------------------------


def test_holes_stay_holes(make_union: MakeUnion, layer: Layer, tmp_path: Path) -> None:
    union = make_union({"below": File(b"x", size=1 << 20), "meta": File(b"x", size=1 << 20)})
    union.create("empty")
    union.truncate("empty", 1 << 20)
    union.create("middle", b"begin")
    union.write("middle", b"end", 1 << 19)
    union.write("below", b"y")
    union.chmod("meta", 0o600)
    archive = written(union, "layer")
    assert len(archive) < 1 << 17
    layer(union)
    block = os.stat(tmp_path).st_blksize
    unpacked = tmp_path / "unpacked"
    assert data_ranges(unpacked / "empty") == []
    assert data_ranges(unpacked / "below") == data_ranges(unpacked / "meta") == [(0, block)]
    assert data_ranges(unpacked / "middle") == [(0, block), (1 << 19, 3)]


# -- trees and members ---------------------------------------------------------------------------------


def changed(union: Union) -> None:
    """Change *union* in every way."""
    union.chmod("big", 0o640)
    union.write("h1", b"THREE")
    union.rename("d", "moved")
    union.unlink("moved/b")
    union.unlink("b")
    union.create("new", b"new")
    union.setxattr("", "user.of", b"the root")
    union.mknod("sock", stat.S_IFSOCK | 0o755)


def is_in(path: bytes, top: bytes) -> bool:
    """Return whether *path* is at or below *top*."""
    return not top or path == top or path.startswith(top + b"/")


def test_the_tree_of_the_root_is_what_the_union_shows(union: Union, tmp_path: Path) -> None:
    changed(union)
    archive = written(union, "trees", [b""])
    assert written(union, "trees", [b""]) == archive
    unpack(archive, tmp_path / "unpacked")
    shown = without_sockets(shown_by(union))
    assert differences(shown, facts_on_disk(tmp_path / "unpacked")) == {}
    assert links_on_disk(tmp_path / "unpacked") == links_in(union, shown)


def test_trees_are_what_the_union_shows_below_several_paths(union: Union, tmp_path: Path) -> None:
    changed(union)
    paths = [b"moved/sub", b"hd", b"h2", b"moved", b"e/in/b"]
    unpack(written(union, "trees", paths), tmp_path / "unpacked")
    shown = without_sockets(shown_by(union))
    found = facts_on_disk(tmp_path / "unpacked")
    chosen = {path: facts for path, facts in shown.items() if any(is_in(path, top) for top in paths)}
    assert (
        differences(chosen, {path: found[path] for path in found if path not in {b"", b"e", b"e/in"}}) == {}
    )
    assert links_on_disk(tmp_path / "unpacked") == {frozenset({b"h2", b"hd/h3"})}


def test_ids_are_those_that_the_union_shows(tmp_path: Path) -> None:
    union = Union(
        tmp_path, [LOWER], {}, form=FORMS["overlay"], more={"ids": IdPolicy(squash_uid=7, squash_gid=2**31)}
    )
    try:
        info = listed(written(union, "members", [b"big"]))[b"big"]
    finally:
        union.close()
    assert (info.uid, info.gid) == (7, 2**31)


def test_the_skeleton_is_in_no_archive(tmp_path: Path) -> None:
    union = Union(tmp_path, [{"etc": {"f": b"f"}}], {}, skeleton={"proc": {}, "etc": {"name": b""}})
    try:
        union.create("etc/new")
        source = source_of(union)
        skeleton = LayerSource(fd=os.open(tmp_path / "skeleton", os.O_PATH), policy=NO_MARKS, skeleton=True)
        stack = open_stack_to_compare(replace(source, lowers=(*source.lowers, skeleton)))
        try:
            output = io.BytesIO()
            Stream(stack, output).trees([b""])
            assert names(listed(output.getvalue())) == [".", "etc", "etc/f", "etc/new"]
        finally:
            stack.close()
    finally:
        union.close()


def test_members_are_the_objects_alone(union: Union, tmp_path: Path) -> None:
    changed(union)
    members = listed(written(union, "members", [b"moved", b"", b"big", b"h1", b"h2", b"sock", b"moved/link"]))
    assert names(members) == ["moved", ".", "big", "h1", "h2", "moved/link"]
    assert members[b"moved"].isdir()
    assert members[b"big"].size == 40_000
    assert members[b"h2"].linkname == "h1"
    assert members[b"moved/link"].linkname == "../a"


@pytest.mark.parametrize("kind", ["trees", "members"])
@pytest.mark.parametrize("path", [b"b", b"no/such", b"a/in", b"moved/b"])
def test_a_path_that_the_union_has_not_is_an_error(union: Union, kind: str, path: bytes) -> None:
    changed(union)
    with pytest.raises(FileNotFoundError) as caught:
        written(union, kind, [b"a", path])
    assert caught.value.filename == "/" + os.fsdecode(path)


def test_a_directory_is_read_once_for_all_paths_in_it(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = make_union({"d": {"e": {f"{number:02}": b"" for number in range(20)}}})
    read: list[bytes] = []
    real = LayerDir._load

    def load(directory: LayerDir) -> dict[bytes, Mark] | None:
        read.append(directory.path())
        return real(directory)

    monkeypatch.setattr(LayerDir, "_load", load)
    written(union, "members", [b"d/e/%02d" % number for number in range(20)])
    assert sorted(each for each in read if each) == [b"d", b"d/e"]


# -- what cannot be read, and what changes meanwhile ---------------------------------------------------


@pytest.mark.skipif(ROOT, reason="root can read everything")
@pytest.mark.parametrize("path", ["d", "d/a", "e"])
def test_what_cannot_be_read_is_an_error_with_its_path(make_union: MakeUnion, path: str) -> None:
    union = make_union(LOWER, form=FORMS["overlay"])
    union.write("d/a", b"changed")
    union.rename("e", "moved")
    union.fs.handles.close_file(union.open("b", os.O_RDWR))
    at = (union.lowers[0] if path == "e" else union.upper) / path
    mode = at.stat().st_mode
    at.chmod(0o000)
    try:
        with pytest.raises(PermissionError) as caught:
            written(union, "layer")
        assert caught.value.filename == "/" + {"e": "moved"}.get(path, path)
    finally:
        at.chmod(mode)


class Interfering(io.BytesIO):
    """An output that lets something happen before the first object is written."""

    def __init__(self, interfere: Callable[[], object]) -> None:
        super().__init__()
        self._interfere: Callable[[], object] | None = interfere

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        interfere, self._interfere = self._interfere, None
        if interfere is not None:
            interfere()
        return super().write(data)


def while_changing(union: Union, interfere: Callable[[], object]) -> dict[bytes, tarfile.TarInfo]:
    """Return the members of the tree of *union*, while *interfere* changes that."""
    output = Interfering(interfere)
    stack = open_stack_to_compare(source_of(union))
    try:
        Stream(stack, output).trees([b""])
    finally:
        stack.close()
    return listed(output.getvalue())


def test_an_object_that_disappears_meanwhile_is_left_out(make_union: MakeUnion) -> None:
    union = make_union({}, form=FORMS["overlay"])
    for path in ("file", "first", "keep"):
        union.create(path, b"x")
    union.symlink("link", "x")
    union.link("first", "second")
    union.mkdir("dir")
    union.create("dir/in", b"")

    def remove() -> None:
        for path in ("file", "first", "link", "dir/in"):
            union.unlink(path)
        union.rmdir("dir")

    members = while_changing(union, remove)
    assert names(members) == [".", "keep", "second"]
    assert members[b"second"].isreg()


def test_a_directory_that_a_file_replaces_meanwhile_is_left_out(make_union: MakeUnion) -> None:
    union = make_union({}, form=FORMS["overlay"])
    union.mkdir("dir")
    union.create("dir/in", b"")
    stack = open_stack_to_compare(source_of(union))
    try:
        assert stack.union.names(stack.union.root.parts) == [b"dir"]
        union.unlink("dir/in")
        union.rmdir("dir")
        union.create("dir", b"")
        assert stack.union.find(stack.union.root.parts, b"dir") is None
        assert b"dir/in" not in {row.path for row in Comparison(stack, contents=False).rows()}
    finally:
        stack.close()


def test_a_file_that_is_replaced_meanwhile_is_one_of_both(make_union: MakeUnion) -> None:
    union = make_union({}, form=FORMS["overlay"])
    union.create("file", b"old", 0o4700 if ROOT else 0o700)
    union.create("temporary", b"the new contents", 0o644)
    union.utime("temporary", 5 * 10**9)
    members = while_changing(union, lambda: union.rename("temporary", "file"))
    info = members[b"file"]
    assert (info.mode, info.size, info.mtime) == (0o644, len(b"the new contents"), 5)


def test_a_file_that_becomes_shorter_meanwhile_ends_in_zeros(make_union: MakeUnion) -> None:
    union = make_union({"file": b"x" * 5000}, form=FORMS["overlay"])
    union.write("file", b"y")
    stack = open_stack_to_compare(source_of(union))
    output = io.BytesIO()
    stream = Stream(stack, output)
    real = stream._write_range

    def after_truncation(path: bytes, fd: int, start: int, length: int) -> int:
        union.truncate("file", 3)
        return real(path, fd, start, length)

    stream._write_range = after_truncation  # type: ignore[method-assign]
    try:
        stream.members([b"file"])
    finally:
        stack.close()
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as archive:
        data = archive.extractfile("file")
        assert data is not None
        assert data.read() == b"yxx".ljust(5000, b"\0")
