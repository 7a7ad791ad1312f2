"""Marks in lower layers: a layer that unionfs wrote shows the same tree as a lower layer; forged marks have no effect."""

from __future__ import annotations

import os

import pytest

from tests.mount.support import Union, make_union
from tests.support.tree import Dir, Entry, File, Tree, snapshot

pytestmark = pytest.mark.fusermount

FORMATS = pytest.mark.parametrize("form", ["overlay", "aufs"])
BIG = b"contents" * 10_000
LOWER: Tree = {
    "d": {"sub": {"x": b"x"}, "y": b"y"},
    "e": {"z": b"z"},
    "big": File(BIG, mode=0o644),
    "gone": b"",
}


def look(union: Union) -> dict[bytes, Entry]:
    """Return the tree without its root, which is new in each layer."""
    return {path: entry for path, entry in snapshot(union.path, mtime=True).items() if path != b"."}


def change(path: str) -> None:
    """Make changes that write every kind of mark."""
    os.rename(f"{path}/d", f"{path}/moved")
    os.rename(f"{path}/moved/sub", f"{path}/e/sub")
    os.rename(f"{path}/e", f"{path}/d")
    os.chmod(f"{path}/big", 0o600)
    os.rename(f"{path}/big", f"{path}/d/big")
    os.unlink(f"{path}/gone")


@FORMATS
def test_a_layer_that_was_written_shows_the_same_tree_as_a_lower_one(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        change(union.path)
        expected = look(union)
        with open(f"{union.path}/d/big", "rb") as file:
            assert file.read() == BIG
    assert (
        os.stat(f"{union.upper}/d/big").st_blocks <= 8
    )  # a metadata copy, whose contents are in the layer below
    os.rename(union.upper, f"{base}/middle")
    next_one = f"{base}/next"
    os.mkdir(next_one)
    with Union(next_one, [f"{base}/middle", f"{base}/lower0"], options=f"whiteouts={form}") as union:
        assert look(union) == expected
        change_again = {"d": "third", "moved": "d"}
        for old, new in change_again.items():
            os.rename(f"{union.path}/{old}", f"{union.path}/{new}")
        moved = look(union)
        assert moved[b"third/sub/x"].data == b"x"
        union.remount()
        assert look(union) == moved
    os.mkdir(f"{base}/last")
    layers = [union.upper, f"{base}/middle", f"{base}/lower0"]
    with Union(f"{base}/last", layers, writable=False) as union:
        assert look(union) == moved


def test_nofollow_shows_renamed_directories_as_new_ones(base: str) -> None:
    with make_union(base, LOWER) as union:
        os.rename(f"{union.path}/d", f"{union.path}/moved")
    with Union(
        f"{base}", [union.upper, f"{base}/lower0"], writable=False, options="redirect_dir=nofollow"
    ) as union:
        assert os.listdir(f"{union.path}/moved") == []


@pytest.mark.parametrize("place", ["lower", "upper"])
def test_an_attribute_that_every_user_could_set_redirects_nowhere(base: str, place: str) -> None:
    forged: Tree = {
        "public": Dir({}, xattrs={"user.overlay.redirect": b"/secret"}),
        "readable": File(
            b"",
            size=6,
            mode=0o644,
            xattrs={"user.overlay.metacopy": b"", "user.overlay.redirect": b"/hidden"},
        ),
        "root": File(b"", mode=0o600, xattrs={"user.containers.override_stat": b"0:0:4755:file"}),
    }
    lower: Tree = {"secret": {"key": b"key"}, "hidden": File(b"hidden", mode=0o600)}
    union = make_union(
        base, *([forged, lower] if place == "lower" else [lower]), upper=forged if place == "upper" else None
    )
    with union:
        assert os.listdir(f"{union.path}/public") == []
        with open(f"{union.path}/readable", "rb") as file:
            assert file.read() == bytes(6)
        assert os.stat(f"{union.path}/root").st_mode & 0o7777 == 0o600
