"""Unpacking above other layers: hard links to their files, and directories that only they list."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from tests.support.tree import Dir, Entry, Fifo, File, HardLink, Symlink, Tree, make_tree, snapshot
from tests.unit.sandbox.images.tars import (
    CHARACTER,
    directory,
    extract,
    file,
    hard_link,
    header,
    pax,
    symlink,
    tar,
)
from tests.unit.sandbox.images.unpacking import paths

LOWER: Tree = {
    "usr": Dir(
        {
            "bin": Dir(
                {
                    "tool": File(
                        b"lower" * 1000, mode=0o4755, mtime_ns=123456789, xattrs={"user.key": b"\xff\0"}
                    ),
                    "same": HardLink("usr/bin/tool"),
                },
                mode=0o2751,
                mtime_ns=10**18,
                xattrs={"user.dir": b"1"},
            )
        },
        mode=0o700,
        mtime_ns=5 * 10**9,
    ),
    "link": Symlink(b"usr/bin/tool"),
    "to-dir": Symlink(b"usr/bin"),
    "pipe": Fifo(mode=0o620, mtime_ns=7 * 10**9),
    "tmp": Dir({}, mode=0o1777),
}


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    """Write LOWER, and return its place."""
    place = tmp_path / "around" / "lower"
    make_tree(place, LOWER)
    return place


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "around" / "own"


def entries(place: Path) -> dict[bytes, Entry]:
    return snapshot(place, ids=False, nlink=True, mtime=True)


def refused(own: Path, data: bytes, *below: Path) -> str:
    with pytest.raises(ImageError) as caught:
        extract(data, own, *below)
    assert caught.value.hint
    return caught.value.message


def test_the_target_of_a_hard_link_is_copied_with_all_that_it_has(lower: Path, own: Path) -> None:
    before = entries(lower)
    report = extract(tar(hard_link(b"h", b"usr/bin/tool")), own, lower)
    assert report.used_below
    assert (report.entries, report.data_bytes) == (1, 5000)
    assert os.path.samefile(own / "h", own / "usr/bin/tool")
    assert entries(lower) == before
    seen = entries(own)
    assert seen[b"usr/bin/tool"] == before[b"usr/bin/tool"]
    # The directories on the way are those of the layer below.
    for path in (b"usr", b"usr/bin"):
        assert seen[path] == before[path]


def test_owners_of_the_layer_below_are_kept(lower: Path, own: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(lower / "usr/bin/tool", 5, 6)
    os.chown(lower / "usr", 7, 8)
    extract(tar(hard_link(b"h", b"usr/bin/tool")), own, lower, single_id=False)
    assert [(os.stat(own / name).st_uid, os.stat(own / name).st_gid) for name in ("h", "usr")] == [
        (5, 6),
        (7, 8),
    ]
    # chown(2) clears set-id bits, so it must come first.
    os.chmod(lower / "usr/bin/tool", 0o4755)
    extract(tar(hard_link(b"h", b"usr/bin/tool")), own.with_name("again"), lower, single_id=False)
    assert os.stat(own.with_name("again") / "h").st_mode & 0o7777 == 0o4755


def test_links_and_fifos_of_the_layer_below_get_further_names_too(lower: Path, own: Path) -> None:
    extract(tar(hard_link(b"h", b"link"), hard_link(b"p", b"./pipe")), own, lower)
    assert os.readlink(own / "h") == "usr/bin/tool"
    for one, other in (("h", "link"), ("p", "pipe")):
        assert os.lstat(own / one).st_ino == os.lstat(own / other).st_ino
    assert os.stat(own / "p").st_mode & 0o7777 == 0o620
    assert os.stat(own / "p").st_mtime_ns == 7 * 10**9


def test_holes_of_the_layer_below_stay_holes(lower: Path, own: Path) -> None:
    with open(lower / "holes", "wb") as sparse:
        for offset in (1 << 20, 10 << 20):
            sparse.seek(offset)
            sparse.write(b"data" * 2000)
        sparse.truncate(30 << 20)
    report = extract(tar(hard_link(b"h", b"holes")), own, lower)
    assert (own / "h").read_bytes() == (lower / "holes").read_bytes()
    assert os.stat(own / "h").st_blocks == os.stat(lower / "holes").st_blocks
    assert report.data_bytes < 1 << 20


def test_a_link_that_names_an_earlier_member_needs_no_layer_below(lower: Path, own: Path) -> None:
    report = extract(tar(directory(b"usr/"), file(b"usr/f", b"x"), hard_link(b"h", b"usr/f")), own, lower)
    assert not report.used_below
    assert paths(own) == {"usr": "dir", "usr/f": "file", "h": "file"}


def test_a_member_of_the_same_archive_is_preferred_to_the_file_below(lower: Path, own: Path) -> None:
    extract(tar(file(b"usr/bin/tool", b"own"), hard_link(b"h", b"usr/bin/tool")), own, lower)
    assert (own / "h").read_bytes() == b"own"


def test_several_names_of_one_lower_file_stay_one_file(lower: Path, own: Path) -> None:
    data = tar(hard_link(b"a", b"usr/bin/tool"), hard_link(b"b", b"usr/bin/same"), hard_link(b"c", b"a"))
    report = extract(data, own, lower)
    assert {os.stat(own / name).st_ino for name in ("a", "b", "c", "usr/bin/tool", "usr/bin/same")} == {
        os.stat(own / "a").st_ino
    }
    assert report.data_bytes == 5000


def test_a_small_archive_cannot_copy_a_large_file_again_and_again(lower: Path, own: Path) -> None:
    again = [hard_link(b"h", b"usr/bin/tool"), header(b"usr/bin", flag=CHARACTER), directory(b"usr/bin")]
    message = refused(own, tar(*again, *again), lower)
    assert message == "a.tar: h: a hard link to a lower file whose copy usr/bin/tool was replaced"
    data = tar(again[0], file(b"usr/bin/tool"), hard_link(b"i", b"usr/bin/same"))
    message = refused(own.with_name("second"), data, lower)
    assert message == "a.tar: i: a hard link to a lower file whose copy usr/bin/tool was replaced"


def test_the_topmost_layer_that_has_the_target_counts(lower: Path, own: Path, tmp_path: Path) -> None:
    middle = tmp_path / "around" / "middle"
    make_tree(middle, {"usr/bin": {"tool": b"middle"}})
    extract(tar(hard_link(b"h", b"usr/bin/tool")), own, middle, lower)
    assert (own / "h").read_bytes() == b"middle"
    extract(tar(hard_link(b"h", b"usr/bin/same")), own.with_name("second"), middle, lower)
    assert (own.with_name("second") / "h").read_bytes() == b"lower" * 1000


HIDING: dict[str, Tree] = {
    "file": {"usr/bin": {".wh.tool": b""}},
    "directory": {"usr": {".wh.bin": b""}},
    "top": {".wh.usr": b""},
    "opaque": {"usr/bin": {".wh..wh..opq": b""}},
    "opaque above": {"usr": {".wh..wh..opq": b""}},
    "opaque root": {".wh..wh..opq": b""},
    "replaced": {".wh.usr": b"", "usr/bin/other": b""},
    "file on the way": {"usr": b""},
    "link on the way": {"usr": {"bin": Symlink(b"../real")}, "real/other": b""},
}


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("where", ["between", "own"])
def test_a_target_that_a_layer_above_hides_is_not_there(
    lower: Path, own: Path, tmp_path: Path, hiding: str, where: str
) -> None:
    between = tmp_path / "around" / "between"
    make_tree(own if where == "own" else between, HIDING[hiding])
    between.mkdir(exist_ok=True)
    message = refused(own, tar(hard_link(b"h", b"usr/bin/tool")), between, lower)
    assert message.startswith("a.tar: h: a hard link to usr/bin/tool, which is not an earlier member")
    assert not os.path.lexists(own / "h")


@pytest.mark.parametrize(
    "whiteout",
    [
        b"usr/bin/.wh.tool",
        b"usr/.wh.bin",
        b".wh.usr",
        b"usr/bin/.wh..wh..opq",
        b"usr/.wh..wh..opq",
        b".wh..wh..opq",
    ],
)
def test_a_whiteout_of_the_target_is_refused_after_the_link_as_before_it(
    lower: Path, own: Path, whiteout: bytes
) -> None:
    link = hard_link(b"h", b"usr/bin/tool")
    assert "a.tar: h: a hard link to usr/bin/tool" in refused(own, tar(file(whiteout), link), lower)
    message = refused(own.with_name("second"), tar(link, file(whiteout)), lower)
    assert message.startswith(f"a.tar: {whiteout.decode()}: it deletes ")


def test_a_whiteout_beside_the_target_is_no_obstacle(lower: Path, own: Path) -> None:
    data = tar(
        hard_link(b"h", b"usr/bin/tool"),
        file(b"usr/bin/.wh.same"),
        file(b"tmp/.wh..wh..opq"),
        file(b".wh.tmp"),
    )
    extract(data, own, lower)
    assert os.path.samefile(own / "h", own / "usr/bin/tool")


def test_a_target_that_the_archive_lists_later_may_be_deleted_below(lower: Path, own: Path) -> None:
    data = tar(hard_link(b"h", b"link"), file(b"link", b"own"), file(b".wh.link"))
    extract(data, own, lower)
    assert (own / "link").read_bytes() == b"own"
    assert os.readlink(own / "h") == "usr/bin/tool"


@pytest.mark.parametrize(
    "target", [b"to-dir/tool", b"link/x", b"usr/bin/missing", b"missing", b"usr/bin/tool/x"]
)
def test_links_of_the_layers_below_are_not_followed(lower: Path, own: Path, target: bytes) -> None:
    message = refused(own, tar(hard_link(b"h", target)), lower)
    assert (
        message
        == f"a.tar: h: a hard link to {target.decode()}, which is not an earlier member and in no layer below"
    )


def test_links_of_the_own_layer_do_not_lead_into_the_layers_below(lower: Path, own: Path) -> None:
    data = tar(symlink(b"l", b"usr/bin"), hard_link(b"h", b"l/tool"))
    assert "which is not an earlier member" in refused(own, data, lower)
    data = tar(symlink(b"l", b"usr/bin"), file(b"usr/bin/x"), hard_link(b"h", b"l/tool"))
    assert "which is not an earlier member" in refused(own.with_name("second"), data, lower)


def test_a_hard_link_to_a_directory_below_is_refused(lower: Path, own: Path) -> None:
    assert refused(own, tar(hard_link(b"h", b"usr/bin")), lower) == "a.tar: h: a hard link to a directory"


def test_a_link_cannot_lead_out_of_the_layers_below(lower: Path, own: Path, tmp_path: Path) -> None:
    make_tree(tmp_path / "around" / "secret", {"f": b"secret"})
    os.symlink(tmp_path / "around" / "secret", lower / "out")
    assert "is not an earlier member" in refused(own, tar(hard_link(b"h", b"out/f")), lower)
    assert "`..`" in refused(own, tar(hard_link(b"h", b"../secret/f")), lower)


def test_without_layers_below_such_a_link_is_refused(own: Path) -> None:
    message = refused(own, tar(hard_link(b"h", b"usr/bin/tool")))
    assert message == "a.tar: h: a hard link to usr/bin/tool, which is not an earlier member"


def test_a_link_that_replaces_the_directory_of_its_target_is_refused(lower: Path, own: Path) -> None:
    assert "a hard link" in refused(own, tar(hard_link(b"usr/bin", b"usr/bin/tool")), lower)


def test_a_directory_that_only_the_layer_below_lists_keeps_its_attributes(lower: Path, own: Path) -> None:
    report = extract(tar(file(b"tmp/f"), file(b"usr/bin/new")), own, lower)
    assert report.used_below
    seen, below = entries(own), entries(lower)
    for path in (b"tmp", b"usr", b"usr/bin"):
        assert seen[path] == below[path]


def test_a_directory_that_the_archive_lists_later_has_the_attributes_of_the_archive(
    lower: Path, own: Path
) -> None:
    extract(tar(file(b"usr/bin/new"), directory(b"usr/bin", mode=0o711, mtime=5)), own, lower)
    seen = entries(own)[b"usr/bin"]
    assert (seen.mode, seen.mtime_ns, seen.xattrs) == (0o711, 5 * 10**9, {})


def test_a_directory_in_the_place_of_a_deleted_one_has_nothing_of_it(lower: Path, own: Path) -> None:
    extract(tar(file(b".wh.tmp"), file(b"usr/.wh..wh..opq"), file(b"tmp/f"), file(b"usr/bin/f")), own, lower)
    assert [os.stat(own / name).st_mode & 0o7777 for name in ("tmp", "usr/bin")] == [0o755, 0o755]


def test_a_directory_in_the_place_of_a_lower_link_is_a_new_one(lower: Path, own: Path) -> None:
    extract(tar(file(b"to-dir/f")), own, lower)
    assert paths(own) == {"to-dir": "dir", "to-dir/f": "file"}
    assert os.stat(own / "to-dir").st_mode & 0o7777 == 0o755


def test_no_descriptor_stays_open(lower: Path, own: Path) -> None:
    before = os.listdir("/proc/self/fd")
    extract(tar(hard_link(b"h", b"usr/bin/tool"), file(b"tmp/f"), hard_link(b"p", b"pipe")), own, lower)
    refused(own.with_name("second"), tar(hard_link(b"h", b"usr")), lower)
    refused(own.with_name("third"), tar(hard_link(b"h", b"usr/none")), lower)
    assert os.listdir("/proc/self/fd") == before


def test_attributes_of_unlisted_directories_count_towards_their_limit(own: Path, tmp_path: Path) -> None:
    # ext4 stores attributes of 4 KiB. The archive's own almost reach the limit.
    many = tmp_path / "around" / "many"
    many.mkdir(parents=True)
    value = b"v" * 3000
    for number in range(40):
        os.mkdir(many / str(number))
        os.setxattr(many / str(number), "user.x", b"%05d" % number + value)
    records = [
        pax([(b"SCHILY.xattr.user.x", b"%d" % n + b"w" * 65000)]) + directory(b"d%d" % n) for n in range(515)
    ]
    message = refused(own, tar(*records, *(file(b"%d/f" % number) for number in range(40))), many)
    assert "the extended attributes of directories take more than 32 MiB" in message
