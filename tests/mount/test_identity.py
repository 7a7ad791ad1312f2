"""Hard links and inode numbers stay the same over copy-up and remounts."""

from __future__ import annotations

import os
import stat

import pytest

from tests.mount.support import Union, inode_numbers, make_union, now_and_remounted
from tests.support.tree import Fifo, HardLink, Symlink, Tree, make_tree

pytestmark = pytest.mark.fusermount

LINKED: Tree = {"one": b"linked", "two": HardLink("one"), "d": {"three": HardLink("one")}, "other": b"x"}
NAMES = ("one", "two", "d/three")


def same(union: Union, *names: str) -> os.stat_result:
    """Return the attributes of *names*, which must be one object."""
    found = [os.lstat(f"{union.path}/{name}") for name in names]
    assert len({(info.st_dev, info.st_ino) for info in found}) == 1
    assert {info.st_nlink for info in found} == {len(names)}
    return found[0]


def read(union: Union, name: str) -> bytes:
    with open(f"{union.path}/{name}", "rb") as file:
        return file.read()


# -- hard links ----------------------------------------------------------------------------------------


def test_hard_links_of_a_layer_stay_one_file_over_copy_up_and_remount(base: str) -> None:
    with make_union(base, LINKED) as union:
        before = same(union, *NAMES)
        with open(f"{union.path}/two", "wb") as file:
            file.write(b"changed through one name")
        for _ in now_and_remounted(union):
            assert same(union, *NAMES).st_ino == before.st_ino
            assert {read(union, name) for name in NAMES} == {b"changed through one name"}
        with open(f"{union.path}/d/three", "wb") as file:  # a name without a link in the upper layer so far
            file.write(b"changed through another")
        assert {read(union, name) for name in NAMES} == {b"changed through another"}


def test_deleting_names_of_a_linked_lower_file_reduces_the_link_count_to_zero(base: str) -> None:
    with make_union(base, LINKED) as union:
        fd = os.open(f"{union.path}/one", os.O_RDONLY)
        left = list(NAMES)
        for _ in NAMES:
            os.unlink(f"{union.path}/{left.pop()}")
            assert os.fstat(fd).st_nlink == len(left)
            if left:
                same(union, *left)
        os.close(fd)


def test_the_link_count_after_deletions_is_the_same_after_a_remount(base: str) -> None:
    with make_union(base, LINKED) as union:
        os.unlink(f"{union.path}/one")
        same(union, "two", "d/three")
        union.remount()
        same(union, "two", "d/three")
        os.chmod(f"{union.path}/two", 0o600)  # copies up
        same(union, "two", "d/three")
        union.remount()
        same(union, "two", "d/three")
        os.unlink(f"{union.path}/two")
        union.remount()
        same(union, "d/three")


def test_a_new_link_to_a_lower_file_is_the_same_file(base: str) -> None:
    with make_union(base, {"f": b"lower", "d": {}}) as union:
        number = os.lstat(f"{union.path}/f").st_ino
        os.link(f"{union.path}/f", f"{union.path}/d/link")
        for _ in now_and_remounted(union):
            assert same(union, "f", "d/link").st_ino == number
        with open(f"{union.path}/d/link", "ab") as file:
            file.write(b" and more")
        assert read(union, "f") == b"lower and more"


def test_a_link_to_a_symbolic_link_and_to_a_fifo_survive_a_remount(base: str) -> None:
    with make_union(base, {"s": Symlink(b"target"), "p": Fifo()}) as union:
        os.link(f"{union.path}/s", f"{union.path}/s2", follow_symlinks=False)
        os.link(f"{union.path}/p", f"{union.path}/p2")
        for _ in now_and_remounted(union):
            assert stat.S_ISLNK(same(union, "s", "s2").st_mode)
            assert stat.S_ISFIFO(same(union, "p", "p2").st_mode)


def test_a_renamed_link_stays_linked(base: str) -> None:
    with make_union(base, LINKED) as union:
        os.rename(f"{union.path}/two", f"{union.path}/d/moved")
        same(union, "one", "d/three", "d/moved")
        os.rename(f"{union.path}/one", f"{union.path}/other")  # replaces another file
        union.remount()
        same(union, "other", "d/three", "d/moved")
        assert read(union, "other") == b"linked"


# -- inode numbers -------------------------------------------------------------------------------------

EVERY_TYPE: Tree = {
    "f": b"f",
    "link": HardLink("f"),
    "s": Symlink(b"f"),
    "p": Fifo(),
    "d": {"g": b"g", "sub": {"h": b"h"}},
    "both": {"lower": b"x"},
}


def test_inode_numbers_do_not_change_on_copy_up_nor_on_remount(base: str) -> None:
    # inode_numbers also asserts that readdir(3) and stat(2) agree.
    with make_union(base, {"both": {"top": b"t"}}, EVERY_TYPE, upper={"both": {"own": b"o"}}) as union:
        before = inode_numbers(union.path)
        assert len(set(before.values())) == len(before) - 1  # two names are one file
        for path in before:
            name = os.path.join(os.fsencode(union.path), path)
            os.utime(name, ns=(0, 0), follow_symlinks=False)
        assert inode_numbers(union.path) == before
        for _ in now_and_remounted(union):
            assert inode_numbers(union.path) == before


def test_inode_numbers_of_new_objects_do_not_change_on_remount_or_rename(base: str) -> None:
    with make_union(base, {"d": {}}) as union:
        make_tree(f"{union.path}/d", {"new": b"n", "dir": {"inner": b"i"}, "s": Symlink(b"x")})
        before = inode_numbers(union.path)
        union.remount()
        assert inode_numbers(union.path) == before
        os.rename(f"{union.path}/d/dir", f"{union.path}/moved")
        assert os.lstat(f"{union.path}/moved").st_ino == before[b"d/dir"]
        assert os.lstat(f"{union.path}/moved/inner").st_ino == before[b"d/dir/inner"]


def test_every_object_has_the_device_of_the_mount(base: str) -> None:
    with make_union(base, EVERY_TYPE, upper={"own": b"x"}) as union:
        device = os.lstat(union.path).st_dev
        for path in inode_numbers(union.path):
            assert os.lstat(os.path.join(os.fsencode(union.path), path)).st_dev == device


def test_a_file_that_is_made_while_a_deleted_one_is_open_has_another_number(base: str) -> None:
    with make_union(base, {"d": {}}) as union:
        for _ in range(20):  # file systems reuse inode numbers immediately
            fd = os.open(f"{union.path}/d/f", os.O_CREAT | os.O_RDWR)
            os.unlink(f"{union.path}/d/f")
            other = os.open(f"{union.path}/d/f", os.O_CREAT | os.O_RDWR)
            assert os.fstat(fd).st_ino != os.fstat(other).st_ino
            os.write(fd, b"deleted")
            assert os.fstat(other).st_size == 0
            os.close(fd)
            os.close(other)
            os.unlink(f"{union.path}/d/f")


def test_the_same_directory_twice_in_the_stack_shows_distinct_numbers(base: str) -> None:
    make_tree(f"{base}/l", {"d": {"f": b"f"}, "g": b"g"})
    with Union(base, [f"{base}/l", f"{base}/l"]) as union:
        numbers = inode_numbers(union.path)
        assert len(set(numbers.values())) == len(numbers)
