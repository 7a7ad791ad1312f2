"""Unpacking whiteouts: they become empty files, whatever stands beside them, and invalid ones are refused."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.unit.sandbox.images.tars import (
    CHARACTER,
    FIFO,
    directory,
    extract,
    file,
    hard_link,
    header,
    symlink,
    tar,
)
from tests.unit.sandbox.images.unpacking import paths, refused


def test_whiteouts_become_empty_files_of_the_same_name(root: Path) -> None:
    extract(tar(file(b"d/.wh.gone"), file(b"d/.wh..wh..opq"), file(b".wh.\xff")), root)
    assert sorted(os.listdir(root / "d")) == [".wh..wh..opq", ".wh.gone"]
    assert b".wh.\xff" in os.listdir(os.fsencode(root))


SIBLINGS = [directory(b"d"), file(b"d/own", b"x"), file(b".wh.d"), file(b"d/.wh..wh..opq")]


@pytest.mark.parametrize("parts", list(itertools.permutations(SIBLINGS)), ids=lambda parts: "")
def test_a_whiteout_removes_nothing_of_its_own_layer_wherever_it_stands(
    root: Path, parts: tuple[bytes, ...]
) -> None:
    extract(tar(*parts), root)
    assert paths(root) == {".wh.d": "file", "d": "dir", "d/own": "file", "d/.wh..wh..opq": "file"}


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh.", b"d/.wh..", b"d/.wh..."])
@pytest.mark.parametrize("make", [file, directory, lambda name: hard_link(name, b"f")])
def test_a_whiteout_of_what_is_no_name_is_refused(root: Path, name: bytes, make) -> None:
    message = refused(root, file(b"f"), make(name))
    assert message.startswith(f"a.tar: {name.decode()}: a whiteout ")


def test_names_of_four_dots_can_be_deleted(root: Path) -> None:
    extract(tar(file(b".wh...."), file(b".wh..x"), file(b".wh...x")), root)
    assert sorted(os.listdir(root)) == [".wh....", ".wh...x", ".wh..x"]


def test_records_of_aufs_are_whiteouts_of_names_that_no_layer_has(root: Path) -> None:
    extract(tar(file(b".wh..wh.aufs"), file(b".wh..wh.")), root)
    assert paths(root) == {".wh..wh.aufs": "file", ".wh..wh.": "file"}


@pytest.mark.parametrize(
    "part",
    [
        file(b"d/.wh.x", b"content"),
        directory(b"d/.wh.x"),
        symlink(b"d/.wh.x", b"t"),
        header(b"d/.wh.x", flag=FIFO),
        header(b"d/.wh.x", flag=CHARACTER),
        directory(b"d/.wh..wh..opq"),
        directory(b"d/.wh..wh.plnk"),
    ],
    ids=["content", "directory", "symlink", "fifo", "device", "opaque", "aufs"],
)
def test_a_whiteout_that_is_no_empty_file_is_refused(root: Path, part: bytes) -> None:
    assert refused(root, part).endswith(": a whiteout must be an empty file")


@pytest.mark.parametrize("before", [(), (file(b"d/.wh.x"),), (symlink(b"d", b".wh.e"),)])
def test_nothing_can_be_below_a_whiteout(root: Path, before: tuple[bytes, ...]) -> None:
    message = refused(root, *before, file(b"d/.wh.x/f"))
    assert message.startswith("a.tar: d/.wh.x/f: it is below ")
    assert message.endswith(", a whiteout, which is no directory")


def test_a_hard_link_that_is_a_whiteout_is_an_empty_file_of_its_own(root: Path) -> None:
    # As Docker packed the layers of AUFS.
    extract(tar(file(b".wh.a"), hard_link(b".wh.b", b".wh.a"), hard_link(b".wh.c", b".wh..wh.aufs")), root)
    assert paths(root) == {".wh.a": "file", ".wh.b": "file", ".wh.c": "file"}
    assert os.stat(root / ".wh.b").st_size == 0


@pytest.mark.parametrize("target", [b".wh.a", b"d/.wh..wh..opq", b".wh.a/f"])
def test_a_hard_link_to_a_whiteout_is_refused(root: Path, target: bytes) -> None:
    message = refused(root, file(b".wh.a"), file(b"d/.wh..wh..opq"), hard_link(b"h", target))
    assert message == f"a.tar: h: a hard link to {target.decode()}, which is not an earlier member"
