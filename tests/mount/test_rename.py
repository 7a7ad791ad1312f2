"""rename(2) and renameat2(2) over layers."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from tests.mount.support import inode_numbers, make_union, now_and_remounted
from tests.support.tree import Tree, Whiteout, make_tree, snapshot
from unionfs import _libc

pytestmark = pytest.mark.fusermount

_AT_FDCWD = -100
FORMATS = pytest.mark.parametrize("form", ["overlay", "aufs"])
LOWER: Tree = {"a": b"a", "b": b"b", "d": {"x": b"x", "sub": {"y": b"y"}}, "e": {"z": b"z"}}


def rename2(old: str, new: str, flags: int) -> None:
    _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags)


def contents(root: str) -> dict[bytes, bytes | None]:
    """Return the contents of each file below *root*, and None for directories."""
    return {path: entry.data for path, entry in snapshot(root, xattrs=False).items() if path != b"."}


@FORMATS
def test_a_lower_file_is_renamed_and_its_old_name_stays_deleted(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        os.rename(f"{union.path}/a", f"{union.path}/d/moved")
        for _ in now_and_remounted(union):
            found = contents(union.path)
            assert b"a" not in found
            assert found[b"d/moved"] == b"a"


@FORMATS
def test_a_lower_file_replaces_another(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        replaced = os.open(f"{union.path}/b", os.O_RDONLY)
        os.rename(f"{union.path}/a", f"{union.path}/b")
        assert os.read(replaced, 9) == b"b"
        assert os.fstat(replaced).st_nlink == 0
        os.close(replaced)
        for _ in now_and_remounted(union):
            found = contents(union.path)
            assert b"a" not in found
            assert found[b"b"] == b"a"


@FORMATS
def test_noreplace_refuses_a_name_that_any_layer_has(base: str, form: str) -> None:
    with make_union(base, {"a": Whiteout()}, LOWER, options=f"whiteouts={form}") as union:
        make_tree(union.path, {"new": b"new"})
        for taken in ("b", "d", "new"):
            with pytest.raises(FileExistsError):
                rename2(f"{union.path}/e/z", f"{union.path}/{taken}", _libc.RENAME_NOREPLACE)
        rename2(
            f"{union.path}/new", f"{union.path}/a", _libc.RENAME_NOREPLACE
        )  # deleted by a layer, so the name is free
        union.remount()
        assert contents(union.path)[b"a"] == b"new"


@FORMATS
def test_exchange_swaps_two_lower_files(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        numbers = inode_numbers(union.path)
        rename2(f"{union.path}/a", f"{union.path}/d/x", _libc.RENAME_EXCHANGE)
        for _ in now_and_remounted(union):
            found = contents(union.path)
            assert (found[b"a"], found[b"d/x"]) == (b"x", b"a")
            after = inode_numbers(union.path)
            assert (after[b"a"], after[b"d/x"]) == (numbers[b"d/x"], numbers[b"a"])


@FORMATS
def test_exchange_swaps_a_file_and_a_new_directory(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        make_tree(union.path, {"new": {"inner": b"inner"}})
        rename2(f"{union.path}/new", f"{union.path}/a", _libc.RENAME_EXCHANGE)
        for _ in now_and_remounted(union):
            found = contents(union.path)
            assert (found[b"new"], found[b"a/inner"]) == (b"a", b"inner")


def test_exchange_with_a_missing_name_is_enoent(base: str) -> None:
    with make_union(base, LOWER) as union:
        with pytest.raises(FileNotFoundError):
            rename2(f"{union.path}/a", f"{union.path}/nowhere", _libc.RENAME_EXCHANGE)
        assert os.listdir(union.upper) == []


@FORMATS
def test_a_new_directory_hides_the_deleted_one_whose_name_it_takes(base: str, form: str) -> None:
    with make_union(base, LOWER, options=f"whiteouts={form}") as union:
        make_tree(union.path, {"new": {"only": b"only"}})
        subprocess.run(["rm", "-r", f"{union.path}/d"], check=True)
        os.rename(f"{union.path}/new", f"{union.path}/d")
        for _ in now_and_remounted(union):
            assert os.listdir(f"{union.path}/d") == ["only"]


@FORMATS
def test_a_directory_replaces_an_empty_lower_one_only(base: str, form: str) -> None:
    with make_union(base, {**LOWER, "empty": {}}, options=f"whiteouts={form}") as union:
        make_tree(union.path, {"new": {"inner": b"inner"}})
        with pytest.raises(OSError) as caught:
            os.rename(f"{union.path}/new", f"{union.path}/e")
        assert caught.value.errno == errno.ENOTEMPTY
        os.rename(f"{union.path}/new", f"{union.path}/empty")
        union.remount()
        assert os.listdir(f"{union.path}/empty") == ["inner"]
        assert not os.path.exists(f"{union.path}/new")


def test_without_redirects_a_directory_of_a_lower_layer_is_exdev_and_unchanged(base: str) -> None:
    with make_union(base, LOWER, upper={"e": {"own": b"own"}}, options="redirect_dir=off") as union:
        before = contents(union.path)
        for name in ("d", "e"):  # one lower directory and one merged directory
            with pytest.raises(OSError) as caught:
                os.rename(f"{union.path}/{name}", f"{union.path}/moved")
            assert caught.value.errno == errno.EXDEV
        assert contents(union.path) == before


@FORMATS
def test_without_redirects_mv_moves_a_directory_of_a_lower_layer_by_copying(base: str, form: str) -> None:
    options = f"whiteouts={form},redirect_dir=off"
    with make_union(base, LOWER, upper={"d": {"own": b"own"}}, options=options) as union:
        subprocess.run(["mv", f"{union.path}/d", f"{union.path}/moved"], check=True)
        for _ in now_and_remounted(union):
            found = contents(union.path)
            assert not any(path == b"d" or path.startswith(b"d/") for path in found)
            moved = {path: data for path, data in found.items() if path.startswith(b"moved/")}
            assert moved == {
                b"moved/x": b"x",
                b"moved/sub": None,
                b"moved/sub/y": b"y",
                b"moved/own": b"own",
            }


def test_a_directory_cannot_be_moved_into_itself(base: str) -> None:
    with make_union(base, LOWER) as union:
        os.makedirs(f"{union.path}/new/inner")
        with pytest.raises(OSError) as caught:
            os.rename(f"{union.path}/new", f"{union.path}/new/inner/new")
        assert caught.value.errno == errno.EINVAL


def test_an_open_directory_follows_its_rename(base: str) -> None:
    with make_union(base, LOWER) as union:
        make_tree(union.path, {"new": {"inner": b"inner"}})
        fd = os.open(f"{union.path}/new", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rename(f"{union.path}/new", f"{union.path}/d/renamed")
            os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        finally:
            os.close(fd)
        assert sorted(os.listdir(f"{union.path}/d/renamed")) == ["inner", "made"]
