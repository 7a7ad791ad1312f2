"""The file system by the requests of the kernel, without a mount: numbers, handles, streams, attributes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

import pytest

from tests.support.tree import Dir, File, HardLink, Opaque, Symlink, Whiteout, make_tree
from tests.unit.unionfs.support import Union, owner
from unionfs.formats.whiteout import NO_MARKS
from unionfs.layer.directory import OVERFLOW_ID
from unionfs.layer.ownership import Ownership
from unionfs.types import ROOT_INO
from unionfs.upper.format import WantedFormat
from unionfs.vfs.attributes import Change

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.unionfs.conftest import MakeUnion

P = ParamSpec("P")


def number_of(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> int | None:
    """Return the errno with which *call* fails."""
    with pytest.raises(OSError) as caught:
        call(*args, **kwargs)
    return caught.value.errno


# -- the union -----------------------------------------------------------------------------------------


def test_names_come_from_all_layers_and_contents_from_the_topmost(make_union: MakeUnion) -> None:
    union = make_union(
        {"both": b"middle", "d/m": b""}, {"both": b"bottom", "d/b": b"", "only": b"1"}, upper={"d/u": b""}
    )
    assert union.names() == ["both", "d", "only"]
    assert union.names("d") == ["b", "m", "u"]
    assert union.read("both") == b"middle"


def test_whiteouts_and_opaque_directories_of_lower_layers_hide(make_union: MakeUnion) -> None:
    union = make_union({"gone": Whiteout(), "d": Opaque({"new": b""})}, {"gone": b"", "d/old": b""})
    assert union.names() == ["d"]
    assert union.names("d") == ["new"]


def test_an_opaque_root_hides_everything_below_it(make_union: MakeUnion) -> None:
    union = make_union({".wh..wh..opq": b"", "a": b""}, {"b": b""})
    assert union.names() == ["a"]


def test_a_layer_without_marks_shows_them_as_names(make_union: MakeUnion) -> None:
    union = make_union({".wh.a": b""}, {"a": b""}, upper=None, policy=NO_MARKS)
    assert union.names() == [".wh.a", "a"]


def test_a_file_and_a_directory_of_one_name_do_not_merge(make_union: MakeUnion) -> None:
    union = make_union({"a": b"", "b/new": b""}, {"a/old": b"", "b": b""})
    assert stat.S_ISREG(union.stat("a").mode)
    assert union.names("b") == ["new"]


def test_a_merged_directory_has_one_link_and_others_what_they_have(make_union: MakeUnion) -> None:
    union = make_union({"merged": {}, "single/a": {}}, {"merged": {}})
    assert union.stat("merged").nlink == 1
    assert union.stat("single").nlink == os.stat(union.lowers[0] / "single").st_nlink


def test_two_names_of_one_file_are_one_node(make_union: MakeUnion) -> None:
    union = make_union({"a": b"", "b": HardLink("a")})
    assert union.inode("a") is union.inode("b")


def test_a_name_too_long_for_any_layer_says_so(make_union: MakeUnion) -> None:
    union = make_union()
    assert number_of(union.inode, "n" * 256) == errno.ENAMETOOLONG
    assert number_of(union.create, "n" * 256) == errno.ENAMETOOLONG


def test_a_name_need_not_be_text(make_union: MakeUnion) -> None:
    name = os.fsdecode(b"\xff\xfe\n")
    union = make_union({name: b"1"})
    union.rename(name, name * 2)
    assert union.names() == [name * 2]


# -- read-only unions ----------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Union], object]] = {
    "create": lambda union: union.create("new"),
    "mkdir": lambda union: union.mkdir("new"),
    "unlink": lambda union: union.unlink("f"),
    "rmdir": lambda union: union.rmdir("d"),
    "rename": lambda union: union.rename("f", "g"),
    "link": lambda union: union.link("f", "g"),
    "chmod": lambda union: union.chmod("f", 0o600),
    "chmod of a directory": lambda union: union.chmod("d", 0o700),
    "setxattr": lambda union: union.setxattr("f", "user.a", b""),
    "open for writing": lambda union: union.open("f", os.O_RDWR),
    "truncating open": lambda union: union.open("f", os.O_RDONLY | os.O_TRUNC),
}


@pytest.mark.parametrize("name", CHANGES)
def test_without_a_writable_layer_every_change_is_refused(make_union: MakeUnion, name: str) -> None:
    union = make_union({"f": b"", "d": {}}, upper=None)
    before = union.show()
    assert number_of(lambda: CHANGES[name](union)) == errno.EROFS
    assert union.show() == before


# -- numbers and lookup counts -------------------------------------------------------------------------


def test_a_number_that_was_never_told_or_is_forgotten_is_stale(make_union: MakeUnion) -> None:
    union = make_union({"f": b""})
    assert number_of(union.fs.inode_table.inode, 12345) == errno.ESTALE
    inode = union.inode("f")
    inode.lookups = 2
    union.fs.inode_table.forget(inode.ino, 1)
    assert union.fs.inode_table.inode(inode.ino) is inode
    union.fs.inode_table.forget(inode.ino, 1)
    assert number_of(union.fs.inode_table.inode, inode.ino) == errno.ESTALE
    union.fs.inode_table.forget(inode.ino, 1)  # one more FORGET is not an error, because FORGET has no reply


def test_forgetting_everything_leaves_the_root_only(make_union: MakeUnion) -> None:
    union = make_union({"a/b/c/f": b"", "a/b/g": b"", "h": b""})
    inodes = [union.inode(path) for path in ("a", "a/b", "a/b/c", "a/b/c/f", "a/b/g", "h")]
    for inode in inodes:
        inode.lookups += 1
    for inode in inodes:
        union.fs.inode_table.forget(inode.ino, 1)
    assert len(union.fs.inode_table) == 1
    assert union.fs.inode_table.inode(ROOT_INO) is union.fs.inode_table.root


def test_a_directory_that_holds_two_names_of_a_file_is_forgotten_with_it(make_union: MakeUnion) -> None:
    union = make_union({"a/b/f": b"", "a/b/g": HardLink("a/b/f"), "h": HardLink("a/b/f")})
    file = union.inode("h")
    assert union.inode("a/b/f") is union.inode("a/b/g") is file
    file.lookups = 1
    union.fs.inode_table.forget(file.ino, 1)
    assert len(union.fs.inode_table) == 1


def test_a_directory_stays_known_as_long_as_something_in_it_is(make_union: MakeUnion) -> None:
    union = make_union({"a/b/f": b""})
    file, directory = union.inode("a/b/f"), union.inode("a/b")
    file.lookups = directory.lookups = 1
    union.fs.inode_table.forget(directory.ino, 1)
    assert union.fs.inode_table.inode(directory.ino) is directory
    union.fs.inode_table.forget(file.ino, 1)
    assert len(union.fs.inode_table) == 1


def test_the_number_of_an_unlinked_file_is_not_given_away_while_it_is_known(make_union: MakeUnion) -> None:
    union = make_union()
    union.create("a")
    inode = union.file("a")
    inode.lookups = 1
    union.unlink("a")
    for number in range(20):
        union.create(f"new{number}")
    others = {union.stat(f"new{number}").ino for number in range(20)}
    assert inode.ino not in others
    assert union.fs.attributes.of(inode).nlink == 0


def test_objects_of_the_wrong_type_are_refused(make_union: MakeUnion) -> None:
    union = make_union({"f": b"", "d": {}})
    assert number_of(union.fs.inode_table.directory, union.stat("f").ino) == errno.ENOTDIR
    assert number_of(union.fs.inode_table.file, union.stat("d").ino) == errno.EISDIR
    assert number_of(union.truncate, "d", 0) == errno.EISDIR


def test_a_removed_directory_can_be_asked_but_not_filled(make_union: MakeUnion) -> None:
    union = make_union({"d": {}}, upper={"e": {}})
    for name in ("d", "e"):
        directory = union.directory(name)
        directory.lookups = 1
        stream = union.fs.directories.open(directory.ino)
        union.rmdir(name)
        assert union.fs.attributes.of(directory).nlink == 0
        assert [entry for entry, _, _ in union.fs.directories.entries(stream, 0)] == [b".", b".."]
        making = number_of(union.fs.names.mkdir, directory, b"x", 0o755, owner())
        assert making == errno.ENOENT
        union.fs.handles.close_directory(stream)
        union.fs.inode_table.forget(directory.ino, 1)


# -- handles and streams -------------------------------------------------------------------------------


def test_a_handle_that_is_not_open_is_a_bad_descriptor(make_union: MakeUnion) -> None:
    union = make_union({"f": b""})
    number = union.open("f")
    union.fs.handles.close_file(number)
    assert number_of(union.fs.files.read, number, 0, 1) == errno.EBADF
    assert number_of(union.fs.handles.close_file, number) == errno.EBADF
    assert number_of(union.fs.directories.entries, number, 0) == errno.EBADF


def test_each_handle_has_the_access_that_it_was_opened_with(make_union: MakeUnion) -> None:
    union = make_union({"f": b"data"})
    reader, writer = union.open("f"), union.open("f", os.O_WRONLY)
    assert number_of(union.fs.files.write, reader, 0, b"x") == errno.EBADF
    assert number_of(union.fs.files.read, writer, 0, 1) == errno.EBADF
    assert union.fs.files.read(reader, 2, 100) == b"ta"


def test_a_stream_is_read_on_from_any_offset_while_the_directory_changes(make_union: MakeUnion) -> None:
    union = make_union({f"n{number}": b"" for number in range(6)})
    stream = union.fs.directories.open(ROOT_INO)
    everything = list(union.fs.directories.entries(stream, 0))
    assert [name for name, _, _ in everything[:2]] == [b".", b".."]
    _, _, offset = everything[4]
    rest = [name for name, _, _ in everything[5:]]
    union.unlink(os.fsdecode(everything[2][0]))
    union.create("later")
    assert [name for name, _, _ in union.fs.directories.entries(stream, offset)] == rest
    union.unlink(os.fsdecode(rest[0]))
    assert [name for name, _, _ in union.fs.directories.entries(stream, offset)] == rest[1:]
    rewound = [name for name, _, _ in union.fs.directories.entries(stream, 0)]
    assert b"later" in rewound
    assert rest[0] not in rewound


def test_entries_of_a_stream_have_the_numbers_that_lookups_give(make_union: MakeUnion) -> None:
    union = make_union({"f": b"", "d": {}, "l": Symlink(target=b"f")}, upper={"u": b"", "d": {}})
    stream = union.fs.directories.open(ROOT_INO)
    found = {
        os.fsdecode(name): inode.ino
        for name, inode, after in union.fs.directories.entries(stream, 0)
        if after > 2
    }
    assert found == {name: union.stat(name).ino for name in ("f", "d", "l", "u")}


def test_a_write_that_ends_early_says_how_much_was_written(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = make_union(upper={"f": b""})
    number = union.open("f", os.O_RDWR)
    really_write, room = os.pwrite, [3, 2]

    def short(fd: int, data: bytes, offset: int) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really_write(fd, data[: room.pop(0)], offset)

    monkeypatch.setattr(os, "pwrite", short)
    assert union.fs.files.write(number, 1, b"abcdefgh") == 5
    assert number_of(union.fs.files.write, number, 6, b"x") == errno.ENOSPC
    assert union.fs.files.read(number, 0, 100) == b"\0abcde"


def test_syncing_reaches_the_disk_unless_there_is_nothing_to_sync(make_union: MakeUnion) -> None:
    union = make_union({"d": {}}, upper={"f": b"", "e": {}})
    number = union.open("f", os.O_RDWR)
    union.fs.files.fsync(number, data_only=False)
    union.fs.files.fsync(number, data_only=True)
    for name in ("d", "e"):
        stream = union.fs.directories.open(union.stat(name).ino)
        union.fs.directories.fsync(stream)
    assert union.fs.statfs().f_namemax == 255


# -- attributes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
@pytest.mark.parametrize("change", ["write", "truncate", "truncating open"])
def test_changing_contents_clears_set_id_bits(make_union: MakeUnion, mode: int, change: str) -> None:
    union = make_union({"f": File(b"data", mode=mode)})
    if change == "write":
        union.write("f", b"x")
    elif change == "truncate":
        union.truncate("f", 1)
    else:
        union.fs.handles.close_file(union.open("f", os.O_WRONLY | os.O_TRUNC))
    assert stat.S_IMODE(union.stat("f").mode) == mode & 0o777
    assert stat.S_IMODE((union.upper / "f").stat().st_mode) == mode & 0o777


def test_a_set_group_id_bit_without_execution_is_no_privilege_and_stays(make_union: MakeUnion) -> None:
    union = make_union(upper={"f": File(b"data", mode=0o2644)})
    union.write("f", b"x")
    assert stat.S_IMODE(union.stat("f").mode) == 0o2644


@pytest.mark.root
def test_writing_takes_file_capabilities_away(make_union: MakeUnion) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    union = make_union({"f": File(b"", xattrs={"security.capability": capability})})
    assert union.fs.xattrs.list(union.inode("f").ino) == ["security.capability"]
    union.write("f", b"x")
    assert union.fs.xattrs.list(union.inode("f").ino) == []


def test_each_attribute_is_changed_alone(make_union: MakeUnion) -> None:
    union = make_union({"f": File(b"data", mode=0o644, mtime_ns=10**18)})
    inode = union.inode("f")
    before = union.stat("f")
    union.fs.attributes.change(inode.ino, Change(atime_ns=5), None)
    assert (union.stat("f").atime_ns, union.stat("f").mtime_ns) == (5, before.mtime_ns)
    union.fs.attributes.change(inode.ino, Change(mode=0o7600), None)
    assert (stat.S_IMODE(union.stat("f").mode), union.stat("f").mtime_ns) == (0o7600, before.mtime_ns)
    union.fs.attributes.change(inode.ino, Change(uid=owner()[0], gid=owner()[1]), None)
    assert (union.stat("f").uid, union.stat("f").gid) == owner()
    assert union.read("f") == b"data"


def test_setting_the_size_changes_the_modification_time_as_in_a_plain_directory(
    make_union: MakeUnion, tmp_path: Path
) -> None:
    sizes = {"same": 4, "empty": 0, "short": 1, "long": 9, "empty before": 0}
    tree = {name: File(b"" if name == "empty before" else b"data", mtime_ns=10**18) for name in sizes}
    union = make_union(tree)
    make_tree(tmp_path / "plain", tree)

    def unchanged(name: str) -> bool:
        """Set the size of both files. Return whether that kept the time. File systems differ for an equal size."""
        plain = tmp_path / "plain" / name
        os.truncate(plain, sizes[name])
        union.truncate(name, sizes[name])
        times = {plain.stat().st_mtime_ns == 10**18, union.stat(name).mtime_ns == 10**18}
        assert len(times) == 1, name
        return times.pop()

    assert not any(unchanged(name) for name in ("empty", "short", "long"))
    unchanged("empty before")
    for name in sizes:
        os.utime(tmp_path / "plain" / name, ns=(10**18, 10**18))
        union.fs.attributes.change(union.inode(name).ino, Change(mtime_ns=10**18), None)
        unchanged(name)


def test_a_link_has_times_and_no_mode_to_change(make_union: MakeUnion) -> None:
    union = make_union({"l": Symlink(target=b"absent")})
    union.fs.attributes.change(union.inode("l").ino, Change(mtime_ns=7), None)
    assert union.stat("l").mtime_ns == 7
    assert number_of(union.chmod, "l", 0o600) == errno.EOPNOTSUPP
    assert union.fs.files.readlink(union.inode("l").ino) == b"absent"


def test_the_marks_of_a_layer_are_hidden_and_out_of_reach(make_union: MakeUnion) -> None:
    union = make_union({"d": Opaque(xattrs={"user.mine": b"1"})})
    ino = union.inode("d").ino
    assert union.fs.xattrs.list(ino) == ["user.mine"]
    for name in ("user.overlay.opaque", "user.unionfs.origin", "trusted.overlay.redirect"):
        assert number_of(union.fs.xattrs.get, ino, name) == errno.ENODATA
        assert number_of(union.fs.xattrs.remove, ino, name) == errno.ENODATA
    assert list(union.upper.iterdir()) == []


def test_an_attribute_named_like_a_mark_is_an_ordinary_one_to_those_who_set_it(make_union: MakeUnion) -> None:
    union = make_union({"d": {"f": b""}})
    ino = union.inode("d").ino
    for name in ("user.overlay.opaque", "user.unionfs.origin", "user.containers.override_stat"):
        union.setxattr("d", name, b"y")
        assert union.fs.xattrs.get(ino, name) == b"y"
    union.reopen()
    assert union.names("d") == ["f"]
    ino = union.inode("d").ino
    assert union.fs.xattrs.list(ino) == [
        "user.containers.override_stat",
        "user.overlay.opaque",
        "user.unionfs.origin",
    ]
    union.fs.xattrs.remove(ino, "user.overlay.opaque")
    assert number_of(union.fs.xattrs.get, ino, "user.overlay.opaque") == errno.ENODATA


def test_attributes_are_set_read_and_removed_on_files_and_directories(make_union: MakeUnion) -> None:
    union = make_union({"f": b"", "d": Dir(xattrs={"user.old": b"1"})})
    for name in ("f", "d"):
        ino = union.inode(name).ino
        union.setxattr(name, "user.a", b"value")
        assert union.fs.xattrs.get(ino, "user.a") == b"value"
        union.fs.xattrs.remove(ino, "user.a")
        assert number_of(union.fs.xattrs.get, ino, "user.a") == errno.ENODATA
    assert os.listxattr(union.lowers[0] / "d") == ["user.old"]
    assert union.fs.xattrs.list(union.inode("d").ino) == ["user.old"]


def test_removing_an_attribute_that_is_not_there_copies_nothing_up(make_union: MakeUnion) -> None:
    union = make_union({"f": b""})
    assert number_of(union.fs.xattrs.remove, union.inode("f").ino, "user.a") == errno.ENODATA
    assert list(union.upper.iterdir()) == []


def test_where_owners_are_kept_in_attributes_those_of_security_are_the_unions_own(
    make_union: MakeUnion,
) -> None:
    union = make_union({}, form=WantedFormat(override_stat=True))
    union.create("f", mode=0o755)
    for take_away in (
        lambda: union.write("f", b"x"),
        lambda: union.fs.attributes.change(union.inode("f").ino, Change(uid=owner()[0]), None),
    ):
        union.setxattr("f", "security.capability", b"any value")
        assert union.fs.xattrs.list(union.inode("f").ino) == ["security.capability"]
        union.reopen()
        assert union.fs.xattrs.get(union.inode("f").ino, "security.capability") == b"any value"
        assert "security.capability" not in os.listxattr(union.upper / "f")
        take_away()
        assert union.fs.xattrs.list(union.inode("f").ino) == []
    union.setxattr("f", "security.other", b"x")
    union.fs.xattrs.remove(union.inode("f").ino, "security.other")
    assert union.fs.xattrs.list(union.inode("f").ino) == []


@pytest.mark.root
def test_where_owners_are_kept_in_attributes_a_copy_has_its_capabilities_there(make_union: MakeUnion) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    lower = {"f": File(b"", xattrs={"security.capability": capability})}
    # An attribute that only the disk has was not set through the mount.
    upper = {"g": File(b"", xattrs={"security.capability": capability})}
    union = make_union(lower, upper=upper, form=WantedFormat(override_stat=True))
    assert union.fs.xattrs.list(union.inode("g").ino) == []
    for _ in range(2):
        assert union.fs.xattrs.list(union.inode("f").ino) == ["security.capability"]
        assert union.fs.xattrs.get(union.inode("f").ino, "security.capability") == capability
        union.chmod("f", 0o711)
    assert "security.capability" not in os.listxattr(union.upper / "f")


def test_ids_that_are_not_mapped_show_as_root_without_set_id_bits_in_squashed_layers_only(
    make_union: MakeUnion,
) -> None:
    union = make_union({"f": b""})
    layer = union.inode("f").layer
    values = list(os.stat(union.lowers[0] / "f"))
    values[0], values[4], values[5] = stat.S_IFREG | 0o6755, OVERFLOW_ID, OVERFLOW_ID
    info = os.stat_result(values)
    assert Ownership().visible(info, layer) == (OVERFLOW_ID, OVERFLOW_ID, stat.S_IFREG | 0o6755)
    layer.squash = True
    assert Ownership().visible(info, layer) == (0, 0, stat.S_IFREG | 0o755)
    values[0], values[4] = stat.S_IFDIR | 0o2755, 7
    assert Ownership().visible(os.stat_result(values), layer) == (7, 0, stat.S_IFDIR | 0o2755)
