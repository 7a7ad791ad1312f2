"""The writable layer: the result of each change on disk, in both formats."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import Dir, HardLink, Opaque, Tree, Whiteout, make_tree
from unionfs.errors import UnionError
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper import workdir
from unionfs.upper.format import ANY_FORMAT, WantedFormat
from unionfs.upper.upper import Upper
from unionfs.vfs.attributes import Change
from unionfs.vfs.rename_plan import RENAME_EXCHANGE, RENAME_NOREPLACE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

OVERLAY, AUFS = WhiteoutFormat.OVERLAY, WhiteoutFormat.AUFS


def on_disk(union: Union) -> dict[str, str]:
    """Return the contents of the upper directory: a letter for the type by path, ``!`` for a whiteout."""
    found = {}
    for path in union.upper.rglob("*"):
        info = path.lstat()
        device = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
        found[str(path.relative_to(union.upper))] = "!" if device else stat.filemode(info.st_mode)[0]
    return found


def whiteout(form: WhiteoutFormat, path: str) -> dict[str, str]:
    """Return the whiteout of *path* in the format *form*."""
    parent, slash, name = path.rpartition("/")
    return {path: "!"} if form is OVERLAY else {f"{parent}{slash}.wh.{name}": "-"}


def opaque(form: WhiteoutFormat, path: str) -> dict[str, str]:
    """Return the contents of the opaque directory *path* in the format *form*."""
    return {path: "d"} if form is OVERLAY else {path: "d", f"{path}/.wh..wh..opq": "-"}


def is_opaque(union: Union, path: str) -> bool:
    """Return whether *path* of the upper directory has an opaque mark."""
    directory = union.upper / path
    marked = {"user.overlay.opaque", "trusted.overlay.opaque"} & set(os.listxattr(directory))
    return bool(marked) or (directory / ".wh..wh..opq").exists()


# -- removal -------------------------------------------------------------------------------------------


def test_unlinking_a_lower_file_leaves_a_whiteout(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> None:
    union = make_union({"d/f": b""}, whiteouts=whiteouts)
    union.unlink("d/f")
    assert on_disk(union) == {"d": "d", **whiteout(whiteouts, "d/f")}
    union.reopen()
    assert union.names("d") == []


def test_unlinking_an_upper_file_leaves_nothing(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> None:
    union = make_union(upper={"f": b""}, whiteouts=whiteouts)
    union.unlink("f")
    assert on_disk(union) == {}


def test_unlinking_a_file_over_a_lower_one_leaves_a_whiteout(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"f": b"below"}, upper={"f": b"above"}, whiteouts=whiteouts)
    union.unlink("f")
    assert on_disk(union) == whiteout(whiteouts, "f")


def test_a_name_that_a_lower_layer_has_deleted_needs_no_whiteout(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"f": Whiteout()}, {"f": b"bottom"}, upper={"f": b"top"}, whiteouts=whiteouts)
    union.unlink("f")
    assert on_disk(union) == {}
    assert not union.exists("f")


def test_removing_a_merged_directory_leaves_a_whiteout_and_none_of_its_marks(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"d/f": b"", "d/g": b""}, whiteouts=whiteouts)
    union.unlink("d/f")
    union.unlink("d/g")
    union.rmdir("d")
    assert on_disk(union) == whiteout(whiteouts, "d")
    assert union.leftovers() == []
    union.reopen()
    assert union.names() == []


def test_a_directory_with_an_entry_is_not_removed(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> None:
    union = make_union({"d/f": b"", "d/g": b""}, whiteouts=whiteouts)
    union.unlink("d/f")
    with pytest.raises(OSError) as caught:
        union.rmdir("d")
    assert caught.value.errno == errno.ENOTEMPTY
    assert union.names("d") == ["g"]


@pytest.mark.parametrize(("operation", "path", "number"), [("unlink", "d", errno.EISDIR), ("rmdir", "f", errno.ENOTDIR), ("unlink", "no", errno.ENOENT), ("rmdir", "no", errno.ENOENT)])  # fmt: skip
def test_removing_what_is_no_such_thing_is_refused(
    make_union: MakeUnion, operation: str, path: str, number: int
) -> None:
    union = make_union({"d": {}, "f": b""})
    with pytest.raises(OSError) as caught:
        getattr(union, operation)(path)
    assert caught.value.errno == number
    assert on_disk(union) == {}


@pytest.mark.parametrize("length", [251, 252, 255])
def test_a_long_name_can_be_deleted_unless_its_mark_would_be_too_long(
    make_union: MakeUnion, whiteouts: WhiteoutFormat, length: int
) -> None:
    name = "n" * length
    union = make_union({name: b"kept"}, whiteouts=whiteouts)
    if whiteouts is AUFS and length > 251:
        with pytest.raises(OSError) as caught:
            union.unlink(name)
        assert caught.value.errno == errno.ENAMETOOLONG
        union.reopen()
        assert union.read(name) == b"kept"
    else:
        union.unlink(name)
        union.reopen()
        assert union.names() == []


# -- creation ------------------------------------------------------------------------------------------


def test_a_file_made_where_one_was_deleted_replaces_the_whiteout(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"f": b"old"}, whiteouts=whiteouts)
    union.unlink("f")
    union.create("f", b"new")
    assert on_disk(union) == {"f": "-"}
    union.reopen()
    assert union.read("f") == b"new"


def test_an_ordinary_file_with_the_name_of_a_mark_stays_when_its_namesake_is_made_anew(
    make_union: MakeUnion,
) -> None:
    union = make_union({"a": b"old", "d": {}, "e": {}}, whiteouts=OVERLAY)
    for name in ("a", "d", "e"):
        union.create(f".wh.{name}", b"mine")
    union.unlink("a")
    union.rmdir("d")
    union.rmdir("e")
    union.create("a", b"new")
    union.mkdir("d")
    union.rename("d", "e")
    union.reopen()
    assert union.names() == [".wh.a", ".wh.d", ".wh.e", "a", "e"]


def test_a_directory_made_where_one_was_deleted_is_opaque(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"d/f": b""}, whiteouts=whiteouts)
    union.unlink("d/f")
    union.rmdir("d")
    union.mkdir("d")
    assert on_disk(union) == opaque(whiteouts, "d")
    assert is_opaque(union, "d")
    assert union.names("d") == []
    union.reopen()
    assert union.names("d") == []


def test_a_new_directory_is_not_opaque(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> None:
    union = make_union(whiteouts=whiteouts)
    union.mkdir("d")
    assert on_disk(union) == {"d": "d"}
    assert not is_opaque(union, "d")


def test_what_exists_already_is_not_made_again(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> None:
    union = make_union({"f": b"", "d": {}}, whiteouts=whiteouts)
    for make in (
        union.create,
        union.mkdir,
        lambda path: union.symlink(path, "x"),
        lambda path: union.link("f", path),
    ):
        for path in ("f", "d"):
            with pytest.raises(FileExistsError):
                make(path)
    assert on_disk(union) == {}


def test_a_new_object_has_the_mode_and_owner_asked_for(make_union: MakeUnion) -> None:
    union = make_union()
    union.create("f", mode=0o6711)
    union.mkdir("d", 0o1770)
    union.mknod("pipe", stat.S_IFIFO | 0o604)
    assert [union.stat(name).mode for name in ("f", "d", "pipe")] == [
        stat.S_IFREG | 0o6711,
        stat.S_IFDIR | 0o1770,
        stat.S_IFIFO | 0o604,
    ]


def test_what_is_made_in_a_set_group_id_directory_gets_its_group(make_union: MakeUnion) -> None:
    union = make_union({"d": Dir(mode=0o2775)})
    union.mkdir("d/sub", 0o755)
    union.create("d/f")
    assert union.stat("d/sub").mode == stat.S_IFDIR | 0o2755
    assert union.stat("d/f").gid == union.stat("d").gid


def test_the_mark_of_the_overlay_format_cannot_be_made_by_a_program(make_union: MakeUnion) -> None:
    union = make_union()
    with pytest.raises(OSError) as caught:
        union.mknod("null", stat.S_IFCHR | 0o666, 0)
    assert caught.value.errno == errno.EPERM


def test_marks_of_the_aufs_format_are_refused_where_it_is_written_and_ordinary_elsewhere(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"f": b""}, whiteouts=whiteouts)
    if whiteouts is OVERLAY:
        union.create(".wh.f")
        union.reopen()
        assert union.names() == [".wh.f", "f"]
        return
    for make in (union.create, union.mkdir, lambda path: union.rename("f", path)):
        with pytest.raises(OSError) as caught:
            make(".wh.f")
        assert caught.value.errno == errno.EPERM
    assert union.names() == ["f"]


# -- renaming ------------------------------------------------------------------------------------------


def test_renaming_a_lower_file_leaves_a_whiteout_where_it_was(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"f": b"data"}, whiteouts=whiteouts)
    union.rename("f", "g")
    assert on_disk(union) == {"g": "-", **whiteout(whiteouts, "f")}
    union.reopen()
    assert (union.names(), union.read("g")) == (["g"], b"data")


def test_renaming_an_upper_file_leaves_nothing_where_it_was(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union(upper={"f": b"data", "d": {}}, whiteouts=whiteouts)
    union.rename("f", "d/f")
    assert on_disk(union) == {"d": "d", "d/f": "-"}


def test_a_file_renamed_to_a_deleted_name_replaces_the_whiteout(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"f": b"old"}, upper={"g": b"new"}, whiteouts=whiteouts)
    union.unlink("f")
    union.rename("g", "f")
    assert on_disk(union) == {"f": "-"}
    union.reopen()
    assert union.read("f") == b"new"


def test_a_directory_renamed_over_a_lower_one_does_not_show_what_was_in_it(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"d/f": b"old"}, upper={"new/g": b"new"}, whiteouts=whiteouts)
    union.unlink("d/f")
    union.rename("new", "d")
    assert union.names("d") == ["g"]
    assert is_opaque(union, "d")
    assert on_disk(union).keys() == {**opaque(whiteouts, "d"), "d/g": "-"}.keys()
    union.reopen()
    assert union.names("d") == ["g"]
    assert union.leftovers() == []


@pytest.mark.parametrize("name", ["lower", "merged"])
def test_without_redirects_a_directory_that_a_lower_layer_has_is_for_the_caller_to_copy(
    make_union: MakeUnion, whiteouts: WhiteoutFormat, name: str
) -> None:
    union = make_union({"lower/f": b"", "merged/f": b""}, upper={"merged/g": b""}, whiteouts=whiteouts)
    union.close()
    union.form = WantedFormat(whiteouts=whiteouts, redirect=False)
    union.fs = union._open()
    with pytest.raises(OSError) as caught:
        union.rename(name, "new")
    assert caught.value.errno == errno.EXDEV
    assert not union.exists("new")


def test_a_directory_is_not_moved_into_itself(make_union: MakeUnion) -> None:
    union = make_union(upper={"d/sub": {}})
    for flags in (0, RENAME_EXCHANGE):
        with pytest.raises(OSError) as caught:
            union.rename("d", "d/sub" if flags else "d/sub/d", flags)
        assert caught.value.errno == errno.EINVAL


def test_renaming_one_name_of_a_file_to_another_does_nothing(make_union: MakeUnion) -> None:
    union = make_union({"a": b"", "b": HardLink("a")})
    union.rename("a", "b")
    assert union.names() == ["a", "b"]
    assert on_disk(union) == {}


def test_an_exchange_of_a_lower_and_an_upper_file_swaps_contents(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"a": b"lower"}, upper={"b": b"upper"}, whiteouts=whiteouts)
    union.rename("a", "b", RENAME_EXCHANGE)
    union.reopen()
    assert (union.read("a"), union.read("b")) == (b"upper", b"lower")
    assert on_disk(union) == {"a": "-", "b": "-"}


def test_noreplace_sees_a_lower_name(make_union: MakeUnion) -> None:
    union = make_union({"a": b""}, upper={"b": b""})
    with pytest.raises(FileExistsError):
        union.rename("b", "a", RENAME_NOREPLACE)


def test_an_open_file_that_is_renamed_over_can_still_be_read(make_union: MakeUnion) -> None:
    union = make_union({"a": b"lower"}, upper={"b": b"upper"})
    reader, inode = union.open("a"), union.file("a")
    union.rename("b", "a")
    assert union.fs.files.read(reader, 0, 100) == b"lower"
    assert union.fs.attributes.of(inode).nlink == 0
    assert union.read("a") == b"upper"


# -- the work directory and the format -----------------------------------------------------------------


def test_what_a_killed_server_left_in_the_work_directory_is_cleared(make_union: MakeUnion) -> None:
    union = make_union()
    union.close()
    make_tree(union.work / "unionfs" / "tmp", {"#1": b"x", "+2": b"y", "#3": Dir({"sub/f": b""}, mode=0)})
    union.fs = union._open()
    assert union.leftovers() == []


def test_a_work_directory_serves_one_mount_at_a_time(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = make_union()
    monkeypatch.setattr(workdir, "_LOCK_PATIENCE", 0.0)
    with pytest.raises(UnionError, match="workdir is in use by another mount"):
        union._open()


def test_a_writable_layer_serves_one_mount_at_a_time_whatever_its_work_directory(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    union = make_union()
    monkeypatch.setattr(workdir, "_LOCK_PATIENCE", 0.0)
    (tmp_path / "other").mkdir()
    union.work = tmp_path / "other"
    with pytest.raises(UnionError, match="upperdir is in use by another mount"):
        union._open()


def test_a_format_once_chosen_is_gone_on_with(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> None:
    union = make_union({"f": b"", "g": b""}, whiteouts=whiteouts)
    union.unlink("f")
    union.form = ANY_FORMAT
    union.reopen()
    assert union.parts.upper.whiteouts is whiteouts
    union.unlink("g")
    assert on_disk(union) == {**whiteout(whiteouts, "f"), **whiteout(whiteouts, "g")}


@pytest.mark.whiteouts
def test_marks_of_the_other_format_are_still_honoured_after_a_change(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"f": b"", "g": b""}, whiteouts=whiteouts)
    union.unlink("f")
    union.form = WantedFormat(whiteouts=AUFS if whiteouts is OVERLAY else OVERLAY)
    union.reopen()
    union.unlink("g")
    union.reopen()
    assert union.names() == []


def test_wh_marks_deep_in_an_upper_directory_from_elsewhere_are_honoured(make_union: MakeUnion) -> None:
    union = make_union({"d/f": b"", "d/g": b""}, upper={"d/.wh.f": b""})
    assert union.names("d") == ["g"]
    policy = union.parts.upper.layer.policy
    assert policy.overlay
    assert policy.aufs


def test_an_upper_directory_that_cannot_hold_devices_gets_wh_marks(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "mknod", refused)
    union = make_union({"f": b""})
    union.unlink("f")
    assert on_disk(union) == whiteout(AUFS, "f")
    with pytest.raises(UnionError, match="use whiteouts=aufs"):
        make_union(whiteouts=OVERLAY)


def test_work_and_upper_directory_have_to_be_on_one_file_system(
    tmp_path: Path, make_union: MakeUnion
) -> None:
    union = make_union()
    layer = union.parts.upper.layer
    proc = os.open("/proc/self", os.O_PATH)
    with pytest.raises(UnionError, match="different file systems"):
        Upper(layer, proc)
    os.close(proc)


def test_an_opaque_upper_directory_hides_lower_names_at_the_first_lookup(make_union: MakeUnion) -> None:
    tree: Tree = {"d/old": b""}
    union = make_union(tree, upper={"d": Opaque()})
    assert not union.exists("d/old")
    with pytest.raises(FileNotFoundError):
        union.unlink("d/old")


def test_a_directory_that_is_moved_over_a_lower_name_keeps_its_time(
    make_union: MakeUnion, whiteouts: WhiteoutFormat
) -> None:
    union = make_union({"file": b"", "other": {"x": b""}}, whiteouts=whiteouts)
    for name in ("first", "second"):
        union.mkdir(name)
        union.fs.attributes.change(union.inode(name).ino, Change(mtime_ns=10**18), None)
    union.unlink("other/x")
    union.rmdir("other")
    union.rename("first", "file", RENAME_EXCHANGE)
    union.rename("second", "other")
    assert [union.stat(name).mtime_ns for name in ("file", "other")] == [10**18, 10**18]
