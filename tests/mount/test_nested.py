"""A union as a lower layer and as the writable layer of another, and as a layer of kernel OverlayFS."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.mount.support import Union, make_union, now_and_remounted
from tests.support.tree import Dir, Entry, File, HardLink, Symlink, Tree, Whiteout, make_tree, snapshot

pytestmark = pytest.mark.fusermount

LOWER: Tree = {
    "d": {"a": b"a", "sub": {"b": b"b"}},
    "gone": b"gone",
    "big": File(b"x" * 50_000, mode=0o755),
    "h1": b"h",
    "h2": HardLink("h1"),
    "l": Symlink(b"d/a"),
    "marked": Dir({"x": b"x"}, xattrs={"user.mine": b"1"}),
}
LINKS = (b"h1", b"h2")


def change(path: str) -> None:
    os.unlink(f"{path}/gone")
    os.rename(f"{path}/d", f"{path}/moved")
    os.chmod(f"{path}/big", 0o700)
    os.unlink(f"{path}/marked/x")
    os.rmdir(f"{path}/marked")
    os.mkdir(f"{path}/marked")
    with open(f"{path}/h1", "ab") as file:
        file.write(b"more")
    make_tree(path, {"gone": {"now": b"a directory"}, "moved/new": b"new"})


def test_a_union_is_a_lower_layer_of_another(base: str) -> None:
    os.mkdir(f"{base}/outer")
    with make_union(base, LOWER) as inner:
        change(inner.path)
        expected = snapshot(inner.path, nlink=True)
        with Union(f"{base}/outer", [inner.path]) as outer:
            assert snapshot(outer.path, nlink=True) == expected
            os.rename(f"{outer.path}/moved", f"{outer.path}/d")
            os.unlink(f"{outer.path}/big")
            os.stat(f"{outer.path}/h1")
            with open(f"{outer.path}/h2", "ab") as file:
                file.write(b" and more")
            assert snapshot(outer.path)[b"h1"].data == b"hmore and more"
            for _ in now_and_remounted(outer):
                # The outer union drops its link index. If the kernel forgot h1 before the copy-up, h1 shows the lower file again.
                seen = without_links(snapshot(outer.path), b"h1")
                assert seen[b"h2"].data == b"hmore and more"
                assert b"d/new" in seen
                assert b"moved" not in seen
                assert b"big" not in seen
        assert snapshot(inner.path, nlink=True) == expected


@pytest.mark.root  # fusermount3 does not mount inside another FUSE mount
def test_the_writable_layer_of_a_union_may_lie_in_another(base: str) -> None:
    """Marks of the outer union are ordinary files and attributes of the inner one, not marks."""
    with make_union(base, {"outer": {}}) as inner:
        make_tree(f"{inner.path}/bottom", LOWER)
        with Union(f"{inner.path}/outer", [f"{inner.path}/bottom"]) as outer:
            change(outer.path)
            expected = snapshot(outer.path, nlink=True)
            assert expected[b"gone/now"].data == b"a directory"
            assert b"d" not in expected
            outer.remount()
            assert without_links(snapshot(outer.path, nlink=True), *LINKS) == without_links(expected, *LINKS)
        inner.remount()
        with Union(f"{inner.path}/outer", [f"{inner.path}/bottom"]) as outer:
            assert without_links(snapshot(outer.path, nlink=True), *LINKS) == without_links(expected, *LINKS)


def without_links(tree: dict[bytes, Entry], *names: bytes) -> dict[bytes, Entry]:
    """Omit *names* of a copied hard link.

    The inner union has no file system id. So the next mount does not recognize a layer in it, and drops the link index.
    """
    return {path: entry for path, entry in tree.items() if path not in names}


@pytest.mark.root
@pytest.mark.overlay
def test_kernel_overlayfs_takes_a_union_as_a_lower_layer(base: str) -> None:
    with make_union(base, {"w": Whiteout()}, {**LOWER, "w": b"w"}) as union:
        change(union.path)
        expected = snapshot(union.path)
        for name in ("u", "w", "m"):
            os.mkdir(f"{base}/{name}")
        options = f"lowerdir={union.path},upperdir={base}/u,workdir={base}/w"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", f"{base}/m"], check=True)
        try:
            assert snapshot(f"{base}/m") == expected
            with open(f"{base}/m/big", "ab") as file:
                file.write(b"y")
            assert os.stat(f"{union.path}/big").st_size == 50_000
        finally:
            subprocess.run(["umount", f"{base}/m"], check=True)
