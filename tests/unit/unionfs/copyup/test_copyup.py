"""Copy-up: the properties that the copy keeps, when it is made, and how it is used afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import (
    Device,
    Dir,
    Fifo,
    File,
    HardLink,
    Node,
    Socket,
    Symlink,
    Tree,
    Whiteout,
    make_tree,
)
from unionfs.formats import acl
from unionfs.formats.whiteout import NO_MARKS, TRUSTED_MARKS
from unionfs.vfs.attributes import Change

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

LONG_AGO = 10**18 + 123_456_789
HOLE = 1 << 20


def _change(union: Union, path: str) -> None:
    """Make a change that requires a copy-up but changes nothing that the mount shows."""
    attributes = union.stat(path)
    union.fs.attributes.change(attributes.ino, Change(mtime_ns=attributes.mtime_ns), None)


TREE: dict[str, Node] = {
    "file": File(b"data", mode=0o4751, mtime_ns=LONG_AGO, xattrs={"user.one": b"1", "user.empty": b""}),
    "dir": Dir({"f": b""}, mode=0o1750, mtime_ns=LONG_AGO, xattrs={"user.one": b"1"}),
    "link": Symlink(target=b"nowhere", mtime_ns=LONG_AGO),
    "pipe": Fifo(mode=0o640, mtime_ns=LONG_AGO),
    "socket": Socket(mode=0o604, mtime_ns=LONG_AGO),
}


@pytest.mark.parametrize("name", TREE)
def test_a_copy_keeps_mode_times_attributes_and_number(make_union: MakeUnion, name: str) -> None:
    union = make_union(TREE)
    before, shown = union.show(ino=True), union.stat(name)
    accessed = (union.lowers[0] / name).lstat().st_atime_ns
    _change(union, name)
    assert union.inode(name).layer.writable
    assert (union.upper / name).lstat().st_atime_ns == accessed
    assert union.show(ino=True) == before
    assert union.stat(name).mtime_ns == LONG_AGO
    info = (union.upper / name).lstat()
    assert (info.st_mode, info.st_mtime_ns) == (shown.mode, LONG_AGO)
    union.reopen()
    assert union.show(ino=True) == before


@pytest.mark.root
def test_a_copy_keeps_owner_capabilities_and_set_id_bits(make_union: MakeUnion) -> None:
    capability = bytes.fromhex(
        "0100000200040000000000000000000000000000"
    )  # cap_net_bind_service, vfs_cap_data
    owned = File(b"", uid=12, gid=34, mode=0o755, xattrs={"security.capability": capability})
    large = File(b"", size=1 << 20, mode=0o6755, xattrs=owned.xattrs)  # its contents stay in the lower layer
    union = make_union(
        {
            "f": owned,
            "setid": File(b"", uid=12, gid=34, mode=0o6755),
            "null": Device(1, 3, uid=5),
            "large": large,
        }
    )
    for name in ("f", "setid", "null", "large"):
        _change(union, name)
    assert os.getxattr(union.upper / "large", "security.capability") == capability
    assert stat.S_IMODE((union.upper / "large").stat().st_mode) == 0o6755
    assert ((union.upper / "f").stat().st_uid, (union.upper / "f").stat().st_gid) == (12, 34)
    assert os.getxattr(union.upper / "f", "security.capability") == capability
    assert stat.S_IMODE((union.upper / "setid").stat().st_mode) == 0o6755
    assert (union.upper / "null").stat().st_rdev == os.makedev(1, 3)
    assert (union.upper / "null").stat().st_uid == 5


def test_a_copy_keeps_holes(make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    union = make_union({"f": b""})
    with (union.lowers[0] / "f").open("r+b") as file:
        file.seek(HOLE)
        file.write(b"middle")
        file.truncate(4 * HOLE)
    _deny_offload(monkeypatch)
    union.write("f", b"")
    copy = union.upper / "f"
    assert copy.read_bytes() == b"\0" * HOLE + b"middle" + b"\0" * (3 * HOLE - 6)
    assert copy.stat().st_blocks * 512 < HOLE


def _deny_offload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable FICLONE and copy_file_range, as between two file systems on an old kernel."""

    def refused(*_args: object, **_kwargs: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(fcntl, "ioctl", refused)
    monkeypatch.setattr(os, "copy_file_range", refused)


def test_a_copy_is_whole_where_the_file_system_knows_no_holes(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = make_union({"f": File(b"begin", size=3_000_000)})
    really_seek = os.lseek

    def seeking(fd: int, position: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return really_seek(fd, position, whence)

    monkeypatch.setattr(os, "lseek", seeking)
    _deny_offload(monkeypatch)
    union.write("f", b"")
    assert (union.upper / "f").read_bytes() == b"begin".ljust(3_000_000, b"\0")


def test_private_attributes_of_a_lower_object_are_neither_shown_nor_copied(make_union: MakeUnion) -> None:
    private = {"user.overlay.origin": b"x", "user.containers.override_stat": b"0:0:0755:file"}
    union = make_union({"f": File(b"", xattrs={**private, "user.own": b"1"}), "d": Dir(xattrs=private)})
    for name in ("f", "d"):
        union.setxattr(name, "user.new", b"2")
        assert private.keys().isdisjoint(os.listxattr(union.upper / name))
    assert union.fs.xattrs.list(union.inode("f").ino) == ["user.new", "user.own"]


def test_the_directories_on_the_way_are_copied_without_their_other_entries(make_union: MakeUnion) -> None:
    tree: Tree = {"a": Dir({"b": Dir({"f": b"1", "g": b"2"}, mode=0o711)}, mode=0o750, mtime_ns=LONG_AGO)}
    union = make_union(tree)
    union.write("a/b/f", b"x")
    assert sorted(path.name for path in union.upper.rglob("*")) == ["a", "b", "f"]
    assert stat.S_IMODE((union.upper / "a").stat().st_mode) == 0o750
    assert stat.S_IMODE((union.upper / "a" / "b").stat().st_mode) == 0o711
    assert (union.upper / "a").stat().st_mtime_ns == LONG_AGO
    assert union.names("a/b") == ["f", "g"]


def test_reading_copies_nothing_up(make_union: MakeUnion) -> None:
    union = make_union(TREE)
    union.show()
    union.fs.handles.close_file(union.open("file"))
    assert list(union.upper.iterdir()) == []
    assert union.parts.copy_up.copies == 0


def test_an_opening_that_truncates_copies_no_data(make_union: MakeUnion) -> None:
    union = make_union({"f": b"x" * 5000})
    union.fs.handles.close_file(union.open("f", os.O_WRONLY | os.O_TRUNC))
    assert union.parts.copy_up.bytes_copied == 0
    assert union.read("f") == b""


def test_truncating_to_nothing_copies_no_data_and_to_something_does(make_union: MakeUnion) -> None:
    union = make_union({"f": b"x" * 5000, "g": b"y" * 5000})
    union.truncate("f", 0)
    assert union.parts.copy_up.bytes_copied == 0
    union.truncate("g", 3)
    assert union.read("g") == b"yyy"


@pytest.mark.parametrize("first", ["chmod", "nothing"])
def test_what_is_written_to_a_copy_of_metadata_alone_goes_to_no_lower_layer(
    make_union: MakeUnion, first: str
) -> None:
    data = b"x" * 20_000
    below = make_union({"file": data})
    below.chmod("file", 0o600)
    assert (below.upper / "file").read_bytes() == bytes(len(data))
    union = make_union({}, {}, policy=TRUSTED_MARKS)
    union.lowers = [below.upper, *below.lowers]
    union.reopen()
    if first == "chmod":
        union.chmod("file", 0o640)
        assert union.read("file") == data
    union.write("file", b"changed")
    assert union.read("file") == b"changed" + data[7:]
    assert (below.lowers[0] / "file").read_bytes() == data
    union.reopen()
    assert union.read("file") == b"changed" + data[7:]


def test_a_reader_from_before_the_copy_up_sees_what_is_written_after(make_union: MakeUnion) -> None:
    union = make_union({"f": b"old"})
    reader = union.open("f")
    union.write("f", b"new")
    assert union.fs.files.read(reader, 0, 10) == b"new"
    assert union.lowers[0].joinpath("f").read_bytes() == b"old"


def test_a_file_that_is_open_but_unlinked_can_still_be_written_after_its_copy_up(
    make_union: MakeUnion,
) -> None:
    union = make_union({"f": b"old"})
    reader, inode = union.open("f"), union.file("f")
    inode.lookups += 1  # as the kernel, which has the file open
    union.unlink("f")
    union.fs.attributes.change(inode.ino, Change(size=2), None)
    assert union.fs.files.read(reader, 0, 10) == b"ol"
    assert union.fs.attributes.of(inode).nlink == 0
    assert union.leftovers() == []
    assert union.lowers[0].joinpath("f").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["link", "pipe", "socket"])
def test_special_files_are_copied_as_what_they_are(make_union: MakeUnion, name: str) -> None:
    union = make_union(TREE)
    union.link(name, "again")
    kind = stat.S_IFMT((union.lowers[0] / name).lstat().st_mode)
    assert stat.S_IFMT((union.upper / "again").lstat().st_mode) == kind
    assert union.stat("again").ino == union.stat(name).ino


def test_a_copy_of_a_device_0_0_would_be_a_whiteout_and_is_refused(make_union: MakeUnion) -> None:
    union = make_union({"null": Whiteout()}, policy=NO_MARKS)
    with pytest.raises(OSError) as caught:
        union.chmod("null", 0o600)
    assert caught.value.errno == errno.EPERM
    assert list(union.upper.iterdir()) == []


# -- hard links ----------------------------------------------------------------------------------------

LINKED: dict[str, Node] = {"a": b"old", "b": HardLink("a"), "d/c": HardLink("a")}


def test_all_names_of_a_file_see_its_copy(make_union: MakeUnion) -> None:
    union = make_union(LINKED)
    number = union.stat("a").ino
    union.write("a", b"new")
    for name in ("a", "b", "d/c"):
        assert union.read(name) == b"new"
        assert (union.stat(name).ino, union.stat(name).nlink) == (number, 3)


def test_a_copy_made_when_the_known_name_is_gone_is_the_copy_of_the_others(make_union: MakeUnion) -> None:
    union = make_union(LINKED)
    inode = union.file("a")
    inode.lookups += 1  # as the kernel, which has the file open
    union.unlink("a")
    union.fs.attributes.change(inode.ino, Change(size=2), None)
    for _ in range(2):
        for name in ("b", "d/c"):
            assert union.read(name) == b"ol"
            assert union.stat(name).nlink == 2
        assert union.leftovers() == []
        union.reopen()


def test_the_copy_of_a_file_without_names_goes_with_it(make_union: MakeUnion) -> None:
    union = make_union(LINKED)
    inode = union.file("a")
    inode.lookups += 1
    for name in LINKED:
        union.unlink(name)
    union.fs.attributes.change(inode.ino, Change(size=2), None)
    assert union.fs.attributes.of(inode).nlink == 0
    union.fs.inode_table.forget(inode.ino, 1)
    assert union.leftovers() == []
    assert [name for name in union.index() if not name.count("-")] == []


def test_all_names_of_a_copied_file_stay_together_over_a_remount(make_union: MakeUnion) -> None:
    union = make_union(LINKED)
    number = union.stat("a").ino
    union.write("b", b"new")
    union.reopen()
    for name in ("d/c", "a", "b"):
        assert union.read(name) == b"new"
        assert (union.stat(name).ino, union.stat(name).nlink) == (number, 3)


def test_the_link_count_follows_names_made_and_removed_before_and_after_copy_up(
    make_union: MakeUnion,
) -> None:
    union = make_union(LINKED)
    union.unlink("d/c")
    assert union.stat("a").nlink == 2
    union.reopen()
    assert union.stat("a").nlink == 2
    union.link("a", "e")
    assert union.stat("b").nlink == 3
    union.unlink("a")
    union.reopen()
    assert union.stat("e").nlink == 2
    union.write("b", b"new")
    assert union.read("e") == b"new"


def test_the_index_lets_go_of_a_copy_with_its_last_name(make_union: MakeUnion) -> None:
    union = make_union(LINKED)
    union.write("a", b"new")
    assert len(union.index()) == 1
    for name in ("a", "b", "d/c"):
        union.unlink(name)
    assert union.index() == []
    union.reopen()
    assert union.names() == ["d"]


def test_a_copy_whose_linked_names_are_all_gone_is_found_through_its_lower_names(
    make_union: MakeUnion,
) -> None:
    union = make_union(LINKED)
    union.write("a", b"new")
    union.unlink("a")
    union.reopen()
    assert union.read("b") == b"new"
    assert union.stat("b").nlink == 2


def test_a_copy_of_metadata_that_only_lower_names_lead_to_gets_its_contents(make_union: MakeUnion) -> None:
    data = b"x" * 20_000
    union = make_union({"a": data, "b": HardLink("a"), "c": HardLink("a")})
    union.chmod("a", 0o600)
    union.unlink("a")
    union.write("b", b"changed")
    for _ in range(2):
        assert union.read("b") == union.read("c") == b"changed" + data[7:]
        assert (union.stat("c").mode & 0o777, union.stat("c").nlink) == (0o600, 2)
        union.reopen()


def test_renaming_one_name_of_a_copied_file_keeps_the_others(make_union: MakeUnion) -> None:
    union = make_union(LINKED)
    union.write("a", b"new")
    union.rename("b", "moved")
    union.reopen()
    assert [union.read(name) for name in ("a", "moved", "d/c")] == [b"new"] * 3
    assert union.stat("moved").nlink == 3


def test_numbers_of_files_stay_when_the_kernel_forgets_them_in_between(make_union: MakeUnion) -> None:
    union = make_union({"f": b"", "d/g": b""})
    before = {name: union.stat(name).ino for name in ("f", "d", "d/g")}
    union.write("f", b"1")
    union.write("d/g", b"2")
    for number in before.values():
        union.fs.inode_table.forget(number, 0)
    assert {name: union.stat(name).ino for name in before} == before


def test_a_killed_copy_up_of_a_hard_link_leaves_no_entry_that_could_lose_data(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index entry of a copy has to be a hard link to it. Otherwise the data is lost with the last lower name."""
    union = make_union({"a": b"old", "b": HardLink("a")})
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "rename", lambda *_args, **_kwargs: os._exit(1))
        try:
            union.write("a", b"never")
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    union.reopen()
    assert (union.stat("a").nlink, union.read("a")) == (2, b"old")
    union.write("a", b"new")
    union.unlink("b")
    union.reopen()
    assert union.read("a") == b"new"


@pytest.mark.parametrize("listed", [False, True], ids=["without a list", "with a list"])
@pytest.mark.parametrize("after", [0, 0o444, 0o600, 0o4711, 0o2775])
@pytest.mark.parametrize("before", [0o400, 0o644, 0o4755])
def test_a_mode_that_copies_up_is_what_chmod_makes_of_it(
    make_union: MakeUnion, before: int, after: int, listed: bool
) -> None:
    # Entries of the ACL: the owner, user 0, the group, a mask, and all others.
    entries = (
        (1, before >> 6 & 7, (1 << 32) - 1), (2, 6, 0), (4, 5, (1 << 32) - 1), (16, 7, (1 << 32) - 1),
        (32, before & 7, (1 << 32) - 1),
    )  # fmt: skip
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    attributes = {"user.a": b"1", "user.z": b"2"}
    union = make_union(
        {name: File(b"data", mtime_ns=LONG_AGO, xattrs=attributes) for name in ("changed", "copied")}
    )
    paths = [union.lowers[0] / name for name in ("changed", "copied")]
    for path in paths:
        if listed:
            os.setxattr(path, acl.ACCESS, value)
        os.chmod(path, before)
    union.chmod("changed", after)
    os.chmod(paths[1], after)
    copy, plain = union.upper / "changed", paths[1]
    assert copy.stat().st_mode == plain.stat().st_mode
    assert union.stat("changed").mode == plain.stat().st_mode
    assert copy.stat().st_mtime_ns == LONG_AGO
    if listed:
        assert os.getxattr(copy, acl.ACCESS) == os.getxattr(plain, acl.ACCESS)
    assert stat.S_IMODE(paths[0].stat().st_mode) == before
    if os.access(copy, os.R_OK):
        assert {
            name: os.getxattr(copy, name) for name in os.listxattr(copy) if name in attributes
        } == attributes
    assert union.stat("changed").size == len(b"data")
    if os.access(copy, os.R_OK):
        assert copy.read_bytes() == b"data"


@pytest.mark.parametrize("change", ["truncate", "open", "chmod", "write"])
@pytest.mark.parametrize(
    "now", [Symlink(target=b"file"), Dir({}), Fifo(mode=0o777)], ids=["link", "directory", "FIFO"]
)
def test_what_has_become_something_else_below_is_not_copied_up(
    make_union: MakeUnion, now: Node, change: str
) -> None:
    union = make_union({"file": b"data", "other": b""})
    inode = union.file("file")
    inode.lookups += 1
    inode.info = None
    (union.lowers[0] / "file").unlink()
    make_tree(union.lowers[0], {"file": now})
    changes = {
        "truncate": lambda: union.fs.attributes.change(inode.ino, Change(size=0), None),
        "open": lambda: union.fs.files.open(inode.ino, os.O_WRONLY | os.O_TRUNC),
        "chmod": lambda: union.fs.attributes.change(inode.ino, Change(mode=0o600), None),
        "write": lambda: union.fs.files.open(inode.ino, os.O_RDWR),
    }
    with pytest.raises(OSError) as raised:
        changes[change]()
    # Opening a symbolic link or a directory as a file fails with other errors.
    assert raised.value.errno in (errno.ESTALE, errno.ELOOP, errno.EISDIR)
    assert not (union.upper / "file").is_file()
    assert union.leftovers() == []
