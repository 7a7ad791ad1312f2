"""Freezing the writable layer of an open union: what is refused, what stays as it was, and what it costs."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.calls import calls_of
from tests.support.layers import age
from tests.support.tree import HardLink, Symlink, Tree, Whiteout
from tests.unit.unionfs.freezing import LOWER, FreezingClient, freeze, picture
from tests.unit.unionfs.support import Union, owner
from unionfs.formats import acl
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.inode.birth_times import birth_time_ns
from unionfs.inode.inode import FileInode
from unionfs.layer.objects import PathRef
from unionfs.upper.format import ANY_FORMAT, WantedFormat
from unionfs.vfs.attributes import Change
from unionfs.vfs.file_ranges import RangeAllocation, RangeCopy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unionfs.conftest import MakeUnion

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


# -- open files ------------------------------------------------------------------------------------


def _write(client: FreezingClient, number: int) -> None:
    client.fs.files.write(number, 1, b"!!")


def _truncate(client: FreezingClient, number: int) -> None:
    client.fs.attributes.change(client.fs.handles.file(number).inode.ino, Change(size=3), number)


def _allocate(client: FreezingClient, number: int) -> None:
    change = RangeAllocation(client.fs, client.fs.files.writable_handle(number), 0, 30_000, 10)
    change.run()
    change.finish()


def _copy_range(client: FreezingClient, number: int) -> None:
    source = client.open("a")
    target = client.fs.files.writable_handle(number)
    change = RangeCopy(client.fs, client.fs.handles.file(source), 0, target, 2, 5)
    change.run()
    change.finish()
    client.fs.handles.close_file(source)


def _write_after_chmod(client: FreezingClient, number: int) -> None:
    # A change of metadata alone does not need the contents, but the handle must not stay on the frozen file.
    client.chmod("big", 0o600)
    client.fs.files.write(number, 1, b"!!")


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY])
@pytest.mark.parametrize("change", [_write, _truncate, _allocate, _copy_range, _write_after_chmod])
def test_a_change_through_an_old_handle_goes_to_a_copy(
    client: FreezingClient, change: Callable[[FreezingClient, int], None], flags: int
) -> None:
    client.write("big", b"written")
    number = client.open("big", flags)
    reading = client.open("big")
    client.freeze_running()
    before = client.read("big")
    assert client.file("big").layer.writable is False
    change(client, number)
    assert client.read("big") != before
    size = client.stat("big").size
    assert client.fs.files.read(reading, 0, size) == client.read("big")
    assert (client.lowers[0] / "big").read_bytes() == before
    for each in (number, reading):
        client.fs.handles.close_file(each)


def test_a_file_that_may_no_longer_be_opened_is_copied_from_its_handle(
    client: FreezingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a server without privileges, after the owner took the rights from a file that he has open."""
    client.create("new", b"data")
    numbers = [client.open("new", flags) for flags in (os.O_WRONLY, os.O_RDWR)]
    client.freeze_running()
    really = PathRef.opened

    def opened(self: PathRef, flags: int) -> tuple[int, os.stat_result]:
        if self.layer.frozen:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really(self, flags)

    monkeypatch.setattr(PathRef, "opened", opened)
    client.fs.files.write(numbers[0], 0, b"D")
    assert client.fs.files.read(numbers[1], 0, 9) == b"Data"
    for number in numbers:
        client.fs.handles.close_file(number)


def test_the_file_for_the_next_copy_is_made_in_the_new_work_directory(client: FreezingClient) -> None:
    client.fs.prepare_copies()
    for path in ("a", "gone"):
        client.write(path, b"!")
        client.end_request()
    assert len(client.leftovers()) == 1
    old = client.work
    client.freeze_running()
    assert os.listdir(old / "unionfs" / "tmp") == []
    for path in ("a", "gone", "d/x"):
        client.write(path, b"?")
        client.end_request()
    assert client.read("a") == b"?ower a"


def test_an_unlinked_file_that_is_open_is_written_on_without_a_copy(client: FreezingClient) -> None:
    client.create("new", b"data")
    number = client.open("new", os.O_RDWR)
    inode = client.file("new")
    client.unlink("new")
    client.freeze_running()
    copies = client.parts.copy_up.copies
    client.fs.files.write(number, 4, b" and more")
    assert client.fs.files.read(number, 0, 20) == b"data and more"
    assert client.fs.attributes.of(inode).nlink == 0
    assert client.parts.copy_up.copies == copies
    client.fs.handles.close_file(number)


def test_a_file_whose_only_known_name_was_deleted_is_still_the_file_of_its_other_name(
    make_client: Callable[..., FreezingClient],
) -> None:
    client = make_client({"d": {}})
    client.create("one", b"data")
    client.link("one", "d/two")
    client.forget_everything()
    number = client.open("one", os.O_RDWR)
    inode = client.file("one")
    client.unlink("one")
    assert (client.fs.attributes.of(inode).nlink, inode.names) == (1, [])
    client.freeze_running()
    assert client.fs.attributes.of(inode).nlink == 1
    client.fs.files.write(number, 0, b"DA")
    client.fs.handles.close_file(number)
    client.reopen()
    assert client.read("d/two") == b"DAta"
    assert client.remaining_names() == [b"d/two"]
    client.freeze_running()
    assert client.read("d/two") == b"DAta"
    client.reopen()
    assert (client.read("d/two"), client.stat("d/two").nlink) == (b"DAta", 1)


def test_a_file_without_a_name_gets_one_in_the_new_layer(client: FreezingClient) -> None:
    number, inode = client.fs.files.create_unnamed(client.directory("d"), 0o644, os.O_RDWR, owner())
    inode.lookups = 1
    client.freeze_running()
    client.fs.files.write(number, 0, b"data")
    client.fs.names.link(inode, client.directory("d"), b"named")
    assert (client.upper / "d" / "named").read_bytes() == b"data"
    client.fs.handles.close_file(number)


def test_a_removed_directory_that_is_open_can_still_be_changed(client: FreezingClient) -> None:
    client.mkdir("e")
    inode = client.directory("e")
    inode.lookups = 1
    client.rmdir("e")
    client.freeze_running()
    client.fs.attributes.change(inode.ino, Change(mode=0o711), None)
    assert client.fs.attributes.of(inode).mode & 0o7777 == 0o711


# -- what stays ------------------------------------------------------------------------------------


def test_numbers_link_counts_and_birth_times_stay_even_if_the_kernel_forgets_them(
    client: FreezingClient,
) -> None:
    client.write("a", b"copied")
    client.chmod("big", 0o600)
    client.write("hard1", b"H")
    client.utime("s", 5)
    client.mkdir("new")
    client.create("new/f")
    client.link("new/f", "new/g")
    client.chmod("d", 0o700)
    paths = ["a", "big", "hard1", "d/hard2", "s", "new", "new/f", "new/g", "d", "d/x"]

    def shown() -> list[tuple[object, ...]]:
        found = [(client.inode(path), client.stat(path)) for path in paths]
        return [
            (
                at.ino,
                at.mode,
                at.nlink if isinstance(inode, FileInode) else None,
                at.mtime_ns,
                birth_time_ns(client.fs.inode_table, inode),
            )
            for inode, at in found
        ]

    before = shown()
    for _ in range(3):
        client.freeze_running()
        assert shown() == before
        client.forget_everything()
        assert shown() == before
    for path in ("a", "big", "s", "new/f", "new", "d"):
        client.utime(path, client.stat(path).mtime_ns)
        client.end_request()
    client.forget_everything()
    assert shown() == before


def test_deleted_names_are_not_counted_even_after_the_next_mount(client: FreezingClient) -> None:
    client.unlink("d/hard2")
    for _ in range(2):
        client.freeze_running()
        assert client.stat("hard1").nlink == 1
    client.reopen()
    assert client.stat("hard1").nlink == 1
    client.write("hard1", b"!")
    assert client.stat("hard1").nlink == 1


def test_the_root_keeps_its_attributes(client: FreezingClient) -> None:
    if os.geteuid() == 0:
        client.chown("", 7, 8)
    client.chmod("", 0o1751)
    client.setxattr("", "user.color", b"blue")
    client.utime("", 10**18)
    before = client.stat("")
    upper, work = client.new_layer()
    default = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, mode, 0xFFFFFFFF) for tag, mode in ((1, 7), (4, 5), (0x20, 5))
    )
    os.setxattr(upper, acl.DEFAULT, default)  # as if it were inherited
    client.fs.freeze(os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR))
    client.upper, client.work = upper, work
    after = client.stat("")
    assert (after.mode, after.uid, after.gid, after.mtime_ns) == (
        before.mode, before.uid, before.gid, before.mtime_ns,
    )  # fmt: skip
    assert client.fs.xattrs.list(1) == ["user.color"]
    assert acl.DEFAULT not in os.listxattr(upper)


@pytest.mark.parametrize("whiteouts", list(WhiteoutFormat), ids=lambda form: form.value)
def test_the_format_of_the_layer_stays(
    make_client: Callable[..., FreezingClient], whiteouts: WhiteoutFormat
) -> None:
    client = make_client(form=WantedFormat(whiteouts=whiteouts))
    client.form = ANY_FORMAT
    client.reopen()
    client.freeze_running()
    client.unlink("gone")
    found = client.upper / ("gone" if whiteouts is WhiteoutFormat.OVERLAY else ".wh.gone")
    assert found.exists()
    assert client.parts.upper.whiteouts is whiteouts


def test_an_open_stream_goes_on_where_it_was(client: FreezingClient) -> None:
    for name in "pqr":
        client.create(f"d/{name}")
    number = client.fs.directories.open(client.directory("d").ino)
    everything = [name for name, _, _ in client.fs.directories.entries(number, 0)]
    client.freeze_running()
    client.create("d/new")
    assert [name for name, _, _ in client.fs.directories.entries(number, 4)] == everything[4:]
    client.fs.handles.close_directory(number)


# -- hard links ------------------------------------------------------------------------------------


def test_a_layer_is_not_frozen_while_a_name_is_not_a_link_of_its_copy(client: FreezingClient) -> None:
    client.write("hard1", b"TWO")
    with pytest.raises(OSError, match="hard links") as refused:
        freeze(client)
    assert refused.value.errno == errno.EBUSY
    age(client.upper)
    times = client.stat("d").mtime_ns
    assert client.remaining_names() == [b"d/hard2"]
    assert client.fs.link_remaining_names([b"d/hard2", b"d/hard2", b"nothing", b"a/b", b"d"]) == 1
    assert client.stat("d").mtime_ns == times
    assert [client.stat(path).nlink for path in ("hard1", "d/hard2")] == [2, 2]
    client.frozen[client.upper], before = {}, client.upper
    client.upper, client.work = freeze(client)
    client.lowers.insert(0, before)
    client.frozen[before] = picture(before)
    assert [client.read(path)[:3] for path in ("hard1", "d/hard2")] == [b"TWO", b"TWO"]
    assert [client.stat(path).nlink for path in ("hard1", "d/hard2")] == [2, 2]


def test_copies_leave_the_index_a_few_at_a_time_before_the_layer_is_frozen(
    make_client: Callable[..., FreezingClient],
) -> None:
    tree: Tree = {"link": Symlink(b"a")}
    for number in range(5):
        tree |= {f"f{number}": b"old", f"n{number}": HardLink(f"f{number}")}
    client = make_client(tree)
    for number in range(5):
        client.write(f"f{number}", b"new")
    client.chown("link", *owner())
    numbers = {name: client.inode(name).ino for name in client.names("")}
    assert len(client.index()) == 6
    assert not client.fs.leave_index(10), "names that are not links of their copies need the entries"
    stamp = client.fs.search_stamp
    client.fs.link_remaining_names(client.remaining_names())
    assert [client.fs.leave_index(2) for _ in range(3)] == [True, True, False]
    assert client.index() == []
    for forgets in (False, True):
        if forgets:
            client.forget_everything()
        assert {name: client.inode(name).ino for name in client.names("")} == numbers
        assert [client.stat(f"f{number}").nlink for number in range(5)] == [2] * 5
    client.unlink("f0")
    client.write("n1", b"again")
    upper, work = client.upper, client.work
    client.upper, client.work = freeze(client, stamp)
    client.lowers.insert(0, upper)
    assert sorted(os.listdir(work / "unionfs" / "index")) == []
    assert (client.stat("n0").nlink, client.read("f1")) == (1, b"again")
    del numbers["f0"]
    assert {name: client.inode(name).ino for name in client.names("")} == numbers


def test_a_name_that_the_union_does_not_show_is_no_obstacle_after_a_search(
    make_client: Callable[..., FreezingClient],
) -> None:
    client = make_client({"d": {"hard2": Whiteout()}}, LOWER)
    client.write("hard1", b"TWO")
    stamp = client.fs.search_stamp
    assert client.remaining_names() == []
    with pytest.raises(OSError, match="hard links"):
        freeze(client)
    client.freeze_running()
    assert stamp == client.fs.search_stamp
    assert (client.read("hard1")[:3], client.stat("hard1").nlink) == (b"TWO", 1)
    client.forget_everything()
    assert client.read("hard1")[:3] == b"TWO"


def _move(client: FreezingClient) -> None:
    client.rename("d", "moved")


def _copy(client: FreezingClient) -> None:
    client.write("hard1", b"!")


@pytest.mark.parametrize("change", [_move, _copy])
def test_a_search_does_not_count_if_it_may_have_missed_a_name(
    client: FreezingClient, change: Callable[[FreezingClient], None]
) -> None:
    if change is _move:
        client.write("hard1", b"!")
    stamp = client.fs.search_stamp
    change(client)
    with pytest.raises(OSError, match="hard links") as refused:
        freeze(client, stamp)
    assert refused.value.errno == errno.EBUSY


# -- the quota -------------------------------------------------------------------------------------


def test_the_limits_count_what_was_written_before(make_union: MakeUnion, tmp_path: Path) -> None:
    union = make_union({}, size=200_000, inodes=10)
    quota = union.parts.quota
    assert quota is not None

    def freeze_union(name: str) -> None:
        upper, work = tmp_path / name, tmp_path / f"{name}-work"
        upper.mkdir()
        work.mkdir()
        union.fs.freeze(os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR))

    union.create("one", bytes(100_000))
    kept = union.open("one")
    union.create("unlinked", bytes(8192))
    unlinked = union.open("unlinked")
    union.unlink("unlinked")
    before = quota.bytes, quota.objects
    freeze_union("second")
    assert quota.objects == before[1]
    assert abs(quota.bytes - before[0]) <= 8192  # the new root may have a block for its attributes
    counted = quota.bytes, quota.objects
    for _ in range(2):
        quota.recount()
        assert (quota.bytes, quota.objects) == counted
    union.create("two", bytes(50_000))
    union.create("three", bytes(100_000))
    assert union.stat("three").size < 50_000
    with pytest.raises(OSError, match="No space"):
        union.create("four", bytes(10))
    for name in ("two", "three", "four"):
        union.unlink(name)
    union.fs.trim()
    freeze_union("third")
    quota.recount()
    assert quota.objects == counted[1]
    union.create("two", bytes(50_000))
    counted = quota.bytes, quota.objects
    quota.recount()
    assert (quota.bytes, quota.objects) == counted
    for number in (kept, unlinked):
        union.fs.handles.close_file(number)


# -- costs -----------------------------------------------------------------------------------------


def test_the_time_does_not_depend_on_the_size_of_the_layer(tmp_path: Path) -> None:
    def calls(count: int) -> int:
        base = tmp_path / str(count)
        (base / "upper" / "d").mkdir(parents=True)
        for name in ("lower", "work", "next", "next-work"):
            (base / name).mkdir()
        for number in range(count):
            (base / "upper" / "d" / str(number)).touch()
        union = Union.over(base, [base / "lower"], ANY_FORMAT)
        try:
            assert len(union.names("d")) == count
            union.fs.trim()
            fds = os.open(base / "next", _OPEN_DIR), os.open(base / "next-work", _OPEN_DIR)
            return calls_of(lambda: union.fs.freeze(*fds))
        finally:
            union.close()

    assert abs(calls(2000) - calls(2)) < 20


def test_new_work_directories_have_what_the_next_mount_and_other_programs_need(
    client: FreezingClient,
) -> None:
    client.write("a", b"A")
    old_work, generation = client.work / "unionfs", (client.work / "unionfs" / "stack").read_bytes()[:8]
    client.freeze_running()
    new_work = client.work / "unionfs"
    assert (new_work / "stack").read_bytes()[:8] == generation
    assert (old_work / "stack").read_bytes()[:8] == generation
    assert sorted(os.listdir(new_work)) == ["below", "index", "scratch", "stack", "tmp"]
    assert os.listdir(old_work / "index") == []
    assert stat.S_IMODE((old_work / "index").stat().st_mode) == 0o700
