"""`unionfs changes --discard`: which changes are discarded together, what forbids it, and what is on disk afterwards."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import Dir, File, HardLink, Symlink, Tree
from tests.unit.unionfs.changes.discarding import Key, discard_from, keys
from tests.unit.unionfs.changes.trees import compare, facts, source_of
from unionfs.changes.discard import discard
from unionfs.errors import UnionError
from unionfs.formats.whiteout import TRUSTED_MARKS, WhiteoutFormat
from unionfs.upper import workdir
from unionfs.vfs.rename_plan import RENAME_EXCHANGE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

OLD = 10**18
LARGE = 40_000


@pytest.fixture
def union(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> Union:
    """A union with a directory of each kind of change to come."""
    tree: Tree = {
        "d": Dir(
            {
                "a": File(b"a", mode=0o640, mtime_ns=OLD, xattrs={"user.color": b"blue"}),
                "b": b"b",
                "sub/x": b"x",
                "sub/y": b"y",
            },
            mode=0o750,
            xattrs={"user.color": b"red"},
        ),
        "e/k": b"k",
        "f": b"f",
        "link": Symlink(b"f"),
        "one": File(b"links", mtime_ns=OLD),
        "two": HardLink("one"),
        "l/three": HardLink("one"),
        "sparse": File(b"s", size=LARGE, mtime_ns=OLD),
    }
    return make_union(tree, whiteouts=whiteouts, policy=TRUSTED_MARKS)


def rows(union: Union) -> set[Key]:
    return keys(compare(union))


def remove_tree(union: Union, path: str) -> None:
    for name in union.names(path):
        child = f"{path}/{name}"
        if stat.S_ISDIR(union.stat(child).mode):
            remove_tree(union, child)
        else:
            union.unlink(child)
    union.rmdir(path)


# -- what is selected ----------------------------------------------------------------------------------


def test_only_changes_at_and_below_the_paths_are_discarded(union: Union) -> None:
    union.write("d/a", b"A")
    union.create("d/new", b"new")
    union.create("dd", b"new")
    union.unlink("f")
    discarded = discard_from(union, "/d")
    assert keys(discarded) == {("C", b"d/a", b"d/a"), ("A", b"d/new", None)}
    assert rows(union) == {("A", b"dd", None), ("D", b"f", b"f")}
    assert union.read("d/a") == b"a"


def test_without_changes_at_a_path_nothing_happens(union: Union) -> None:
    union.unlink("f")
    assert discard_from(union, "/d", "/nothing") == []
    assert rows(union) == {("D", b"f", b"f")}


@pytest.mark.parametrize("path", ["/moved", "/d"], ids=["new", "old"])
def test_a_moved_directory_moves_back_with_what_was_deleted_in_it(union: Union, path: str) -> None:
    union.rename("d", "moved")
    union.write("moved/a", b"A")
    union.create("moved/new", b"new")
    union.unlink("moved/sub/x")
    discard_from(union, path)
    kept = {("D", b"d/sub/x", b"d/sub/x")} if path == "/moved" else set()
    assert rows(union) == kept
    assert union.read("d/a") == b"a"


def test_all_names_of_a_changed_hard_link_are_discarded_together(union: Union) -> None:
    union.write("one", b"LINKS")
    union.link("two", "four")
    discard_from(union, "/l/three")
    assert rows(union) == {("A", b"four", None)}
    assert (union.read("two"), union.read("four")) == (b"links", b"LINKS")
    assert union.stat("one").nlink == 3
    assert union.stat("four").nlink == 1


@pytest.mark.parametrize("path", ["/d/a", "/d"])
def test_a_new_link_of_a_changed_file_is_no_copy_of_the_old_one_afterwards(union: Union, path: str) -> None:
    union.write("d/a", b"A")
    union.link("d/a", "new")
    number = union.stat("new").ino
    discard_from(union, path)
    assert union.stat("new").ino != number == union.stat("d/a").ino
    union.unlink("d/a")
    assert rows(union) == {("A", b"new", None), ("D", b"d/a", b"d/a")}
    assert union.read("new") == b"A"


def test_a_moved_name_of_a_hard_link_keeps_its_place_and_gets_the_old_contents(union: Union) -> None:
    union.write("one", b"LINKS")
    union.rename("two", "e/two")
    discard_from(union, "/one")
    assert rows(union) == {("R", b"e/two", b"two")}
    assert union.read("e/two") == union.read("one") == b"links"
    assert union.stat("e/two").ino == union.stat("l/three").ino


def test_a_deleted_name_of_a_changed_hard_link_shows_the_old_contents_and_the_others_stay(
    union: Union,
) -> None:
    union.write("one", b"LINKS")
    union.unlink("l/three")
    discard_from(union, "/l")
    assert rows(union) == {("C", b"one", b"one"), ("C", b"two", b"two")}
    assert (union.read("l/three"), union.read("two")) == (b"links", b"LINKS")


def test_a_link_count_leaves_out_a_name_that_a_moved_object_covers(union: Union) -> None:
    union.unlink("one")
    union.unlink("l/three")
    union.rename("f", "two")
    discard_from(union, "/one")
    assert union.stat("one").nlink == 1
    discard_from(union, "/l/three")
    assert union.stat("one").nlink == union.stat("l/three").nlink == 2
    discard_from(union, "/")
    assert rows(union) == set()
    assert union.stat("one").nlink == 3


def test_a_link_count_leaves_out_a_name_that_was_restored_as_a_file_of_its_own(union: Union) -> None:
    for name in ("one", "two", "l/three"):
        union.unlink(name)
    discard_from(union, "/two")
    union.write("two", b"LINKS")
    discard_from(union, "/l/three")
    union.rename("f", "two")
    discard_from(union, "/")
    assert rows(union) == set()
    assert union.stat("l/three").ino != union.stat("one").ino == union.stat("two").ino
    assert union.stat("one").nlink == 2


def test_one_file_of_a_deleted_directory_comes_back_with_the_directories_above_it(union: Union) -> None:
    remove_tree(union, "d")
    discard_from(union, "/d/sub/x")
    assert rows(union) == {("D", path, path) for path in (b"d/a", b"d/b", b"d/sub/y")}
    shown = union.stat("d")
    assert stat.S_IMODE(shown.mode) == 0o750
    assert union.fs.xattrs.get(union.inode("d").ino, "user.color") == b"red"
    assert union.names("d/sub") == ["x"]


def test_discarding_the_rest_of_a_directory_that_came_back_shows_the_rest(union: Union) -> None:
    remove_tree(union, "d")
    discard_from(union, "/d/sub/x")
    discard_from(union, "/d/a")
    assert union.names("d") == ["a", "sub"]
    discard_from(union, "/d")
    assert rows(union) == set()


# -- what forbids it -----------------------------------------------------------------------------------


def refused(union: Union, *paths: str) -> str:
    """Return the error of discarding *paths*, and check that nothing has changed."""
    before, shown = rows(union), union.show()
    with pytest.raises(UnionError) as caught:
        discard_from(union, *paths)
    assert rows(union) == before
    assert union.show() == shown
    return str(caught.value)


def test_an_object_does_not_move_back_to_where_another_one_is(union: Union) -> None:
    union.rename("f", "moved")
    union.create("f", b"other")
    assert refused(union, "/moved") == "/moved cannot be moved back to /f: /f is there now; discard /f, too"
    discard_from(union, "/moved", "/f")
    assert rows(union) == set()


def test_an_object_does_not_move_back_into_a_deleted_directory(union: Union) -> None:
    union.rename("e/k", "moved")
    union.rmdir("e")
    assert (
        refused(union, "/moved")
        == "/moved cannot be moved back to /e/k: the directory /e no longer exists; discard /e, too"
    )
    discard_from(union, "/moved", "/e")
    assert rows(union) == set()


def test_a_file_does_not_come_back_in_a_directory_that_is_a_file_now(union: Union) -> None:
    remove_tree(union, "d")
    union.create("d", b"file")
    assert (
        refused(union, "/d/a") == "/d/a cannot be shown again: /d is no longer a directory; discard /d, too"
    )


def test_a_file_does_not_come_back_in_a_directory_whose_place_another_one_has_taken(union: Union) -> None:
    remove_tree(union, "d")
    union.rename("e", "d")
    assert (
        refused(union, "/d/a") == "/d/a cannot be shown again: /d is where its directory was; discard /d, too"
    )


def test_directories_that_are_in_each_other_move_back_with_the_one_that_contains_both(union: Union) -> None:
    union.rename("d/sub", "t")
    union.rename("d", "t/z")
    union.rename("t", "d")
    union.unlink("d/z/b")
    assert "one of them is in the other; discard the directory that contains both, too" in refused(
        union, "/d/sub"
    )
    discard_from(union, "/d")
    assert rows(union) == set()
    assert union.read("d/sub/x") == b"x"


def test_exchanged_objects_change_places_again(union: Union) -> None:
    union.rename("d", "e", RENAME_EXCHANGE)
    union.rename("f", "link", RENAME_EXCHANGE)
    discard_from(union, "/d", "/f")
    assert rows(union) == set()
    assert union.fs.files.readlink(union.inode("link").ino) == b"f"


def test_a_server_that_uses_the_layer_forbids_it(union: Union, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workdir, "_LOCK_PATIENCE", 0.0)
    union.unlink("f")
    with pytest.raises(UnionError, match=r"\A[^\n]* is in use by another mount[^\n]*\Z"):
        discard(source_of(union), [b"/f"])
    assert rows(union) == {("D", b"f", b"f")}


@pytest.mark.parametrize("path", ["", "../f", "/d/../f"])
def test_a_path_has_to_be_one_of_the_union(union: Union, path: str) -> None:
    assert "is not a path of the union" in refused(union, path)


def test_a_path_has_to_be_given(union: Union) -> None:
    assert "no path" in refused(union)


# -- what is on disk -----------------------------------------------------------------------------------


def test_the_layers_below_show_through_where_they_merge(union: Union) -> None:
    union.write("d/a", b"A")
    union.chmod("d", 0o700)
    union.unlink("d/b")
    remove_tree(union, "d/sub")
    union.mkdir("d/sub")
    discard_from(union, "/d")
    assert os.listdir(union.upper) == []
    assert stat.S_IMODE(union.stat("d").mode) == 0o750


def test_in_a_directory_that_was_made_again_the_old_object_is_a_whole_copy(union: Union) -> None:
    for name in ("d", "e"):
        remove_tree(union, name)
        union.mkdir(name)
    union.create("d/a", b"other")
    discard_from(union, "/d/a", "/d/sub")
    assert rows(union) == {("C", b"d", b"d"), ("D", b"d/b", b"d/b"), ("D", b"e/k", b"e/k")}
    shown = union.stat("d/a")
    assert (stat.S_IMODE(shown.mode), shown.mtime_ns) == (0o640, OLD)
    assert union.fs.xattrs.get(union.inode("d/a").ino, "user.color") == b"blue"
    assert (union.read("d/a"), union.read("d/sub/y")) == (b"a", b"y")


def test_a_moved_and_changed_file_keeps_its_holes(union: Union) -> None:
    union.rename("sparse", "moved")
    union.write("moved", b"S")
    discard_from(union, "/moved")
    assert rows(union) == set()
    assert union.stat("sparse").size == LARGE
    assert not (union.upper / "sparse").exists()


def test_what_a_moved_object_covered_shows_again(union: Union) -> None:
    union.rename("f", "d/a")
    remove_tree(union, "d/sub")
    union.rename("e", "d/sub")
    discard_from(union, "/f", "/e")
    assert rows(union) == {("D", path, path) for path in (b"d/sub/x", b"d/sub/y")}
    assert union.read("d/a") == b"a"
    assert union.read("e/k") == b"k"


def test_a_copy_of_metadata_alone_is_discarded(union: Union) -> None:
    union.chmod("sparse", 0o600)
    union.rename("sparse", "moved")
    discard_from(union, "/sparse")
    assert rows(union) == set()
    assert union.stat("sparse").mode == stat.S_IFREG | 0o644


def test_the_next_change_records_anew_what_was_below(union: Union) -> None:
    union.write("f", b"F")
    discard_from(union, "/f")
    (union.lowers[0] / "f").write_bytes(b"changed below")
    union.reopen()
    union.write("f", b"F")
    union.fs.trim()
    (value,) = facts(union)
    assert value["old"]["since"] == "same"


def test_without_records_there_are_none_afterwards(make_union: MakeUnion) -> None:
    union = make_union({"f": b"f"})
    union.write("f", b"F")
    os.unlink(union.work / "unionfs" / "below")
    union.close()
    discard(source_of(union), [b"f"])
    assert not (union.work / "unionfs" / "below").exists()
    union.fs = union._open()


def test_limits_of_the_layer_do_not_keep_it_full(make_union: MakeUnion) -> None:
    union = make_union({"d": {"a": b"a" * 5000}}, size=200_000)
    union.unlink("d/a")
    union.rmdir("d")
    union.mkdir("d")
    union.create("big", b"b" * 150_000)
    union.close()
    discard(source_of(union), [b"/d/a"])
    union.fs = union._open()
    assert union.read("d/a") == b"a" * 5000


# -- the command ---------------------------------------------------------------------------------------


def command(*arguments: str, fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "unionfs", "changes", *arguments],
        capture_output=True,
        text=True,
        check=False,
        pass_fds=fds,
    )


def options(union: Union) -> str:
    lower, upper, work = union.lowers[0], union.upper, union.work
    return f"-olowerdir={lower},upperdir={upper},workdir={work}"


def test_the_command_prints_what_it_has_discarded(union: Union) -> None:
    union.rename("f", "d/f")
    union.create("new", b"new")
    union.close()
    done = command(options(union), "--discard", "/d/f")
    assert (done.returncode, done.stdout, done.stderr) == (0, "R /f -> /d/f\n", "")
    done = command(options(union), "--discard", "--json", "/")
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"kind": "A", "path": "/new", "type": "file", "size": 3},
        {"version": 1, "rows": 1},
    ]
    union.fs = union._open()
    assert rows(union) == set()


def test_the_command_takes_paths_from_a_descriptor(union: Union, tmp_path: Path) -> None:
    union.create("new\nline", b"new")
    union.unlink("f")
    union.close()
    (tmp_path / "paths").write_bytes(b"/new\nline\0")
    with (tmp_path / "paths").open("rb") as file:
        done = command(options(union), "--discard", f"--paths-fd={file.fileno()}", fds=(file.fileno(),))
    assert (done.returncode, done.stdout) == (0, "A /new\\nline\n")
    union.fs = union._open()
    assert rows(union) == {("D", b"f", b"f")}


def test_the_command_needs_a_path_and_reports_errors_in_one_line(union: Union) -> None:
    assert command(options(union), "--discard").returncode == 2
    union.rename("f", "moved")
    union.create("f\nf", b"other")
    union.rename("f\nf", "f")
    union.close()
    done = command(options(union), "--discard", "/moved")
    assert done.returncode == 1
    assert done.stderr == "unionfs: /moved cannot be moved back to /f: /f is there now; discard /f, too\n"
    union.fs = union._open()
