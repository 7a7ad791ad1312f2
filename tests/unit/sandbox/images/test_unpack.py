"""Unpacking: content and attributes, and the precedence of members with the same name."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from sandbox.images.unpack import unpack
from tests.support.tree import Entry, snapshot
from tests.unit.sandbox.images.tars import (
    FIFO,
    directory,
    extract,
    file,
    hard_link,
    header,
    opened,
    padded,
    pax,
    read,
    record,
    symlink,
    tar,
)
from tests.unit.sandbox.images.unpacking import paths, refused


def test_every_kind_of_member_is_made_with_its_attributes(root: Path) -> None:
    report = extract(
        tar(
            directory(b"./", mode=0o751, mtime=1000),
            directory(b"./d/", mode=0o3775, mtime=2000),
            pax([(b"mtime", b"3000.123456789"), (b"SCHILY.xattr.user.key", b"\xff\0")]),
            file(b"./d/f", b"content", mode=0o6755),
            hard_link(b"./d/h", b"./d/f"),
            symlink(b"./d/s", b"../nowhere"),
            header(b"./p", flag=FIFO, mode=0o620, mtime=4000),
            file(b"./empty", mode=0),
        ),
        root,
    )
    os.chmod(root / "empty", 0o600)  # so that the test can read it back
    named_twice = Entry(
        type="file",
        mode=0o6755,
        size=7,
        data=b"content",
        mtime_ns=3000123456789,
        nlink=2,
        xattrs={"user.key": b"\xff\0"},
    )
    assert snapshot(root, ids=False, nlink=True, mtime=True) == {
        b".": Entry(type="dir", mode=0o751, mtime_ns=1000 * 10**9),
        b"d": Entry(type="dir", mode=0o3775, mtime_ns=2000 * 10**9),
        b"d/f": named_twice,
        b"d/h": named_twice,
        b"d/s": Entry(
            type="symlink", mode=None, target=b"../nowhere", nlink=1, mtime_ns=1_700_000_000 * 10**9
        ),
        b"p": Entry(type="fifo", mode=0o620, nlink=1, mtime_ns=4000 * 10**9),
        b"empty": Entry(type="file", mode=0o600, size=0, data=b"", nlink=1, mtime_ns=1_700_000_000 * 10**9),
    }
    assert (report.entries, report.data_bytes, report.notices()) == (7, 7, [])


def test_the_umask_does_not_count(root: Path) -> None:
    old = os.umask(0o077)
    try:
        extract(tar(directory(b"d", mode=0o777), file(b"d/f", mode=0o666), file(b"new/f", mode=0o666)), root)
    finally:
        os.umask(old)
    modes = {path: entry.mode for path, entry in snapshot(root).items() if path != b"."}
    assert modes == {b"d": 0o777, b"d/f": 0o666, b"new": 0o755, b"new/f": 0o666}


def test_a_directory_that_may_not_be_written_or_entered_is_filled_before_it_is_closed(root: Path) -> None:
    extract(
        tar(
            directory(b"d", mode=0),
            directory(b"d/e", mode=0o555),
            file(b"d/e/f", b"x"),
            directory(b"d/empty", mode=0o710),
        ),
        root,
    )
    assert stat.S_IMODE(os.stat(root / "d").st_mode) == 0
    os.chmod(root / "d", 0o700)
    assert [stat.S_IMODE(os.stat(root / name).st_mode) for name in ("d/e", "d/empty")] == [0o555, 0o710]
    assert (root / "d/e/f").read_bytes() == b"x"
    os.chmod(root / "d/e", 0o700)


def test_a_time_of_a_directory_survives_what_is_made_in_it_later(root: Path) -> None:
    extract(
        tar(
            directory(b"d", mtime=1000),
            directory(b"d/e", mtime=2000),
            file(b"d/f"),
            hard_link(b"d/e/g", b"d/f"),
        ),
        root,
    )
    assert [os.stat(root / name).st_mtime for name in ("d", "d/e")] == [1000, 2000]


def test_times_before_1970_and_far_away_are_set_as_the_file_system_can(root: Path) -> None:
    extract(tar(file(b"old", mtime=-5), file(b"far", mtime=2**40)), root)
    assert os.stat(root / "old").st_mtime == -5
    assert os.stat(root / "far").st_mtime > 2**33
    message = refused(root, file(b"x", mtime=2**90))
    assert "out of range" in message


def test_holes_stay_holes(root: Path) -> None:
    megabyte = 1 << 20
    records = [
        (b"GNU.sparse.size", b"%d" % (50 * megabyte)),
        (b"GNU.sparse.map", b"%d,%d" % (20 * megabyte, 5)),
    ]
    report = extract(tar(pax(records), header(b"s", size=5), padded(b"hello")), root)
    status = os.stat(root / "s")
    assert status.st_size == 50 * megabyte
    assert status.st_blocks * 512 < megabyte
    with open(root / "s", "rb") as sparse:
        sparse.seek(20 * megabyte - 3)
        assert sparse.read(11) == b"\0\0\0hello\0\0\0"
    assert report.data_bytes == 5


def test_missing_directories_are_made(root: Path) -> None:
    extract(tar(file(b"a/b/c", b"x")), root)
    assert paths(root) == {"a": "dir", "a/b": "dir", "a/b/c": "file"}
    assert stat.S_IMODE(os.stat(root / "a").st_mode) == 0o755


def test_a_directory_may_be_listed_after_what_is_in_it(root: Path) -> None:
    extract(tar(file(b"a/f"), directory(b"a", mode=0o700, mtime=5)), root)
    status = os.stat(root / "a")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o700, 5)


def test_names_are_relative_to_the_root_whatever_slashes_and_dots_they_have(root: Path) -> None:
    extract(tar(file(b"/abs"), file(b"./dot"), file(b"//a//./b"), directory(b"c/./"), directory(b"/")), root)
    assert paths(root) == {"abs": "file", "dot": "file", "a": "dir", "a/b": "file", "c": "dir"}


def test_names_that_are_not_utf8_survive_to_the_disk(root: Path) -> None:
    extract(tar(file(b"\xff\n"), symlink(b"s", b"\xfe"), hard_link(b"h\xfd", b"\xff\n")), root)
    assert sorted(os.listdir(os.fsencode(root))) == [b"h\xfd", b"s", b"\xff\n"]
    assert os.readlink(os.fsencode(root / "s")) == b"\xfe"


def test_long_paths_are_made_and_too_long_ones_refused(root: Path) -> None:
    deep = b"/".join([b"d" * 200] * 20)  # 4019 bytes
    extract(tar(record(deep + b"\0", b"L"), file(b"short", b"x")), root)
    assert "longer than 4095 bytes" in refused(root, record(deep + b"/" + b"e" * 80, b"L"), file(b"short"))
    assert "longer than the file system allows" in refused(root, record(b"n" * 256, b"L"), file(b"short"))


@pytest.mark.parametrize("long", [record(b"d/" + b"n" * 300, b"L"), pax([(b"path", b"d/" + b"n" * 300)])])
def test_a_component_of_300_bytes_is_refused_with_the_name_of_the_member(root: Path, long: bytes) -> None:
    for part in (file(b"s"), directory(b"s"), symlink(b"s", b"t"), hard_link(b"s", b"f")):
        message = refused(root, file(b"f"), long, part)
        assert message.startswith("a.tar: d/nnn")
        assert message.endswith("a component of its name is longer than the file system allows")


def test_the_depth_of_an_archive_takes_no_descriptors_and_no_recursion(root: Path) -> None:
    deep = b"/".join([b"d"] * 2000)
    data = tar(
        record(deep + b"\0", b"L"),
        directory(b"short"),
        record(deep + b"/f", b"L"),
        file(b"short", b"x"),
        file(b"d"),
    )
    extract(data, root)
    assert paths(root) == {"d": "file"}


def test_many_directories_take_few_descriptors(root: Path) -> None:
    names = [b"d%d/e%d" % (number, number) for number in range(300)]
    first = [file(name + b"/f", b"1") for name in names]
    second = [file(name + b"/g", b"2") for name in reversed(names)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        report = extract(tar(*first, *second), root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert report.entries == 600
    assert all(sorted(os.listdir(os.fsencode(root) + b"/" + name)) == [b"f", b"g"] for name in names)


ENTRIES = {
    "file": (file(b"x", b"data"),),
    "dir": (directory(b"x"), file(b"x/inner", b"data"), directory(b"x/sub"), file(b"x/sub/f")),
    "symlink": (symlink(b"x", b"other"),),
    "fifo": (header(b"x", flag=FIFO),),
}


@pytest.mark.parametrize("later", ENTRIES)
@pytest.mark.parametrize("earlier", ENTRIES)
def test_a_later_member_replaces_an_earlier_one(earlier: str, later: str, root: Path) -> None:
    extract(tar(directory(b"other"), file(b"other/keep"), *ENTRIES[earlier], *ENTRIES[later][:1]), root)
    seen = paths(root)
    assert seen.pop("other/keep") == "file"
    assert seen.pop("other") == "dir"
    merged = (
        {"x/inner": "file", "x/sub": "dir", "x/sub/f": "file"} if (earlier, later) == ("dir", "dir") else {}
    )
    assert seen == {"x": later, **merged}


def test_a_file_that_becomes_a_directory_and_a_file_again_is_the_last_file(root: Path) -> None:
    extract(
        tar(file(b"x", b"1"), directory(b"x", mode=0o700), file(b"x/in"), file(b"x", b"2", mode=0o600)), root
    )
    seen = snapshot(root, nlink=True)[b"x"]
    assert (seen.type, seen.data, seen.mode, seen.nlink) == ("file", b"2", 0o600, 1)


def test_a_directory_that_becomes_a_file_and_a_directory_again_is_empty(root: Path) -> None:
    extract(tar(file(b"x/old"), file(b"x", b"1"), directory(b"x", mode=0o711), file(b"x/new")), root)
    assert paths(root) == {"x": "dir", "x/new": "file"}
    assert stat.S_IMODE(os.stat(root / "x").st_mode) == 0o711


def test_a_directory_listed_again_gets_the_later_attributes_and_keeps_what_is_in_it(root: Path) -> None:
    extract(
        tar(
            pax([(b"SCHILY.xattr.user.old", b"1")]),
            directory(b"d", mode=0o700, mtime=1),
            file(b"d/f"),
            pax([(b"SCHILY.xattr.user.new", b"2")]),
            directory(b"d/", mode=0o755, mtime=2),
        ),
        root,
    )
    seen = snapshot(root, ids=False, mtime=True)
    assert seen[b"d"] == Entry(type="dir", mode=0o755, mtime_ns=2 * 10**9, xattrs={"user.new": b"2"})
    assert b"d/f" in seen


def test_a_replaced_directory_leaves_no_attributes_to_its_successor(root: Path) -> None:
    extract(
        tar(directory(b"d/e", mode=0o700, mtime=1), directory(b"d", mode=0o700), file(b"d"), file(b"d/e/f")),
        root,
    )
    assert paths(root) == {"d": "dir", "d/e": "dir", "d/e/f": "file"}
    assert [stat.S_IMODE(os.stat(root / name).st_mode) for name in ("d", "d/e")] == [0o755, 0o755]
    assert os.stat(root / "d/e").st_mtime > 1


def test_a_file_that_replaces_one_with_other_names_leaves_those_alone(root: Path) -> None:
    extract(tar(file(b"a", b"old"), hard_link(b"b", b"a"), file(b"a", b"new")), root)
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"new", b"old")


def test_a_member_below_a_file_turns_the_file_into_a_directory(root: Path) -> None:
    extract(tar(file(b"a", b"x"), file(b"a/b")), root)
    assert paths(root) == {"a": "dir", "a/b": "file"}


def test_descriptors_are_closed_after_an_error(root: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for parts in (
        [file(b"d%d/f" % number) for number in range(50)] + [file(b"../x")],
        [file(b"a/b/c"), symlink(b"l", b"l"), file(b"l/x")],
        [file(b"a/f", b"x"), b"\1" * 512],
        [header(b"a/g", size=10_000)],
    ):
        refused(root, *parts)
        assert set(os.listdir("/proc/self/fd")) == before


def test_a_failure_of_the_machine_keeps_its_errno_and_names_the_member(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with opened(gone) as fd:
        gone.rmdir()  # no file can be created in it any more
        with pytest.raises(FileNotFoundError) as caught:
            unpack(read(tar(file(b"name"))), fd, single_id=True)
    assert caught.value.filename == "name"
