"""Unpacking random sequences of members: never outside the destination, and as a model of the simple cases predicts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images import destination
from tests.support.tree import make_tree, snapshot
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

NAMES = [b"a", b"b", b"a/b", b"b/a", b"a/b/c", b"b/b/a", b"c", b"./a/", b"/b", b"a//c", b"."]
HOSTILE_NAMES = [
    *NAMES,
    b"..",
    b"../canary",
    b"a/../../canary",
    b"/../canary",
    b"canary",
    b"dir/inner",
    b"a/dir/inner",
]
TARGETS = [
    b"a",
    b"b",
    b"a/b",
    b"..",
    b"../..",
    b"../../outside",
    b"/",
    b".",
    b"/a",
    b"../b",
    b"canary",
    b"",
    b"{outside}",
    b"{outside}/canary",
]

hostile = st.tuples(
    st.sampled_from(["file", "dir", "symlink", "hard", "fifo", "device"]),
    st.sampled_from(HOSTILE_NAMES),
    st.sampled_from(TARGETS),
)


def parts(members: Iterable[tuple[str, bytes, bytes]]) -> list[bytes]:
    made = []
    for kind, name, target in members:
        match kind:
            case "file":
                made.append(file(name, b"data of " + name, mode=0o750))
            case "dir":
                made.append(directory(name, mode=0o710, mtime=5))
            case "symlink":
                made.append(symlink(name, target))
            case "hard":
                made.append(hard_link(name, target))
            case "fifo":
                made.append(header(name, flag=FIFO))
            case "device":
                made.append(header(name, flag=CHARACTER, device=(1, 3)))
    return made


@settings(max_examples=400, deadline=None)
@given(members=st.lists(hostile, min_size=1, max_size=12))
def test_nothing_is_ever_written_outside(members: list[tuple[str, bytes, bytes]]) -> None:
    place = tempfile.mkdtemp()
    try:
        outside = os.path.join(place, "outside")
        make_tree(outside, {"canary": b"safe", "dir": {"inner": b"safe"}})
        before = snapshot(outside, nlink=True, mtime=True)
        root = os.path.join(place, "around", "root")
        os.makedirs(root)
        there = os.fsencode(outside)
        descriptors = os.listdir("/proc/self/fd")
        with contextlib.suppress(ImageError):
            extract(
                tar(
                    *parts(
                        (kind, name, target.replace(b"{outside}", there)) for kind, name, target in members
                    )
                ),
                root,
            )
        assert os.listdir("/proc/self/fd") == descriptors
        assert snapshot(outside, nlink=True, mtime=True) == before
        assert sorted(os.listdir(place)) == ["around", "outside"]
        assert os.listdir(os.path.join(place, "around")) == ["root"]
        assert {entry.device for entry in snapshot(root).values()} == {None}
    finally:
        shutil.rmtree(place)


def expected(members: list[tuple[str, bytes]]) -> dict[bytes, str]:
    """Return the types by path that *members* without links result in."""
    tree: dict[bytes, str] = {}

    def drop(path: bytes) -> None:
        for other in [one for one in tree if one == path or one.startswith(path + b"/")]:
            del tree[other]

    for flag, name in members:
        kind = "dir" if flag == "file" and name.endswith(b"/") else flag
        components = [part for part in name.split(b"/") if part not in {b"", b"."}]
        for depth in range(1, len(components)):
            parent = b"/".join(components[:depth])
            if tree.get(parent) != "dir":
                drop(parent)
                tree[parent] = "dir"
        path = b"/".join(components)
        if path and not (kind == "dir" == tree.get(path)):
            drop(path)
            if kind != "device":
                tree[path] = kind
    return tree


@settings(max_examples=300, deadline=None)
@given(
    members=st.lists(
        st.tuples(st.sampled_from(["file", "dir", "fifo", "device"]), st.sampled_from(NAMES)), max_size=12
    )
)
def test_without_links_the_tree_is_what_the_last_members_say(members: list[tuple[str, bytes]]) -> None:
    usable = [(kind, name) for kind, name in members if name != b"." or kind == "dir"]
    with tempfile.TemporaryDirectory() as root:
        extract(tar(*parts((kind, name, b"") for kind, name in usable)), root)
        seen = {path: entry.type for path, entry in snapshot(root).items() if path != b"."}
        assert seen == expected(usable)


@pytest.mark.parametrize("cached", [True, False], ids=["kept-open", "found-again"])
@settings(max_examples=100, deadline=None)
@given(members=st.lists(hostile, min_size=1, max_size=12))
def test_it_makes_no_difference_which_directories_are_kept_open(
    cached: bool, members: list[tuple[str, bytes, bytes]]
) -> None:
    def outcome(limit: int) -> object:
        kept, destination._MAX_OPEN = destination._MAX_OPEN, limit
        try:
            with tempfile.TemporaryDirectory() as root:
                try:
                    extract(tar(*parts(members)), root)
                except ImageError as error:
                    return error.message
                return snapshot(root, nlink=True)
        finally:
            destination._MAX_OPEN = kept

    assert outcome(128) == outcome(2 if cached else -1)
