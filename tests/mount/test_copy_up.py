"""Copy-up: the first change of a lower file copies it to the writable layer, and changes nothing else."""

from __future__ import annotations

import os
import re
import signal
import stat

import pytest

from tests.mount.support import Union, make_union, wait_until
from tests.support.tree import Dir, Fifo, File, Symlink, snapshot

pytestmark = pytest.mark.fusermount

MIB = 1 << 20
OLD = 10**18 + 123_456_789


def statistics(union: Union) -> dict[str, int]:
    """Request the statistics of the server, which it writes to its log."""
    union.may_complain = True
    seen = len(union.log())
    os.kill(union.pid, signal.SIGUSR1)
    wait_until(lambda: "pid=" in union.log()[seen:], "the server writes its statistics")
    return {key: int(value) for key, value in re.findall(r"([a-z-]+)=(\d+)", union.log()[seen:])}


def inside(union: Union, *names: str) -> str:
    return os.path.join(union.path, *names)


def above(union: Union, *names: str) -> str:
    return os.path.join(union.upper, *names)


def test_nothing_is_copied_before_something_changes(base: str) -> None:
    with make_union(base, {"d": {"f": b"x"}}) as union:
        with open(inside(union, "d/f"), "rb") as file:
            file.read()
        os.listdir(inside(union, "d"))
        os.lstat(inside(union, "d/f"))
    assert os.listdir(union.upper) == []


def test_a_changed_file_is_copied_with_its_directories_and_the_lower_one_stays(base: str) -> None:
    lower = {"d": Dir({"e": Dir({"f": b"old", "g": b"beside"}, mode=0o711)}, mode=0o750)}
    with make_union(base, lower) as union:
        before = snapshot(f"{base}/lower0", mtime=True)
        with open(inside(union, "d/e/f"), "ab") as file:
            file.write(b" and new")
    assert snapshot(f"{base}/lower0", mtime=True) == before
    upper = snapshot(union.upper)
    assert upper.keys() == {b".", b"d", b"d/e", b"d/e/f"}
    assert (upper[b"d"].mode, upper[b"d/e"].mode) == (0o750, 0o711)
    assert upper[b"d/e/f"].data == b"old and new"


def test_the_copy_has_mode_times_and_attributes_of_the_original(base: str) -> None:
    original = File(b"content", mode=0o5640, mtime_ns=OLD, xattrs={"user.color": b"blue", "user.empty": b""})
    with make_union(base, {"f": original}) as union:
        os.setxattr(inside(union, "f"), "user.added", b"1")
        shown = os.lstat(inside(union, "f"))
    copy = snapshot(union.upper, mtime=True)[b"f"]
    assert (copy.data, copy.mode, copy.mtime_ns) == (b"content", 0o5640, OLD)
    public = {name: value for name, value in copy.xattrs.items() if not name.startswith("user.unionfs.")}
    assert public == {"user.color": b"blue", "user.empty": b"", "user.added": b"1"}
    assert (stat.S_IMODE(shown.st_mode), shown.st_mtime_ns) == (0o5640, OLD)


@pytest.mark.root
def test_the_copy_has_the_owner_of_the_original(base: str) -> None:
    with make_union(base, {"d": Dir({"f": File(b"x", uid=1234, gid=4321)}, uid=99, gid=98)}) as union:
        os.chmod(inside(union, "d/f"), 0o600)
    upper = snapshot(union.upper)
    assert (upper[b"d/f"].uid, upper[b"d/f"].gid) == (1234, 4321)
    assert (upper[b"d"].uid, upper[b"d"].gid) == (99, 98)


def test_a_copy_up_leaves_the_times_of_the_directories_around_it_alone(base: str) -> None:
    with make_union(base, {"d": Dir({"f": b"x"}, mtime_ns=OLD)}) as union:
        os.chmod(inside(union, "d/f"), 0o600)
        assert os.lstat(inside(union, "d")).st_mtime_ns == OLD
        union.remount()
        assert os.lstat(inside(union, "d")).st_mtime_ns == OLD


def test_a_symbolic_link_and_a_fifo_are_copied_as_such(base: str) -> None:
    with make_union(base, {"link": Symlink(b"nowhere"), "fifo": Fifo(mode=0o620)}) as union:
        os.utime(inside(union, "link"), ns=(OLD, OLD), follow_symlinks=False)
        os.chmod(inside(union, "fifo"), 0o600)
    upper = snapshot(union.upper, mtime=True)
    assert (upper[b"link"].target, upper[b"link"].mtime_ns) == (b"nowhere", OLD)
    assert (upper[b"fifo"].type, upper[b"fifo"].mode) == ("fifo", 0o600)


def test_a_file_that_its_owner_may_not_write_can_be_copied_up_by_a_change_of_its_mode(base: str) -> None:
    with make_union(base, {"f": File(b"read only", mode=0o400)}) as union:
        os.chmod(inside(union, "f"), 0o600)
        with open(inside(union, "f"), "ab") as file:
            file.write(b" no more")
    assert snapshot(union.upper)[b"f"].data == b"read only no more"


def test_holes_are_kept_by_copy_up(base: str) -> None:
    with make_union(base, {"f": File(b"begin", size=1 << 40)}) as union:
        with open(inside(union, "f"), "r+b") as file:
            file.seek(1 << 39)
            file.write(b"middle")
            file.seek((1 << 40) - 1)
            assert file.read() == b"\0"
        assert os.lstat(inside(union, "f")).st_blocks * 512 < MIB
        assert statistics(union)["copied-bytes"] < MIB
    copy = os.lstat(above(union, "f"))
    assert copy.st_size == 1 << 40
    assert copy.st_blocks * 512 < MIB


@pytest.mark.parametrize("how", ["open", "truncate"])
def test_truncating_a_file_to_zero_copies_none_of_its_contents(base: str, how: str) -> None:
    with make_union(base, {"f": File(b"x" * 4 * MIB, mode=0o640)}) as union:
        if how == "open":
            os.close(os.open(inside(union, "f"), os.O_WRONLY | os.O_TRUNC))
        else:
            os.truncate(inside(union, "f"), 0)
        assert os.lstat(inside(union, "f")).st_size == 0
        figures = statistics(union)
        assert (figures["copies"], figures["copied-bytes"]) == (1, 0)
    copy = snapshot(union.upper)[b"f"]
    assert (copy.size, copy.mode) == (0, 0o640)


def test_a_file_is_copied_once_for_any_number_of_changes(base: str) -> None:
    with make_union(base, {"f": b"x" * MIB}) as union:
        for number in range(5):
            with open(inside(union, "f"), "r+b") as file:
                file.write(b"%d" % number)
            os.chmod(inside(union, "f"), 0o600 + number)
        figures = statistics(union)
    assert (figures["copies"], figures["copied-bytes"]) == (1, MIB)


def test_a_reader_opened_before_copy_up_sees_later_writes(base: str) -> None:
    with make_union(base, {"f": b"before"}) as union:
        reader = os.open(inside(union, "f"), os.O_RDONLY)
        try:
            assert os.pread(reader, 100, 0) == b"before"
            with open(inside(union, "f"), "r+b") as file:
                file.write(b"after, and longer")
            assert os.pread(reader, 100, 0) == b"after, and longer"
            assert os.fstat(reader).st_ino == os.stat(inside(union, "f")).st_ino
            os.truncate(inside(union, "f"), 3)
            assert os.pread(reader, 100, 0) == b"aft"
        finally:
            os.close(reader)


def test_a_reader_of_a_deleted_lower_file_sees_its_copy_when_another_handle_changes_it(base: str) -> None:
    with make_union(base, {"f": b"before"}) as union:
        reader = os.open(inside(union, "f"), os.O_RDONLY)
        try:
            os.unlink(inside(union, "f"))
            os.fchmod(reader, 0o600)
            writer = os.open(f"/proc/self/fd/{reader}", os.O_WRONLY)
            os.write(writer, b"AFTER")
            os.close(writer)
            assert os.pread(reader, 100, 0) == b"AFTERe"
        finally:
            os.close(reader)
        with open(f"{base}/lower0/f", "rb") as file:
            assert file.read() == b"before"


def test_changes_are_shown_after_a_remount(base: str) -> None:
    with make_union(base, {"d": {"f": File(b"old", mode=0o644)}}) as union:
        with open(inside(union, "d/f"), "wb") as file:
            file.write(b"new")
        os.chmod(inside(union, "d/f"), 0o751)
        os.utime(inside(union, "d/f"), ns=(OLD, OLD))
        before = snapshot(union.path, mtime=True, nlink=True)
        union.remount()
        assert snapshot(union.path, mtime=True, nlink=True) == before
        assert before[b"d/f"].data == b"new"
