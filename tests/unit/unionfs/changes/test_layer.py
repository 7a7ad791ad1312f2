"""Layers: unpacked by GNU tar over a copy of the tree below, they give what the union shows."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import Socket
from tests.unit.unionfs.changes.archives import LOWER, listed, names, written, xattrs_of
from tests.unit.unionfs.operations import FORMS
from unionfs.errors import UnionError
from unionfs.formats.whiteout import NO_MARKS

if TYPE_CHECKING:
    from tests.unit.unionfs.changes.conftest import Layer
    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union
    from unionfs.upper.format import WantedFormat

ROOT = os.geteuid() == 0

# -- layers --------------------------------------------------------------------------------------------


def test_a_union_without_changes_has_an_empty_layer(union: Union, layer: Layer) -> None:
    assert layer(union) == {}


def test_a_new_tree_is_whole(union: Union, layer: Layer) -> None:
    union.mkdir("new", 0o750)
    union.create("new/file", b"new", 0o4711 if ROOT else 0o711)
    union.utime("new/file", -5)
    union.symlink("new/link", "nowhere")
    union.mknod("new/fifo", stat.S_IFIFO | 0o620)
    union.setxattr("new", "user.of", b"the directory\n\0=")
    assert names(layer(union)) == ["new", "new/fifo", "new/file", "new/link"]


def test_a_copy_of_metadata_alone_is_whole(union: Union, layer: Layer) -> None:
    union.chmod("big", 0o640)
    assert not (union.upper / "big").read_bytes().startswith(b"x"), "the copy has contents"
    members = layer(union)
    assert names(members) == ["big"]
    assert (members[b"big"].size, xattrs_of(members[b"big"])) == (40_000, {"user.color": b"blue"})


def test_a_copy_of_metadata_that_moved_is_whole(union: Union, layer: Layer) -> None:
    union.chmod("big", 0o640)
    union.mkdir("new")
    union.rename("big", "new/other")
    union.link("new/other", "d/again")
    members = layer(union)
    assert names(members) == [".wh.big", "d", "d/again", "new", "new/other"]
    assert members[b"new/other"].linkname == "d/again"


def test_a_deleted_name_has_a_whiteout(union: Union, layer: Layer) -> None:
    union.unlink("a")
    union.unlink("d/b")
    assert names(layer(union)) == [".wh.a", "d", "d/.wh.b"]


def test_a_deleted_directory_has_one_whiteout(union: Union, layer: Layer) -> None:
    for path in ("e/a", "e/in/b"):
        union.unlink(path)
    union.rmdir("e/in")
    union.rmdir("e")
    assert names(layer(union)) == [".wh.e"]


def test_a_moved_directory_is_whole_at_its_new_place_and_deleted_at_the_old(
    union: Union, layer: Layer
) -> None:
    union.rename("d", "moved")
    assert names(layer(union)) == [
        ".wh.d",
        "moved",
        "moved/a",
        "moved/b",
        "moved/link",
        "moved/sub",
        "moved/sub/deep",
        "moved/sub/deep/x",
    ]


def test_a_change_inside_of_a_moved_directory_is_in_its_new_place(union: Union, layer: Layer) -> None:
    union.rename("d", "moved")
    union.unlink("moved/a")
    union.write("moved/sub/deep/x", b"changed")
    union.rename("moved/sub", "sub")
    assert names(layer(union)) == [
        ".wh.d",
        "moved",
        "moved/b",
        "moved/link",
        "sub",
        "sub/deep",
        "sub/deep/x",
    ]


def test_a_directory_that_moved_over_another_hides_it(union: Union, layer: Layer) -> None:
    for path in ("e/a", "e/in/b"):
        union.unlink(path)
    union.rmdir("e/in")
    union.rename("d", "e")
    members = names(layer(union))
    assert members[:4] == [".wh.d", "e", "e/.wh..wh..opq", "e/a"]


def test_a_directory_that_moved_there_and_back_has_no_deletions(union: Union, layer: Layer) -> None:
    union.rename("d", "moved")
    union.rename("moved", "d")
    assert ".wh.d" not in names(layer(union))


def test_a_directory_that_was_made_again_hides_the_old_one(union: Union, layer: Layer) -> None:
    for path in ("e/a", "e/in/b"):
        union.unlink(path)
    union.rmdir("e/in")
    union.rmdir("e")
    union.mkdir("e")
    union.mkdir("e/in")
    union.create("e/new", b"new")
    assert names(layer(union)) == ["e", "e/.wh..wh..opq", "e/in", "e/new"]


def test_a_directory_in_place_of_a_file_and_the_reverse_need_no_whiteout(union: Union, layer: Layer) -> None:
    union.unlink("a")
    union.mkdir("a")
    union.create("a/in", b"in")
    for path in ("e/a", "e/in/b"):
        union.unlink(path)
    union.rmdir("e/in")
    union.rmdir("e")
    union.symlink("e", "d")
    assert names(layer(union)) == ["a", "a/in", "e"]


def test_every_name_of_a_changed_hard_link_is_in_the_layer(union: Union, layer: Layer) -> None:
    """Two of them are in the link index only."""
    union.write("h2", b"THREE")
    assert [path.name for path in union.upper.iterdir()] == ["h2"]
    members = layer(union)
    assert names(members) == ["h1", "h2", "hd/h3"]
    assert members[b"h1"].isreg()
    assert [members[path].linkname for path in (b"h2", b"hd/h3")] == ["h1", "h1"]


def test_a_changed_file_may_have_no_name_in_the_writable_layer(union: Union, layer: Layer) -> None:
    union.write("h1", b"THREE")
    union.unlink("h1")
    members = layer(union)
    assert names(members) == [".wh.h1", "h2", "hd/h3"]
    assert members[b"hd/h3"].linkname == "h2"


def test_names_of_hard_links_come_while_their_directory_is_written(union: Union, layer: Layer) -> None:
    """Programs that unpack set the mode and the times of a directory when they leave it."""
    union.write("h1", b"THREE")
    union.create("hd/zzz", b"")
    assert names(layer(union)) == ["h1", "h2", "hd", "hd/h3", "hd/zzz"]


def test_a_name_that_a_hard_link_lost_or_got_is_a_change(union: Union, layer: Layer) -> None:
    union.link("hd/h3", "h4")
    union.unlink("h1")
    assert names(layer(union)) == [".wh.h1", "h2", "h4", "hd", "hd/h3"]


def test_a_file_that_is_no_link_any_more_is_separate(union: Union, layer: Layer) -> None:
    mtime = union.stat("h1").mtime_ns
    union.unlink("h2")
    union.create("h2", b"three names")
    union.utime("h2", mtime)
    assert b"h2" in layer(union)


def test_hard_links_in_a_moved_directory_are_links(union: Union, layer: Layer) -> None:
    union.write("h1", b"THREE")
    union.rename("hd", "moved")
    members = layer(union)
    assert names(members) == ["h1", "h2", ".wh.hd", "moved", "moved/h3"]
    assert members[b"moved/h3"].linkname == "h1"


def test_hard_links_into_a_moved_directory_are_links(union: Union, layer: Layer) -> None:
    union.rename("hd", "moved")
    members = layer(union)
    assert names(members) == [".wh.hd", "moved", "moved/h3", "h1", "h2"]
    assert [members[path].linkname for path in (b"h1", b"h2")] == ["moved/h3"] * 2


def test_hard_links_of_symbolic_links_and_fifos_are_links(union: Union, layer: Layer) -> None:
    union.link("s", "d/s")
    union.link("p", "d/p")
    members = layer(union)
    assert {path for path, info in members.items() if info.islnk()} == {b"p", b"s"}


def test_an_unchanged_copy_is_left_out(union: Union, layer: Layer) -> None:
    union.fs.handles.close_file(union.open("a", os.O_RDWR))
    union.setxattr("big", "user.color", b"blue")
    assert {"a", "big"} <= set(os.listdir(union.upper))
    assert layer(union) == {}


def test_sockets_are_left_out(make_union: MakeUnion, form: WantedFormat, layer: Layer) -> None:
    union = make_union({**LOWER, "sock": Socket()}, form=form)
    union.mknod("new", stat.S_IFSOCK | 0o755)
    union.mkdir("dir")
    union.mknod("dir/new", stat.S_IFSOCK | 0o755)
    union.chmod("sock", 0o700)
    assert names(layer(union)) == ["dir"]


def test_what_a_socket_replaced_is_deleted(union: Union, layer: Layer) -> None:
    union.unlink("a")
    union.mknod("a", stat.S_IFSOCK | 0o755)
    assert names(layer(union)) == [".wh.a"]


def test_attributes_of_union_file_systems_are_left_out(union: Union, layer: Layer) -> None:
    """A program in the union may set such an attribute: to readers of the layer it would be a mark."""
    private = ["user.overlay.opaque", "user.unionfs.origin", "user.containers.override_stat"]
    for name in private:
        union.setxattr("d", name, b"y")
        union.setxattr("a", name, b"y")
    union.setxattr("a", "user.other", b"y")
    members = layer(union)
    assert xattrs_of(members[b"a"]) == {"user.other": b"y"}
    tree = listed(written(union, "trees", [b"a"]))
    assert sorted(xattrs_of(tree[b"a"])) == sorted([*private, "user.other"])


def test_the_attributes_of_the_root_are_a_change(union: Union, layer: Layer) -> None:
    union.chmod("", 0o700)
    assert names(layer(union)) == ["."]


def test_a_name_that_is_a_mark_in_a_layer_is_an_error(make_union: MakeUnion) -> None:
    union = make_union(LOWER, form=FORMS["overlay"])
    union.mkdir("new")
    union.create("new/.wh.file", b"")
    with pytest.raises(UnionError, match=r"^/new/\.wh\.file cannot be in a layer"):
        written(union, "layer")
    assert names(listed(written(union, "trees", [b"new"]))) == ["new", "new/.wh.file"]


def test_a_directory_whose_name_is_a_mark_is_an_error_wherever_it_is_entered(make_union: MakeUnion) -> None:
    union = make_union({".wh.d": {"a": b"", "b": b""}}, form=FORMS["overlay"], policy=NO_MARKS)
    union.unlink(".wh.d/a")
    for paths in (None, [b".wh.d/a"]):
        with pytest.raises(UnionError, match=r"^/\.wh\.d cannot be in a layer"):
            written(union, "layer", paths)


def test_a_deleted_name_that_no_layer_can_contain_has_no_whiteout(make_union: MakeUnion) -> None:
    union = make_union(
        {".wh.x": b"", "d": {".wh..wh.x": b"", "x": b""}}, form=FORMS["overlay"], policy=NO_MARKS
    )
    for path in (".wh.x", "d/.wh..wh.x", "d/x"):
        union.unlink(path)
    assert names(listed(written(union, "layer"))) == ["d", "d/.wh.x"]


def test_a_root_that_hides_the_layers_below_deletes_their_names(make_union: MakeUnion, layer: Layer) -> None:
    union = make_union(
        LOWER, upper={".wh..wh..opq": b"", "new": b"new", "d": {"x": b"x"}}, form=FORMS["aufs"]
    )
    deleted = [f".wh.{name}" for name in LOWER if name != "d"]
    members = names(layer(union))
    assert sorted(members) == sorted([*deleted, "d", "d/.wh..wh..opq", "d/x", "new"])


def test_names_of_any_bytes_are_in_the_layer(union: Union, layer: Layer) -> None:
    strange = [b"\xff\xfe", b"new\nline", b"-x", b" ", b"\\", "\u00e9".encode(), b"l" * 250]
    for name in strange:
        union.create(os.fsdecode(name), name)
    union.mkdir("d/" + "l" * 200)
    union.create("d/" + "l" * 200 + "/" + "m" * 200, b"")
    members = layer(union)
    assert set(strange) < members.keys()


@pytest.mark.root
def test_owners_devices_and_capabilities_are_in_the_layer(union: Union, layer: Layer) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    union.create("program", b"x", 0o755)
    union.chown("program", 4_000_000_000, 5)
    union.setxattr("program", "security.capability", capability)
    union.chown("big", 7, 8)
    union.chown("s", 9, 10)
    union.chown("d", 11, 12)
    union.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    union.mknod("disk", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    members = layer(union)
    assert xattrs_of(members[b"program"]) == {"security.capability": capability}
    assert members[b"program"].uid == 4_000_000_000


def test_access_control_lists_are_in_the_layer(make_union: MakeUnion, layer: Layer) -> None:
    union = make_union(LOWER, form=FORMS["overlay"])
    # user::rw-, user:1000:r--, group::r--, mask::r--, other::---; acl(5), linux/posix_acl_xattr.h
    entries = [(1, 6, -1), (2, 4, 1000), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + right.to_bytes(2, "little") + who.to_bytes(4, "little", signed=True)
        for tag, right, who in entries
    )
    union.setxattr("a", "system.posix_acl_access", acl)
    assert xattrs_of(layer(union)[b"a"]) == {"system.posix_acl_access": acl}


# -- parts of layers -----------------------------------------------------------------------------------


def test_a_part_of_a_layer_has_what_is_at_and_below_the_paths(union: Union) -> None:
    union.write("d/a", b"changed")
    union.write("d/sub/deep/x", b"changed")
    union.write("e/a", b"changed")
    union.create("d-", b"new")

    def part(*paths: bytes) -> list[str]:
        return names(listed(written(union, "layer", paths)))

    assert part(b"d") == ["d", "d/a", "d/sub", "d/sub/deep", "d/sub/deep/x"]
    assert part(b"d/sub", b"d-") == ["d-", "d/sub", "d/sub/deep", "d/sub/deep/x"]
    assert part(b"d/sub/deep", b"d/sub", b"d/sub") == ["d/sub", "d/sub/deep", "d/sub/deep/x"]
    assert part(b"d/b", b"b", b"no/such/path", b"a/in") == []
    assert part() == []
    assert part(b"") == names(listed(written(union, "layer")))


def test_a_part_of_a_layer_has_the_whiteout_of_its_path(union: Union) -> None:
    union.unlink("d/a")
    union.rename("e", "moved")

    def part(*paths: bytes) -> list[str]:
        return names(listed(written(union, "layer", paths)))

    assert part(b"d/a") == ["d/.wh.a"]
    assert part(b"e") == [".wh.e"]
    assert part(b"e/in") == ["e/.wh.in"]
    assert part(b"moved/in") == ["moved/in", "moved/in/b"]


def test_a_part_of_a_directory_that_hides_another_hides_that_part(union: Union) -> None:
    for path in ("e/a", "e/in/b"):
        union.unlink(path)
    union.rmdir("e/in")
    union.rmdir("e")
    union.mkdir("e")
    union.mkdir("e/in")
    union.create("e/new")
    parts = names(listed(written(union, "layer", [b"e/a", b"e/in", b"e/new"])))
    assert parts == ["e/.wh.a", "e/in", "e/in/.wh..wh..opq", "e/new"]


def test_a_part_of_a_layer_has_names_of_hard_links_that_only_the_index_has(union: Union) -> None:
    union.write("h1", b"THREE")
    members = listed(written(union, "layer", [b"hd"]))
    assert names(members) == ["hd/h3"]
    assert members[b"hd/h3"].isreg()
    assert names(listed(written(union, "layer", [b"hd/h3", b"h2"]))) == ["h2", "hd/h3"]
