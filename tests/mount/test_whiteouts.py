"""Deleted names stay deleted, and are recorded on disk in either format."""

from __future__ import annotations

import errno
import os
import stat
import subprocess

import pytest

from tests.mount.support import Union, kernel_overlay, make_union, now_and_remounted
from tests.support.tree import (
    Dir,
    File,
    HardLink,
    Opaque,
    Symlink,
    Tree,
    Whiteout,
    make_tree,
    snapshot,
)

pytestmark = pytest.mark.fusermount

FORMATS = pytest.mark.parametrize("form", ["overlay", "aufs"])
LOWER: Tree = {"f": b"f", "g": b"g", "d": {"a": b"d/a", "sub": {"b": b"d/sub/b"}}}


def is_whiteout(path: str) -> bool:
    """Return whether *path* is a character device 0:0."""
    info = os.lstat(path)
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def remove_directory(path: str) -> None:
    subprocess.run(["rm", "-r", path], check=True)


# -- names in the mount -------------------------------------------------------------------------------------


@FORMATS
def test_a_deleted_file_stays_deleted_over_a_remount(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        os.unlink(f"{union.path}/f")
        os.unlink(f"{union.path}/d/a")
        for _ in now_and_remounted(union):
            assert set(snapshot(union.path)) == {b".", b"g", b"d", b"d/sub", b"d/sub/b"}
            with pytest.raises(FileNotFoundError):
                os.lstat(f"{union.path}/f")
    assert os.path.exists(f"{base}/lower0/f")


@FORMATS
def test_a_deleted_directory_stays_deleted_over_a_remount(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        remove_directory(f"{union.path}/d")
        for _ in now_and_remounted(union):
            assert sorted(os.listdir(union.path)) == ["f", "g"]


@FORMATS
def test_a_directory_made_in_the_place_of_a_deleted_one_is_empty(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        remove_directory(f"{union.path}/d")
        os.mkdir(f"{union.path}/d")
        os.mkdir(f"{union.path}/d/sub")
        for _ in now_and_remounted(union):
            assert os.listdir(f"{union.path}/d") == ["sub"]
            assert os.listdir(f"{union.path}/d/sub") == []
        # The lower directory must stay hidden after deleting and making it again, too.
        remove_directory(f"{union.path}/d")
        os.mkdir(f"{union.path}/d")
        union.remount()
        assert os.listdir(f"{union.path}/d") == []


@FORMATS
def test_a_name_can_change_between_file_and_directory(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        os.unlink(f"{union.path}/f")
        os.mkdir(f"{union.path}/f")
        remove_directory(f"{union.path}/d")
        make_tree(union.path, {"d": b"a file now"})
        for _ in now_and_remounted(union):
            tree = snapshot(union.path)
            assert set(tree) == {b".", b"f", b"g", b"d"}
            assert (tree[b"f"].type, tree[b"d"].data) == ("dir", b"a file now")


@FORMATS
def test_a_new_file_replaces_a_deleted_one_without_its_properties(base: str, form: str) -> None:
    lower = {"f": File(b"old", mode=0o700, xattrs={"user.color": b"blue"})}
    with make_union(base, lower, options=f"whiteouts={form}") as union:
        os.unlink(f"{union.path}/f")
        make_tree(union.path, {"f": b"new"})
        for _ in now_and_remounted(union):
            entry = snapshot(union.path)[b"f"]
            assert (entry.data, entry.mode, entry.xattrs) == (b"new", 0o644, {})


# -- names on disk -----------------------------------------------------------------------------------


@pytest.mark.whiteouts
def test_a_deleted_lower_name_is_a_device_0_0_in_the_upper_layer(base: str) -> None:
    with make_union(base, LOWER) as union:
        os.unlink(f"{union.path}/f")
        remove_directory(f"{union.path}/d")
        assert is_whiteout(f"{union.upper}/f")
        assert is_whiteout(f"{union.upper}/d")
        with open(f"{union.path}/g", "ab"):
            pass
        os.unlink(f"{union.path}/g")  # the name is in both layers now
        assert is_whiteout(f"{union.upper}/g")


@FORMATS
def test_a_name_that_no_lower_layer_has_leaves_nothing_behind(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        make_tree(union.path, {"new": b"x", "dir": {"inner": b"y"}})
        os.unlink(f"{union.path}/new")
        remove_directory(f"{union.path}/dir")
        assert os.listdir(union.upper) == []


@pytest.mark.whiteouts
def test_a_directory_over_a_whiteout_is_marked_opaque(base: str) -> None:
    with make_union(base, LOWER) as union:
        remove_directory(f"{union.path}/d")
        os.mkdir(f"{union.path}/d")
        prefix = "trusted" if os.geteuid() == 0 else "user"
        assert os.getxattr(f"{union.upper}/d", f"{prefix}.overlay.opaque") == b"y"
        assert os.listxattr(f"{union.path}/d") == []
        os.mkdir(f"{union.path}/fresh")  # hides nothing, so it needs no mark
        assert os.listxattr(f"{union.upper}/fresh") == []


def test_in_the_aufs_format_whiteouts_and_opaque_marks_are_files(base: str) -> None:
    with make_union(base, LOWER, options="whiteouts=aufs") as union:
        os.unlink(f"{union.path}/f")
        remove_directory(f"{union.path}/d")
        assert set(os.listdir(union.upper)) == {".wh.f", ".wh.d"}
        assert os.stat(f"{union.upper}/.wh.f").st_size == 0
        os.mkdir(f"{union.path}/d")
        assert set(os.listdir(union.upper)) == {".wh.f", "d"}
        assert os.listdir(f"{union.upper}/d") == [".wh..wh..opq"]
        make_tree(union.path, {"f": b"again"})
        assert set(os.listdir(union.upper)) == {"f", "d"}
        assert sorted(os.listdir(union.path)) == ["d", "f", "g"]


@FORMATS
def test_marks_in_lower_layers_are_applied_in_either_format(base: str, form: str) -> None:
    whiteout: Tree = {"f": Whiteout()} if form == "overlay" else {".wh.f": b""}
    opaque = Opaque({"c": b"c"}) if form == "overlay" else Dir({".wh..wh..opq": b"", "c": b"c"})
    with make_union(base, {**whiteout, "d": opaque}, LOWER) as union:
        assert set(snapshot(union.path)) == {b".", b"g", b"d", b"d/c"}
    with Union(base, [f"{base}/lower0", f"{base}/lower1"], writable=False) as union:
        assert set(snapshot(union.path)) == {b".", b"g", b"d", b"d/c"}


def test_an_upper_layer_with_marks_of_both_formats_is_read(base: str) -> None:
    upper: Tree = {"f": Whiteout(), ".wh.g": b"", "d": {".wh.a": b"", "sub": Opaque()}}
    with make_union(base, LOWER, upper=upper) as union:
        assert set(snapshot(union.path)) == {b".", b"d", b"d/sub"}


# -- marks that a program cannot make -----------------------------------------------------------------------


def test_a_whiteout_cannot_be_made_through_the_mount(base: str) -> None:
    with make_union(base, LOWER) as union:
        with pytest.raises(PermissionError):
            os.mknod(f"{union.path}/dev", stat.S_IFCHR | 0o600, os.makedev(0, 0))
        assert os.listdir(union.upper) == []


def test_wh_names_are_ordinary_in_the_overlay_format_and_refused_in_the_aufs_format(base: str) -> None:
    with make_union(base, LOWER, options="whiteouts=overlay") as union:
        make_tree(union.path, {".wh.f": b"an ordinary file"})
        union.remount()
        assert sorted(os.listdir(union.path)) == [".wh.f", "d", "f", "g"]
    os.mkdir(f"{base}/other")
    union = Union(f"{base}/other", [f"{base}/lower0"], options="whiteouts=aufs")
    with union:
        for attempt in (os.mkdir, os.mkfifo):
            with pytest.raises(PermissionError):
                attempt(f"{union.path}/.wh.f")
        with pytest.raises(PermissionError):
            os.rename(f"{union.path}/g", f"{union.path}/.wh.f")
        assert sorted(os.listdir(union.path)) == ["d", "f", "g"]


def test_a_name_too_long_for_a_wh_file_cannot_be_deleted_in_that_format(base: str) -> None:
    name = "n" * 252
    with make_union(base, {name: b"x", "m" * 251: b"y"}, options="whiteouts=aufs") as union:
        os.unlink(f"{union.path}/{'m' * 251}")
        with pytest.raises(OSError) as caught:
            os.unlink(f"{union.path}/{name}")
        assert caught.value.errno == errno.ENAMETOOLONG
        union.remount()
        assert os.listdir(union.path) == [name]


def test_marks_are_not_shown_and_attributes_named_like_them_are_no_marks(base: str) -> None:
    private = {
        "user.overlay.origin": b"1",
        "user.containers.override_stat": b"0:0:0644:file",
        "user.unionfs.x": b"2",
    }
    lower = {"f": File(b"x", xattrs={**private, "user.color": b"blue"}), "d": Dir({}, xattrs=private)}
    with make_union(base, lower) as union:
        assert os.listxattr(f"{union.path}/f") == ["user.color"]
        assert os.listxattr(f"{union.path}/d") == []
        for name in private:
            with pytest.raises(OSError) as caught:
                os.getxattr(f"{union.path}/f", name)
            assert caught.value.errno == errno.ENODATA
            os.setxattr(f"{union.path}/f", name, b"y")
            assert os.getxattr(f"{union.path}/f", name) == b"y"
        assert set(os.listxattr(f"{union.path}/f")) == {"user.color", *private}
    assert "user.containers.override_stat" not in os.listxattr(f"{union.upper}/f")


# -- the kernel's own OverlayFS ------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.overlay
def test_kernel_overlayfs_shows_the_same_tree_of_our_layers(base: str) -> None:
    lower = {**LOWER, "link": Symlink(b"f"), "moved": {"x": b"x"}, "kept": {"y": b"y"}}
    with make_union(base, lower) as union:
        os.unlink(f"{union.path}/f")
        remove_directory(f"{union.path}/d")
        make_tree(union.path, {"d": {"new": b"new"}, "f": {"now": b"a directory"}})
        os.rename(f"{union.path}/g", f"{union.path}/renamed")
        os.chmod(f"{union.path}/kept/y", 0o600)
        os.chown(f"{union.path}/kept", 7, 8)
        os.unlink(f"{union.path}/moved/x")
        expected = snapshot(union.path, mtime=True, xattrs=False)
    with kernel_overlay(union.path, f"ro,lowerdir={union.upper}:{base}/lower0") as seen:
        assert snapshot(seen, mtime=True, xattrs=False) == expected


@pytest.mark.root
@pytest.mark.overlay
def test_layers_of_kernel_overlayfs_show_the_same_tree(base: str) -> None:
    union = make_union(base, {**LOWER, "hard": b"h", "link": HardLink("hard")})
    options = f"lowerdir={base}/lower0,upperdir={union.upper},workdir={union.work}"
    with kernel_overlay(union.path, options) as path:
        os.unlink(f"{path}/f")
        remove_directory(f"{path}/d")
        make_tree(path, {"d": {"new": b"new"}})
        os.chmod(f"{path}/g", 0o600)
        expected = snapshot(path, mtime=True, xattrs=False)
    with union:
        assert snapshot(union.path, mtime=True, xattrs=False) == expected
