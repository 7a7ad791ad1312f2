"""The quota of the writable layer is never exceeded, and freed space is available again."""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.tree import File, HardLink
from tests.unit.unionfs.support import owner
from unionfs import _libc
from unionfs.layer.directory import Layer
from unionfs.layer.fd_cache import FdCache
from unionfs.upper.extents import unallocated
from unionfs.upper.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union
    from unionfs.layer.objects import DescriptorRef, PathRef

KIB = 1024
LOWER = {
    "big": File(b"x" * 40_000),
    "small": b"y",
    "d/f": b"z" * 10_000,
    "h1": b"h" * 9000,
    "h2": HardLink("h1"),
}


def taken(union: Union) -> tuple[int, int]:
    """Count the bytes and objects of the upper directory on disk."""
    size, objects = max(0, os.stat(union.upper).st_blocks * 512 - 4096), 0
    seen = set()
    for directory, names, files in os.walk(union.upper):
        for name in [*names, *files]:
            info = os.lstat(os.path.join(directory, name))
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                size += info.st_blocks * 512
                objects += 1
    return size, objects


def refused(action: Callable[[], object]) -> bool:
    """Return whether *action* fails with ENOSPC."""
    try:
        action()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return True
    return False


def test_writing_stops_at_the_bound_and_keeps_what_fitted(make_union: MakeUnion) -> None:
    union = make_union(size=100 * KIB)
    union.create("f")
    handle = union.open("f", os.O_RDWR)
    written = 0
    with pytest.raises(OSError) as caught:
        while True:
            written += union.fs.files.write(handle, written, b"x" * 10_000)
    assert caught.value.errno == errno.ENOSPC
    assert 90 * KIB <= written <= 100 * KIB
    assert union.stat("f").size == written
    assert taken(union)[0] <= 100 * KIB
    # Existing contents can be overwritten.
    assert union.fs.files.write(handle, 0, b"y" * 10_000) == 10_000
    union.fs.handles.close_file(handle)


def test_space_comes_back_with_what_is_deleted_and_forgotten(make_union: MakeUnion) -> None:
    union = make_union(size=64 * KIB)
    union.create("a", b"x" * 50_000)
    inode = union.file("a")
    inode.lookups = 1  # as the kernel, which has looked it up
    union.create("b")
    assert union.fs.files.write(union.open("b", os.O_WRONLY), 0, b"y" * 50_000) < 50_000
    union.unlink("a")
    free = union.fs.statfs().f_bfree
    union.fs.inode_table.forget(inode.ino, 1)
    assert union.fs.statfs().f_bfree > free
    union.write("b", b"y" * 50_000)


def test_a_hole_below_blocks_behind_the_end_is_no_way_round_the_bound(make_union: MakeUnion) -> None:
    union = make_union(size=100 * KIB)
    union.create("f")
    union.truncate("f", 60 * KIB)
    union.allocate("f", _libc.FALLOC_FL_KEEP_SIZE, 60 * KIB, 64 * KIB)
    handle = union.open("f", os.O_WRONLY)
    assert union.fs.files.write(handle, 0, b"x" * 60 * KIB) < 60 * KIB
    assert taken(union)[0] <= 100 * KIB
    with open(os.path.join(union.upper, "f"), "rb") as file:
        if list(unallocated(file.fileno(), 60 * KIB, 124 * KIB)):
            union.fs.handles.close_file(handle)
            pytest.skip("the file system does not report allocated blocks that hold nothing (FIEMAP)")
    # Existing blocks take no more space, wherever they are.
    assert union.fs.files.write(handle, 60 * KIB, b"x" * 64 * KIB) == 64 * KIB
    union.fs.handles.close_file(handle)


def test_a_range_is_copied_as_far_as_there_is_room(make_union: MakeUnion) -> None:
    union = make_union({"big": b"x" * 200_000}, size=100 * KIB)
    union.create("f")
    assert 90 * KIB <= union.copy_range("big", "f", 0, 0, 200_000) <= 100 * KIB
    assert refused(lambda: union.copy_range("big", "f", 0, 150_000, 1))
    assert taken(union)[0] <= 100 * KIB
    quota = union.parts.quota
    assert quota is not None
    assert quota.reserved == 0


def test_a_truncated_file_gives_its_space_back(make_union: MakeUnion) -> None:
    union = make_union(size=64 * KIB)
    union.create("a", b"x" * 60_000)
    union.create("b")
    union.truncate("a", 0)
    union.write("b", b"y" * 60_000)


def test_a_copy_up_that_does_not_fit_changes_nothing(make_union: MakeUnion) -> None:
    union = make_union(LOWER, size=32 * KIB)
    assert refused(lambda: union.write("big", b"new"))
    assert union.read("big") == b"x" * 40_000
    assert taken(union) == (0, 0)
    union.chmod("big", 0o600)  # does not copy contents
    assert union.stat("big").mode & 0o777 == 0o600
    assert refused(lambda: union.write("big", b"new"))
    assert union.read("big") == b"x" * 40_000
    assert union.leftovers() == []


def test_objects_are_counted_too_and_marks_are_never_refused(make_union: MakeUnion) -> None:
    union = make_union(LOWER, inodes=3)
    for name in "abc":
        union.create(name)
    for action in (
        lambda: union.create("e"),
        lambda: union.mkdir("e"),
        lambda: union.symlink("e", "x"),
        lambda: union.mknod("e", 0o010644),
        lambda: union.chmod("small", 0o600),
    ):
        assert refused(action)
    union.link("a", "another name")  # is not an object
    union.unlink("small")
    union.unlink("b")
    union.unlink("c")
    union.create("e")
    assert union.fs.statfs().f_files == 3


def test_a_layer_is_counted_as_it_is_found(make_union: MakeUnion) -> None:
    union = make_union(upper={"d/a": b"x" * 20_000, "b": HardLink("d/a"), "c": {}}, size=1 << 20, inodes=50)
    quota = union.parts.quota
    assert quota is not None
    assert (quota.bytes, quota.objects) == taken(union)
    assert quota.objects == 3


def test_figures_are_those_of_the_bound_or_of_less_where_there_is_less(make_union: MakeUnion) -> None:
    union = make_union(size=1 << 20, inodes=10)
    figures = union.fs.statfs()
    assert figures.f_blocks * figures.f_frsize == 1 << 20
    assert figures.f_files == 10
    union.create("f", b"x" * 100_000)
    after = union.fs.statfs()
    size, objects = taken(union)
    assert (after.f_blocks - after.f_bfree) * after.f_frsize >= size
    assert after.f_files - after.f_ffree == objects
    huge = make_union(size=1 << 50).fs.statfs()
    below = os.statvfs(union.upper)
    assert huge.f_bfree <= below.f_bfree + 1000


def test_counting_opens_few_descriptors_however_many_directories_there_are(make_union: MakeUnion) -> None:
    union = make_union(upper={f"d{number}": {"sub": {"f": b""}} for number in range(100)}, inodes=1000)
    cache = FdCache(16)
    layer = Layer(os.open(union.upper, os.O_PATH), cache, writable=True)
    most = 0

    class Watching(Quota):
        def made(self, info: os.stat_result) -> None:
            nonlocal most
            most = max(most, len(cache))
            super().made(info)

    assert Watching(layer, None, 1000).objects == 300
    assert most <= 18
    layer.close()
    cache.capacity = 0
    cache.trim()


def test_the_first_copy_of_metadata_alone_counts_the_record_that_it_makes(make_union: MakeUnion) -> None:
    # On ext4, the attributes of the root get a separate page. The random test below found this.
    union = make_union({"big": b"x" * 40_000}, size=96 * KIB)
    union.create("filler", b"x" * (92 * KIB))
    refused(lambda: union.chmod("big", 0o640))  # is counted as one if attributes need blocks
    assert taken(union)[0] <= 96 * KIB
    union.truncate("filler", 80 * KIB)
    union.chmod("big", 0o640)
    assert taken(union)[0] <= 96 * KIB
    assert stat.S_IMODE(union.stat("big").mode) == 0o640


def test_a_copy_has_no_room_that_its_directories_take(make_union: MakeUnion) -> None:
    union = make_union({"a": {"b": {"c": {"f": b"x" * (60 * KIB)}}}}, size=64 * KIB)
    if os.stat(f"{union.lowers[0]}/a").st_blocks == 0:
        pytest.skip("directories take no blocks on this file system")
    assert refused(lambda: union.write("a/b/c/f", b"!"))
    assert taken(union)[0] <= 64 * KIB


def test_the_redirect_of_a_directory_is_counted(make_union: MakeUnion) -> None:
    union = make_union({"d": {"f": b"x"}, "e": {}}, size=96 * KIB)
    union.rename("d", "e/" + "x" * 200)
    union.create("filler", b"x" * (70 * KIB))
    quota = union.parts.quota
    assert quota is not None
    assert quota.bytes >= taken(union)[0]


MODES = {
    "allocate": 0,
    "keep": _libc.FALLOC_FL_KEEP_SIZE,
    "punch": _libc.FALLOC_FL_PUNCH_HOLE | _libc.FALLOC_FL_KEEP_SIZE,
    "zero": _libc.FALLOC_FL_ZERO_RANGE,
}
_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            "create write append truncate unlink mkdir rmdir copy chmod rename link reopen "
            "allocate keep punch zero range unnamed hold".split()
        ),
        st.sampled_from(["a", "b", "c", "big", "small", "d/f", "d/n", "h1", "h2"]),
        st.sampled_from([1, 3000, 5000, 20_000, 70_000]),
    ),
    max_size=25,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(actions=_ACTIONS)
def test_whatever_is_done_the_layer_stays_within_its_bounds(
    make_union: MakeUnion, actions: list[tuple[str, str, int]]
) -> None:
    union = make_union(LOWER, size=96 * KIB, inodes=6)
    held: list[PathRef | DescriptorRef] = []

    def perform(action: str, path: str, size: int) -> None:
        if action == "create":
            union.create(path, b"x" * size)
        elif action == "write":
            union.write(path, b"y" * size) if size < 4096 else union.fs.files.write(
                union.open(path, os.O_WRONLY), size, b"y" * size
            )
        elif action == "append":
            union.fs.files.write(union.open(path, os.O_WRONLY), union.stat(path).size, b"y" * size)
        elif action == "truncate":
            union.truncate(path, size)
        elif action == "copy":
            union.open(path, os.O_RDWR)
        elif action == "chmod":
            union.chmod(path, 0o640)
        elif action == "rename":
            union.rename(path, "renamed")
        elif action == "link":
            union.link(path, f"{path}-{size}")
        elif action == "reopen":
            union.reopen()
        elif action in MODES:
            union.allocate(path, MODES[action], size // 2, size)
        elif action == "range":
            union.copy_range("big", path, 0, size, size)
        elif action == "unnamed":
            union.link_unnamed(path, b"n" * size)
        elif action == "hold":  # a file without a name that stays open until the end
            number, inode = union.fs.files.create_unnamed(union.directory(""), 0o600, os.O_RDWR, owner())
            inode.lookups = 1
            held.append(inode.ref)
            union.fs.files.write(number, 0, b"h" * size)
        else:
            getattr(union, action)(path)

    for action in actions:
        try:
            perform(*action)
        except (OSError, AssertionError):
            pass  # a short write, or a missing object: this test is about the limits only
        if action[0] == "reopen":
            held.clear()
        size, _ = taken(union)
        assert size + sum(each.stat().st_blocks * 512 for each in held) <= 96 * KIB, action
    union.close()
    union.fs = union._open()
    size, _ = taken(union)
    quota = union.parts.quota
    assert quota is not None
    assert quota.bytes == size


def test_each_bound_that_is_reached_is_told_once_before_the_refusal(make_union: MakeUnion) -> None:
    union = make_union(size=100 * KIB, inodes=3)
    told: list[str] = []
    union.fs.report_when_full(told.append)
    union.create("a", b"x" * 50 * KIB)
    assert told == []
    handle = union.open("a", os.O_WRONLY)
    assert union.fs.files.write(handle, 50 * KIB, b"x" * 200 * KIB) < 200 * KIB
    for _ in range(2):
        assert refused(lambda: union.fs.files.write(handle, 200 * KIB, b"x" * 10 * KIB))
    union.fs.handles.close_file(handle)
    assert told == ["size"]
    union.unlink("a")
    for name in "bcde":
        last = refused(functools.partial(union.create, name))
    assert last
    assert told == ["size", "inodes"]


def test_a_layer_without_bounds_has_nothing_to_tell(make_union: MakeUnion) -> None:
    make_union().fs.report_when_full(pytest.fail)
