"""Owners as a mount shows them and as a layer stores them: maps, squashing, and rejected combinations."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import Dir, File
from unionfs.formats.override_stat import OVERRIDE_XATTR
from unionfs.layer.ownership import IdPolicy, IdRange, Ownership
from unionfs.upper.format import WantedFormat

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

OVERFLOW = 65534
#: 0 is shown as 100; 1000 to 1004 as 200 to 204.
RANGES = (IdRange(0, 100, 1), IdRange(1000, 200, 5))
MAPPED = IdPolicy(uids=RANGES, gids=RANGES)
SQUASHED = IdPolicy(squash_uid=7, squash_gid=8)


def override(uid: int, gid: int, mode: int = 0o644, kind: str = "file") -> dict[str, bytes]:
    return {OVERRIDE_XATTR: b"%d:%d:%04o:%s" % (uid, gid, mode, kind.encode())}


def upper_of(uid: int, gid: int) -> dict[str, File | Dir]:
    """Return an upper layer that stores owners in attributes, which any account can do."""
    return {
        "f": File(b"f", xattrs=override(uid, gid)),
        "d": Dir({}, mode=0o755, xattrs=override(uid, gid, 0o755, "dir")),
    }


@pytest.fixture
def mapped(make_union: MakeUnion) -> Union:
    union = make_union(upper=upper_of(1003, 0), form=WantedFormat(override_stat=True))
    union.more = {"ids": MAPPED}
    union.reopen()
    return union


def on_disk(union: Union, name: str) -> bytes:
    return os.getxattr(union.upper / name, OVERRIDE_XATTR)


def owner_of(union: Union, path: str) -> tuple[int, int]:
    shown = union.stat(path)
    return shown.uid, shown.gid


def test_owners_are_shown_as_the_map_says(mapped: Union) -> None:
    assert owner_of(mapped, "f") == (203, 100)


@pytest.mark.parametrize("uid", [1, 999, 1005, OVERFLOW])
def test_an_owner_outside_of_the_map_is_shown_as_nobody(make_union: MakeUnion, uid: int) -> None:
    union = make_union(upper=upper_of(uid, uid), form=WantedFormat(override_stat=True))
    union.more = {"ids": MAPPED}
    union.reopen()
    assert owner_of(union, "f") == (OVERFLOW, OVERFLOW)


def test_a_change_of_owner_goes_through_the_map_to_disk(mapped: Union) -> None:
    mapped.chown("f", 204, None)
    assert (on_disk(mapped, "f"), owner_of(mapped, "f")) == (b"1004:0:0644:file", (204, 100))
    mapped.chown("d", None, 201)
    assert on_disk(mapped, "d") == b"1003:1001:0755:dir"
    mapped.reopen()
    assert (owner_of(mapped, "f"), owner_of(mapped, "d")) == ((204, 100), (203, 201))


@pytest.mark.parametrize(("uid", "gid"), [(0, None), (None, 205), (200, 99)])
def test_an_owner_that_the_map_has_no_id_for_is_refused_and_nothing_changes(
    mapped: Union, uid: int | None, gid: int | None
) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EOVERFLOW)) as caught:
        mapped.chown("f", uid, gid)
    assert caught.value.errno == errno.EOVERFLOW
    assert on_disk(mapped, "f") == b"1003:0:0644:file"


def test_what_is_made_belongs_to_the_mapped_caller(mapped: Union) -> None:
    mapped.create("new", by=(202, 200))
    mapped.mkdir("newdir", by=(202, 200))
    mapped.mknod("pipe", stat.S_IFIFO | 0o644, by=(202, 200))
    mapped.symlink("link", "f", by=(202, 200))
    for name, value in (("new", "0644:file"), ("newdir", "0755:dir"), ("pipe", "0644:pipe")):
        assert on_disk(mapped, name) == b"1002:1000:" + value.encode()
    mapped.reopen()
    assert {owner_of(mapped, name) for name in ("new", "newdir", "pipe", "link")} == {(202, 200)}


def test_a_caller_that_the_map_has_no_id_for_makes_nothing(mapped: Union) -> None:
    before = mapped.names()
    with pytest.raises(OSError, match=os.strerror(errno.EOVERFLOW)):
        mapped.create("new", by=(50, 200))
    with pytest.raises(OSError, match=os.strerror(errno.EOVERFLOW)):
        mapped.mkdir("newdir", by=(200, 50))
    assert mapped.names() == before
    assert mapped.leftovers() == []


def test_in_a_set_group_id_directory_the_group_on_disk_is_inherited_whatever_the_map_shows(
    mapped: Union,
) -> None:
    mapped.chown("d", None, 203)
    mapped.chmod("d", 0o2775)
    mapped.create("d/new", by=(100, 100))
    assert owner_of(mapped, "d/new") == (100, 203)
    assert on_disk(mapped, "d/new") == b"0:1003:0644:file"


def test_everything_shows_as_the_squashed_owner_and_disk_keeps_its_own(make_union: MakeUnion) -> None:
    union = make_union(upper=upper_of(1003, 5), form=WantedFormat(override_stat=True))
    union.more = {"ids": SQUASHED}
    union.reopen()
    assert {owner_of(union, path) for path in ("", "f", "d")} == {(7, 8)}
    union.chmod("f", 0o600)
    assert on_disk(union, "f") == b"1003:5:0600:file"


@pytest.mark.root
def test_a_copy_keeps_the_owner_that_squashing_hides(make_union: MakeUnion) -> None:
    union = make_union({"f": File(b"f", uid=1003, gid=5), "d/f": b"f"})
    os.chown(union.lowers[0] / "d", 11, 12)
    union.more = {"ids": IdPolicy(squash_uid=0, squash_gid=0)}
    union.reopen()
    union.write("f", b"F")
    union.write("d/f", b"F")
    assert owner_of(union, "f") == (0, 0)
    for name, owner in (("f", (1003, 5)), ("d", (11, 12))):
        info = (union.upper / name).stat()
        assert (info.st_uid, info.st_gid) == owner


@pytest.mark.root
def test_a_copy_keeps_the_owner_on_disk_that_a_map_shows_as_another(make_union: MakeUnion) -> None:
    union = make_union({"f": File(b"f", uid=1003, gid=1000), "g": File(b"g", uid=77, gid=77)})
    union.more = {"ids": MAPPED}
    union.reopen()
    for name, shown, owner in (("f", (203, 200), (1003, 1000)), ("g", (OVERFLOW, OVERFLOW), (77, 77))):
        union.write(name, b"!")
        info = (union.upper / name).stat()
        assert (owner_of(union, name), (info.st_uid, info.st_gid)) == (shown, owner)


def test_one_of_user_and_group_can_be_squashed_alone() -> None:
    info = os.stat_result((stat.S_IFREG, 1, 1, 1, 30, 40, 0, 0, 0, 0))

    class Plain:
        squash = False

    assert Ownership(IdPolicy(squash_gid=0)).visible(info, Plain()) == (30, 0, stat.S_IFREG)  # type: ignore[arg-type]


@pytest.mark.parametrize("static", [False, True])
def test_link_counts_of_directories_can_be_kept_at_one(make_union: MakeUnion, static: bool) -> None:
    union = make_union(upper={"d/one": {}, "d/two": {}, "f": b"f"})
    union.more = {"static_nlink": static}
    union.reopen()
    union.link("f", "g")
    disk = (union.upper / "d").stat().st_nlink
    assert (union.stat("d").nlink, union.stat("f").nlink) == (1 if static else disk, 2)


@pytest.mark.parametrize("volatile", [False, True])
def test_a_volatile_mount_syncs_nothing_and_is_otherwise_the_same(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch, volatile: bool
) -> None:
    union = make_union({"f": b"lower", "large": b"x" * 20_000})
    union.more = {"volatile": volatile}
    union.reopen()
    synced: list[str] = []
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, lambda *_args, name=name: synced.append(name))
    number = union.open("f", os.O_RDWR)
    union.fs.files.write(number, 0, b"UPPER")
    union.fs.files.fsync(number, data_only=False)
    union.fs.files.fsync(number, data_only=True)
    union.fs.handles.close_file(number)
    union.chmod("large", 0o600)
    union.write("large", b"X")
    number = union.fs.directories.open(union.inode("").ino)
    union.fs.directories.fsync(number)
    union.fs.handles.close_directory(number)
    # Each copy of contents comes before the requested change.
    assert synced == ([] if volatile else ["fdatasync", "fsync", "fdatasync", "fdatasync", "fsync"])
    union.reopen()
    assert (union.read("f"), union.read("large")[:2]) == (b"UPPER", b"Xx")


def test_where_no_lock_can_be_had_the_mount_works_without(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("unionfs.upper.workdir.fcntl.flock", no_locks)
    union = make_union({"f": b"lower"})
    union.write("f", b"UPPER")
    union.reopen()
    assert union.read("f") == b"UPPER"
