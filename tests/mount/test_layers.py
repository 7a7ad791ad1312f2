"""Layers: many of them, with mounts inside, and with objects that the server may not read."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.mount.support import SERVER, WITHOUT_OVERRIDE, Union, make_union
from tests.support.tree import Dir, File, Tree, make_tree, snapshot

pytestmark = pytest.mark.fusermount


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    """Mount with the arguments of mount(8), of which the last is the target; unmount at the end."""
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", arguments[-1]], check=True)


# -- number and order ----------------------------------------------------------------------------------


def test_a_hundred_layers_show_each_of_their_files_and_the_topmost_of_a_name(base: str) -> None:
    count = 100
    lowers: list[Tree] = [
        {f"only{number}": b"%d" % number, "all": b"%d" % number, "d": {f"in{number}": b""}}
        for number in range(count)
    ]
    with make_union(base, *lowers) as union:
        assert set(os.listdir(union.path)) == {"all", "d"} | {f"only{number}" for number in range(count)}
        assert set(os.listdir(f"{union.path}/d")) == {f"in{number}" for number in range(count)}
        tree = snapshot(union.path)
        assert tree[b"all"].data == b"0"
        assert all(tree[b"only%d" % number].data == b"%d" % number for number in range(count))
        os.unlink(f"{union.path}/all")
        os.unlink(f"{union.path}/d/in99")
        union.remount()
        assert "all" not in os.listdir(union.path)
        assert len(os.listdir(f"{union.path}/d")) == count - 1


def test_directories_merge_but_attributes_are_those_of_the_topmost(base: str) -> None:
    top = Dir({"a": b"top", "x": b"a file over a directory"}, mode=0o700, xattrs={"user.from": b"top"})
    bottom = Dir(
        {"a": b"bottom", "b": b"bottom", "x": {"hidden": b""}}, mode=0o755, xattrs={"user.from": b"bottom"}
    )
    with make_union(base, {"d": top}, {"d": bottom}) as union:
        tree = snapshot(union.path)
        assert set(tree) == {b".", b"d", b"d/a", b"d/b", b"d/x"}
        assert (tree[b"d"].mode, tree[b"d"].xattrs) == (0o700, {"user.from": b"top"})
        assert (tree[b"d/a"].data, tree[b"d/b"].data) == (b"top", b"bottom")


def test_a_file_between_directories_ends_the_merging(base: str) -> None:
    with make_union(base, {"d": {"top": b""}}, {"d": b"a file"}, {"d": {"bottom": b""}}) as union:
        assert os.listdir(f"{union.path}/d") == ["top"]


def test_a_symbolic_link_of_a_layer_does_not_lead_out_of_the_union(base: str) -> None:
    os.mkdir(f"{base}/lower")
    make_tree(f"{base}/outside", {"secret": b"secret"})
    os.symlink(f"{base}/outside", f"{base}/lower/link")
    make_tree(f"{base}/below", {"link": {"mine": b"mine"}})
    with Union(base, [f"{base}/lower", f"{base}/below"]) as union:
        # The link hides the directory in the layer below. The client resolves it; the server follows no links.
        assert os.readlink(f"{union.path}/link") == f"{base}/outside"
        os.unlink(f"{union.path}/link")
        os.mkdir(f"{union.path}/link")
        assert os.listdir(f"{union.path}/link") == []
    assert os.listdir(f"{base}/outside") == ["secret"]


def test_a_union_can_be_a_layer_of_another(base: str) -> None:
    os.mkdir(f"{base}/outer")
    with (
        make_union(base, {"d": {"f": b"f", "g": b"g"}}) as inner,
        Union(f"{base}/outer", [inner.path]) as outer,
    ):
        os.unlink(f"{outer.path}/d/f")
        with open(f"{outer.path}/d/g", "wb") as file:
            file.write(b"changed")
        assert os.listdir(f"{outer.path}/d") == ["g"]
        assert sorted(os.listdir(f"{inner.path}/d")) == ["f", "g"]
        assert os.listdir(inner.upper) == []


# -- mounts inside a layer -----------------------------------------------------------------------------


@pytest.mark.root
def test_mount_points_inside_a_layer_appear_empty(base: str) -> None:
    lower = {"mnt": {"covered": b"covered"}, "file": b"covered", "beside": b"beside"}
    make_tree(f"{base}/lower", lower)
    make_tree(f"{base}/other", {"secret": b"secret"})
    with ExitStack() as mounts:
        mounts.enter_context(mounted("-t", "tmpfs", "tmpfs", f"{base}/lower/mnt"))
        make_tree(f"{base}/lower/mnt", {"inside": {"deep": b"deep"}})
        mounts.enter_context(mounted("--bind", f"{base}/other/secret", f"{base}/lower/file"))
        union = mounts.enter_context(Union(base, [f"{base}/lower"]))
        assert sorted(os.listdir(union.path)) == ["beside", "file", "mnt"]
        assert os.listdir(f"{union.path}/mnt") == []
        with pytest.raises(FileNotFoundError):
            os.lstat(f"{union.path}/mnt/inside")
        make_tree(f"{union.path}/mnt", {"new": b"new"})
        union.remount()
        assert os.listdir(f"{union.path}/mnt") == ["new"]
        assert os.listdir(f"{base}/lower/mnt") == ["inside"]


@contextmanager
def _covered(base: str) -> Iterator[Union]:
    """Yield a union in whose lower layer a file of a tmpfs is mounted on ``file``."""
    make_tree(f"{base}/lower", {"file": b"covered"})
    os.mkdir(f"{base}/tmpfs")
    with ExitStack() as mounts:
        mounts.enter_context(mounted("-t", "tmpfs", "tmpfs", f"{base}/tmpfs"))
        make_tree(f"{base}/tmpfs", {"secret": File(b"secret", mode=0o640)})
        mounts.enter_context(mounted("--bind", f"{base}/tmpfs/secret", f"{base}/lower/file"))
        yield mounts.enter_context(Union(base, [f"{base}/lower"]))


@pytest.mark.root
def test_a_file_of_another_file_system_that_is_mounted_in_a_layer_appears_empty(base: str) -> None:
    with _covered(base) as union:
        info = os.lstat(f"{union.path}/file")
        assert stat.S_ISREG(info.st_mode)
        assert info.st_size == 0
        with open(f"{union.path}/file", "r+b") as file:
            assert file.read() == b""
            file.write(b"new")
        assert snapshot(union.upper)[b"file"].data == b"new"
        assert snapshot(f"{base}/tmpfs")[b"secret"].data == b"secret"


@pytest.mark.root
def test_chmod_of_a_file_that_appears_empty_sets_the_mode(base: str) -> None:
    with _covered(base) as union:
        os.chmod(f"{union.path}/file", 0o4755)
        assert stat.S_IMODE(os.lstat(f"{union.path}/file").st_mode) == 0o4755


@pytest.mark.root
def test_a_server_whose_own_mount_is_in_a_layer_does_not_wait_for_itself(
    base: str,
) -> None:
    make_tree(f"{base}/lower", {"f": b"f", "inner": {}})
    # Only a later mount can be there, because the command refuses such a stack.
    with Union(base, [f"{base}/lower"]) as union, mounted("--bind", union.path, f"{base}/lower/inner"):
        done = subprocess.run(["ls", f"{union.path}/inner"], capture_output=True, timeout=60, check=True)
        assert done.stdout == b""


# -- objects that the server may not read ----------------------------------------------------------------------


def test_a_directory_that_the_server_may_not_read_is_eacces(base: str) -> None:
    lower = {"shut": Dir({"f": b"f"}, mode=0o000), "beside": b"beside"}
    with make_union(base, lower, wrapper=WITHOUT_OVERRIDE) as union:
        assert sorted(os.listdir(union.path)) == ["beside", "shut"]
        for attempt in (os.listdir, lambda path: os.lstat(f"{path}/f"), lambda path: os.mkdir(f"{path}/new")):
            with pytest.raises(OSError) as caught:
                attempt(f"{union.path}/shut")
            assert caught.value.errno == errno.EACCES
        assert stat.S_IMODE(os.lstat(f"{union.path}/shut").st_mode) == 0


def test_an_unreadable_directory_hides_the_lower_ones(base: str) -> None:
    # The whiteouts of the unreadable directory are unknown, so the merged directory must not be listed.
    lowers: list[Tree] = [{"d": Dir({"own": b"x"}, mode=0o000)}, {"d": {"perhaps deleted": b"y"}}]
    with make_union(base, *lowers, wrapper=WITHOUT_OVERRIDE) as union:
        with pytest.raises(PermissionError):
            os.listdir(f"{union.path}/d")
        with pytest.raises(PermissionError):
            os.lstat(f"{union.path}/d/perhaps deleted")


def test_known_names_in_a_directory_that_may_only_be_searched_are_found(base: str) -> None:
    with make_union(base, {"d": Dir({"f": b"f"}, mode=0o111)}, wrapper=WITHOUT_OVERRIDE) as union:
        with open(f"{union.path}/d/f", "rb") as file:
            assert file.read() == b"f"
        with pytest.raises(FileNotFoundError):
            os.lstat(f"{union.path}/d/other")
        with pytest.raises(PermissionError):
            os.listdir(f"{union.path}/d")


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_a_file_that_the_server_may_not_read_is_eacces_and_not_copied(base: str) -> None:
    with make_union(base, {"f": File(b"secret", mode=0o000)}, wrapper=WITHOUT_OVERRIDE) as union:
        with pytest.raises(PermissionError):
            content(f"{union.path}/f")
        with pytest.raises(PermissionError):
            os.chmod(f"{union.path}/f", 0o600)
        assert os.listdir(union.upper) == []
        assert os.listdir(f"{union.work}/unionfs/tmp") == []


def test_a_change_of_a_lower_layer_affects_no_other_files(base: str) -> None:
    with make_union(base, {"d": {"f": b"f" * 5000, "g": b"g"}, "h": b"h"}) as union:
        os.listdir(f"{union.path}/d")
        reader = os.open(f"{union.path}/d/f", os.O_RDONLY)
        try:
            subprocess.run(["rm", "-r", f"{base}/lower0/d"], check=True)
            make_tree(f"{base}/lower0", {"d": b"a file now"})
            # The error depends on whether the directory is still open.
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                content(f"{union.path}/d/g")
            if SERVER == "unopened":  # this server opens a file at the first read
                with pytest.raises((FileNotFoundError, NotADirectoryError)):
                    os.pread(reader, 5, 0)
            else:
                assert os.pread(reader, 5, 0) == b"fffff"
        finally:
            os.close(reader)
        with open(f"{union.path}/h", "ab") as file:
            file.write(b" changed")
        assert snapshot(union.upper)[b"h"].data == b"h changed"
