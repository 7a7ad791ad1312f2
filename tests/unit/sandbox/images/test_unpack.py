"""Unpacking: what is written, with which attributes, and that a hostile archive reaches nothing outside."""

from __future__ import annotations

import os
import re
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.images.tar import RECORD_LIMIT
from sandbox.images.unpack import unpack
from tests.support.tree import Entry, make_tree, snapshot
from tests.unit.sandbox.images.tars import (
    BLOCK,
    CHARACTER,
    FIFO,
    SYMLINK,
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

CANARY = b"nobody may change me"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A destination between files that must stay as they are."""
    outside = tmp_path / "outside"
    make_tree(outside, {"canary": CANARY, "dir": {"inner": CANARY}})
    before = snapshot(outside, nlink=True, mtime=True)
    place = tmp_path / "around" / "root"
    place.mkdir(parents=True)
    yield place
    assert snapshot(outside, nlink=True, mtime=True) == before
    assert os.listdir(tmp_path / "around") == ["root"]
    assert sorted(os.listdir(tmp_path)) == ["around", "outside"]


def paths(root: Path) -> dict[str, str]:
    """Return types by path."""
    return {os.fsdecode(path): entry.type for path, entry in snapshot(root).items() if path != b"."}


def refused(root: Path, *parts: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        extract(tar(*parts), root)
    assert caught.value.hint
    return caught.value.message


# What is written


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
    os.chmod(root / "empty", 0o600)  # so that anybody can read it back
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


def test_whiteouts_are_files_like_any_other(root: Path) -> None:
    extract(tar(file(b"d/.wh.gone"), file(b"d/.wh..wh..opq")), root)
    assert sorted(os.listdir(root / "d")) == [".wh..wh..opq", ".wh.gone"]


def test_long_paths_are_made_and_too_long_ones_refused(root: Path) -> None:
    deep = b"/".join([b"d" * 200] * 20)  # 4019 bytes
    extract(tar(record(deep + b"\0", b"L"), file(b"short", b"x")), root)
    assert "longer than 4095 bytes" in refused(root, record(deep + b"/" + b"e" * 80, b"L"), file(b"short"))
    assert "longer than the file system allows" in refused(root, record(b"n" * 256, b"L"), file(b"short"))


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


# Of members with one name the last one wins

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


# Links


def test_a_member_behind_a_link_lands_where_the_link_leads_inside(root: Path) -> None:
    extract(
        tar(
            directory(b"usr/lib"),
            symlink(b"lib", b"usr/lib"),
            symlink(b"deep/abs", b"/usr/./lib/"),
            symlink(b"deep/up", b"../../../usr"),
            symlink(b"chain", b"deep/abs"),
            file(b"lib/one", b"1"),
            file(b"deep/abs/two", b"2"),
            file(b"deep/up/lib/three", b"3"),
            file(b"chain/four", b"4"),
            directory(b"chain/five", mode=0o711),
        ),
        root,
    )
    assert sorted(os.listdir(root / "usr/lib")) == ["five", "four", "one", "three", "two"]
    assert stat.S_IMODE(os.stat(root / "usr/lib/five").st_mode) == 0o711
    assert (root / "lib").is_symlink()
    assert (root / "chain").is_symlink()


def test_a_member_behind_a_dangling_link_makes_what_it_leads_to(root: Path) -> None:
    extract(tar(symlink(b"bin", b"usr/bin"), file(b"bin/sh", b"x")), root)
    assert paths(root) == {"bin": "symlink", "usr": "dir", "usr/bin": "dir", "usr/bin/sh": "file"}


@pytest.mark.parametrize(
    "target",
    [
        "{outside}",
        "{outside}/dir",
        "../../outside",
        "../../outside/dir",
        "/../../../..{outside}",
        "/proc/self/cwd",
    ],
)
def test_writing_through_a_link_stays_inside(target: str, root: Path, tmp_path: Path) -> None:
    link = os.fsencode(target.format(outside=tmp_path / "outside"))
    extract(tar(symlink(b"out", link), file(b"out/canary", b"bad"), file(b"out/dir/inner", b"bad")), root)
    assert os.readlink(os.fsencode(root / "out")) == link
    found = [directory for directory, _, names in os.walk(root) if "canary" in names]
    assert len(found) == 1


def test_a_file_directory_or_fifo_never_goes_through_a_link_of_its_own_name(
    root: Path, tmp_path: Path
) -> None:
    canary = os.fsencode(tmp_path / "outside/canary")
    outside = os.fsencode(tmp_path / "outside/dir")
    extract(
        tar(
            symlink(b"f", canary),
            file(b"f", b"bad"),
            symlink(b"d", outside),
            directory(b"d", mode=0o700, mtime=1),
            file(b"d/inner", b"bad"),
            symlink(b"p", canary),
            header(b"p", flag=FIFO, mode=0o777),
            symlink(b"s", canary),
            symlink(b"s", outside),
        ),
        root,
    )
    assert paths(root) == {"f": "file", "d": "dir", "d/inner": "file", "p": "fifo", "s": "symlink"}


def test_a_directory_replaced_by_a_link_and_then_filled_is_filled_where_the_link_leads(
    root: Path, tmp_path: Path
) -> None:
    extract(
        tar(
            directory(b"d", mode=0o700),
            file(b"d/old"),
            directory(b"d/sub"),
            symlink(b"d", os.fsencode(tmp_path / "outside")),
            file(b"d/canary", b"bad"),
            file(b"d/sub/x", b"bad"),
        ),
        root,
    )
    inside = str(root) + str(tmp_path / "outside")
    assert (root / "d").is_symlink()
    assert sorted(os.listdir(inside)) == ["canary", "sub"]


def test_a_link_replaced_by_a_directory_is_not_remembered(root: Path) -> None:
    extract(
        tar(directory(b"t"), symlink(b"d", b"t"), file(b"d/one"), directory(b"d"), file(b"d/two")),
        root,
    )
    assert paths(root) == {"t": "dir", "t/one": "file", "d": "dir", "d/two": "file"}


def test_links_that_lead_in_a_circle_are_refused(root: Path) -> None:
    message = refused(root, symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x"))
    assert message == "a.tar: a/x: its path leads through too many symbolic links"


def test_a_hard_link_to_a_link_is_another_name_of_the_link(root: Path, tmp_path: Path) -> None:
    extract(tar(symlink(b"s", os.fsencode(tmp_path / "outside/canary")), hard_link(b"h", b"s")), root)
    assert (root / "h").is_symlink()
    assert os.lstat(root / "h").st_ino == os.lstat(root / "s").st_ino


def test_a_hard_link_finds_its_target_behind_links_inside(root: Path) -> None:
    extract(tar(file(b"usr/f", b"x"), symlink(b"u", b"/usr"), hard_link(b"h", b"/u/f")), root)
    assert os.path.samefile(root / "h", root / "usr/f")


def test_a_hard_link_to_itself_or_to_another_of_its_names_changes_nothing(root: Path) -> None:
    extract(tar(file(b"a", b"x"), hard_link(b"a", b"a"), hard_link(b"b", b"a"), hard_link(b"a", b"b")), root)
    assert (root / "a").read_bytes() == b"x"
    assert os.stat(root / "a").st_nlink == 2


def test_a_hard_link_replaces_what_has_its_name(root: Path) -> None:
    extract(tar(file(b"a", b"x"), directory(b"d"), file(b"d/inner"), hard_link(b"d", b"a")), root)
    assert os.path.samefile(root / "a", root / "d")


@pytest.mark.parametrize(
    "parts",
    [
        (hard_link(b"h", b"missing"),),
        (hard_link(b"h", b"missing/deeper"),),
        (file(b"f"), hard_link(b"h", b"f/x")),
        (hard_link(b"h", b"{outside}/canary"),),
        (symlink(b"out", b"{outside}"), hard_link(b"h", b"out/canary")),
        (hard_link(b"h", b""),),
        (directory(b"d"), file(b"d/f"), hard_link(b"d", b"d/f")),
        (file(b"f"), hard_link(b"f/h", b"f")),
    ],
)
def test_a_hard_link_to_what_is_no_member_is_refused(
    parts: tuple[bytes, ...], root: Path, tmp_path: Path
) -> None:
    where = os.fsencode(tmp_path / "outside")
    filled = [
        header(
            block[:100].rstrip(b"\0"),
            flag=block[156:157],
            link=block[157:257].rstrip(b"\0").replace(b"{outside}", where),
        )
        for block in parts
    ]
    assert re.search("a hard link to .*(which is no earlier member|directory)", refused(root, *filled))


def test_a_hard_link_to_a_directory_is_refused(root: Path) -> None:
    assert refused(root, directory(b"d"), hard_link(b"h", b"d")) == "a.tar: h: a hard link to a directory"


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"a/..", b"..", b"/../x"])
def test_dots_that_lead_up_are_refused_in_names_and_hard_links(name: bytes, root: Path) -> None:
    for part in (file(name), directory(name), symlink(name, b"t"), hard_link(b"h", name)):
        assert "a path with `..` in it" in refused(root, file(b"x"), part)


def test_the_root_cannot_be_anything_but_a_directory(root: Path) -> None:
    for name in (b".", b"./", b"/"):
        for flag in (SYMLINK, FIFO):
            assert "has to be a directory" in refused(root, header(name, flag=flag, link=b"x"))


def test_a_symbolic_link_without_target_is_refused(root: Path) -> None:
    assert refused(root, symlink(b"s", b"")) == "a.tar: s: a symbolic link to 0 bytes"


def test_a_message_shows_no_control_characters_of_a_name(root: Path) -> None:
    assert refused(root, file(b"\x1b[2J/../\n")).isprintable()


# What cannot be made


def test_devices_are_left_out_and_counted_but_for_those_of_dev(root: Path) -> None:
    report = extract(
        tar(
            directory(b"dev"),
            header(b"dev/null", flag=CHARACTER, device=(1, 3)),
            header(b"./dev/sda", flag=BLOCK, device=(8, 0)),
            *(header(b"root/tty%d" % number, flag=CHARACTER, device=(4, number)) for number in range(7)),
            header(b"overlay-whiteout", flag=CHARACTER),
        ),
        root,
    )
    assert paths(root) == {"dev": "dir", "root": "dir"}
    assert report.skipped_devices == 8
    assert report.skipped_device_names == tuple(f"root/tty{number}" for number in range(5))
    assert report.notices() == [
        "8 device nodes left out: root/tty0, root/tty1, root/tty2, root/tty3, root/tty4, ..."
    ]


def test_a_hard_link_to_a_device_is_left_out_with_it(root: Path) -> None:
    report = extract(tar(header(b"a", flag=CHARACTER), hard_link(b"b", b"a"), hard_link(b"c", b"b")), root)
    assert (paths(root), report.skipped_devices) == ({}, 3)


def test_a_device_replaces_what_has_its_name_and_can_be_replaced(root: Path) -> None:
    device = header(b"a", flag=CHARACTER)
    extract(tar(directory(b"a"), file(b"a/x"), device), root)
    assert paths(root) == {}
    extract(tar(device, file(b"a", b"x"), hard_link(b"b", b"a")), root)
    assert paths(root) == {"a": "file", "b": "file"}


STRIPPED = [
    b"user.overlay.opaque",
    b"user.overlay.whiteout",
    b"user.fuseoverlayfs.opaque",
    b"user.unionfs.origin",
    b"user.containers.override_stat",
    b"trusted.overlay.redirect",
    b"trusted.other",
    b"security.selinux",
    b"security.ima",
    b"system.nfs4_acl",
    b"nonsense",
]


def test_attributes_that_speak_for_the_file_system_or_the_host_are_stripped(root: Path) -> None:
    records = [
        (form + name, b"eQ==")
        for name in [*STRIPPED, b"user.mine", b"user.overlayed"]
        for form in (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
    ]
    report = extract(tar(pax(records), directory(b"d"), pax(records), file(b"f")), root)
    for path in (b"d", b"f"):
        assert set(snapshot(root)[path].xattrs) == {"user.mine", "user.overlayed"}
    assert report.skipped_xattrs == 2 * len(STRIPPED)
    assert report.skipped_xattr_names[0] == "d: user.overlay.opaque"


def test_attributes_of_links_and_fifos_that_linux_does_not_keep_are_left_out(root: Path) -> None:
    report = extract(
        tar(
            pax([(b"SCHILY.xattr.user.x", b"y")]),
            symlink(b"s", b"t"),
            pax([(b"SCHILY.xattr.user.x", b"y")]),
            header(b"p", flag=FIFO),
        ),
        root,
    )
    assert report.skipped_xattr_names == ("s: user.x", "p: user.x")


def test_an_attribute_that_is_too_large_is_refused(root: Path) -> None:
    record_of_it = pax([(b"SCHILY.xattr.user.x", b"v" * (RECORD_LIMIT - 100))])
    assert "f: its attribute user.x has 1048476 bytes" in refused(root, record_of_it, file(b"f"))
    record_of_it = pax([(b"SCHILY.xattr.user." + b"n" * 300, b"v")])
    assert "nnn cannot be set: " in refused(root, record_of_it, directory(b"d"))


ACL_OF_USER_0 = bytes.fromhex(
    "02000000 01000600ffffffff 02000400 00000000 04000400ffffffff 10000400ffffffff 20000000ffffffff".replace(
        " ", ""
    )
)


def test_access_control_lists_are_left_out_where_there_is_only_one_id(root: Path) -> None:
    report = extract(tar(pax([(b"SCHILY.xattr.system.posix_acl_access", ACL_OF_USER_0)]), file(b"f")), root)
    assert report.skipped_xattr_names == ("f: system.posix_acl_access",)


# Around it


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
        gone.rmdir()  # nothing can be made in it any more
        with pytest.raises(FileNotFoundError) as caught:
            unpack(read(tar(file(b"name"))), fd, single_id=True)
    assert caught.value.filename == "name"
