"""Metadata copies: their contents are those of the lower file until the first write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import File, HardLink, Tree
from unionfs.copyup.copyup import _WORTH_METACOPY
from unionfs.formats.whiteout import TRUSTED_MARKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

DATA = bytes(range(256)) * (_WORTH_METACOPY // 256 + 3)


def _write(union: Union, path: str) -> bytes:
    union.write(path, b"written", 5)
    return DATA[:5] + b"written" + DATA[12:]


def _append(union: Union, path: str) -> bytes:
    union.write(path, b"appended", len(DATA))
    return DATA + b"appended"


def _truncate(union: Union, path: str) -> bytes:
    union.truncate(path, 100)
    return DATA[:100]


def _extend(union: Union, path: str) -> bytes:
    union.truncate(path, len(DATA) + 10)
    return DATA + bytes(10)


def _empty(union: Union, path: str) -> bytes:
    union.truncate(path, 0)
    return b""


def _overwrite(union: Union, path: str) -> bytes:
    number = union.open(path, os.O_WRONLY | os.O_TRUNC)
    union.fs.files.write(number, 0, b"new")
    union.fs.handles.close_file(number)
    return b"new"


def _open_for_writing(union: Union, path: str) -> bytes:
    union.fs.handles.close_file(union.open(path, os.O_RDWR))
    return DATA


def _chmod(union: Union, path: str) -> bytes:
    union.chmod(path, 0o604)
    return DATA


CHANGES = [_write, _append, _truncate, _extend, _empty, _overwrite, _open_for_writing, _chmod]


def lower_file(union: Union, name: str) -> bytes:
    return (union.lowers[-1] / name).read_bytes()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", ["chmod", "rename", "link"])
def test_a_copy_of_metadata_takes_every_change_and_the_file_below_none(
    make_union: MakeUnion, before: str, change: Callable[[Union, str], bytes]
) -> None:
    union = make_union({"f": DATA})
    readers = [union.open("f")]
    union.chmod("f", 0o600)
    path = "f"
    if before == "rename":
        union.rename("f", "g")
        path = "g"
    elif before == "link":
        union.link("f", "g")
        path = "g"
    assert union.parts.copy_up.bytes_copied == 0
    readers.append(union.open(path))
    expected = change(union, path)
    assert [union.fs.files.read(number, 0, 1 << 20) for number in readers] == [expected, expected]
    assert union.stat(path).size == len(expected)
    for number in readers:
        union.fs.handles.close_file(number)
    union.reopen()
    assert union.read(path) == expected
    assert before != "link" or union.read("f") == expected
    assert lower_file(union, "f") == DATA


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_metadata_in_a_layer_below_is_copied_with_what_it_stands_for(
    make_union: MakeUnion, change: Callable[[Union, str], bytes]
) -> None:
    marks = {"user.overlay.metacopy": b"", "user.overlay.redirect": b"/f"}
    union = make_union(
        {"f": File(b"", size=len(DATA), xattrs=marks)}, {"f": File(DATA)}, policy=TRUSTED_MARKS
    )
    reader = union.open("f")
    expected = change(union, "f")
    for _ in range(2):
        assert union.read("f") == expected
        assert union.fs.files.read(reader, 0, 1 << 20) == expected
        union.write("f", b"again")
        expected = b"again" + expected[5:]
    union.fs.handles.close_file(reader)
    union.reopen()
    assert union.read("f") == expected
    assert lower_file(union, "f") == DATA


LINKED: Tree = {"a": File(DATA, mode=0o644), "b": HardLink("a"), "c": HardLink("a")}


@pytest.mark.parametrize("remounted", [False, True])
@pytest.mark.parametrize("gone", [[], ["a"], ["b"], ["a", "b"]])
@pytest.mark.parametrize("change", CHANGES)
def test_all_names_of_a_copy_of_metadata_have_its_contents(
    make_union: MakeUnion, change: Callable[[Union, str], bytes], gone: list[str], remounted: bool
) -> None:
    union = make_union(LINKED)
    union.chmod("a", 0o600)
    for name in gone:
        union.unlink(name)
    if remounted:
        union.reopen()
    reader = union.open("c")
    expected = change(union, "c")
    assert union.fs.files.read(reader, 0, 1 << 20) == expected
    union.fs.handles.close_file(reader)
    for _ in range(2):
        left = [name for name in LINKED if name not in gone]
        assert [union.read(str(name)) for name in left] == [expected] * len(left)
        assert union.stat("c").nlink == len(left)
        union.reopen()
    assert lower_file(union, "c") == DATA
