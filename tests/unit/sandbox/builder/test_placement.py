"""Where copied files go: links of the layers are followed, missing directories are added, owners are looked up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.builder.owners import owner_ids
from sandbox.builder.placement import Placement, Source, directories_of, missing_directories, place
from sandbox.errors import ImageError
from tests.unit.sandbox.builder.test_union import union_of

FILE = Source(name="f", is_directory=False)


def test_an_existing_directory_gets_the_file_inside_and_another_object_is_replaced(tmp_path: Path) -> None:
    with union_of(tmp_path, [{"d": "dir", "old": "file"}]) as union:
        assert place(union, "/d", "", [FILE]) == Placement(
            targets=("/d/f",), missing=(), owner=(0, 0), moved=({},)
        )
        assert place(union, "/old", "", [FILE]).targets == ("/old",)
        assert place(union, "/new", "", [FILE]).targets == ("/new",)


def test_a_directory_that_a_layer_has_deleted_is_missing(tmp_path: Path) -> None:
    with union_of(tmp_path, [{"a/b": "dir"}, {"a": ".wh."}]) as union:
        assert place(union, "/a/b/", "", [FILE]).missing == ("/a", "/a/b")


def test_links_above_the_target_are_followed_and_a_link_to_a_file_is_replaced(tmp_path: Path) -> None:
    layer = {"usr/lib": "dir", "lib": "usr/lib", "file": "file", "link": "file", "dangling": "/none"}
    with union_of(tmp_path, [layer]) as union:
        assert place(union, "/lib/x", "", [FILE]).targets == ("/usr/lib/x",)
        assert place(union, "/lib", "", [FILE]).targets == ("/usr/lib/f",)
        assert place(union, "/link", "", [FILE]).targets == ("/link",)
        assert place(union, "/dangling", "", [FILE]).targets == ("/dangling",)
        assert place(union, "/dangling/", "", [FILE]) == Placement(
            targets=("/none/f",), missing=("/none",), owner=(0, 0), moved=({},)
        )


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    with union_of(tmp_path, [{"a/file": "file"}]) as union:
        for target in ("/a/file/x", "/a/file/"):
            with pytest.raises(ImageError, match="/a/file is no directory in the layers so far"):
                place(union, target, "", [FILE])
        with pytest.raises(ImageError, match="/a/file is no directory"):
            missing_directories(union, "/a/file/b")


def test_directories_of_a_source_go_where_links_of_the_layers_lead(tmp_path: Path) -> None:
    layer = {
        "usr/bin": "dir",
        "bin": "usr/bin",
        "usr/loc": "/opt",
        "opt/sub": "dir",
        "file": "file",
        "to-file": "file",
    }
    source = Source(
        name="tree", is_directory=True,
        directories=("bin", "bin/deep", "new", "new/bin", "to-file", "usr", "usr/loc", "usr/loc/sub", "usr/loc/sub/x"),
    )  # fmt: skip
    with union_of(tmp_path, [layer]) as union:
        assert place(union, "/", "", [source]).moved == (
            {
                "bin": "/usr/bin", "bin/deep": "/usr/bin/deep",
                "usr/loc": "/opt", "usr/loc/sub": "/opt/sub", "usr/loc/sub/x": "/opt/sub/x",
            },
        )  # fmt: skip


def test_the_directories_below_are_listed_parents_first(tmp_path: Path) -> None:
    with union_of(tmp_path, [{"t/b/c": "dir", "t/a/f": "file"}, {"t/b/d": "dir", "t/a": ".opq"}]) as union:
        assert list(directories_of(union, "/t")) == ["a", "b", "b/c", "b/d"]


def test_a_placement_survives_json() -> None:
    made = Placement(targets=("/a\udcff",), missing=("/m",), owner=(1, 2), moved=({"x": "/y"},))
    assert Placement.from_json(json.loads(json.dumps(made.as_json()))) == made


def test_owners_are_looked_up_in_the_layers(tmp_path: Path) -> None:
    with union_of(tmp_path, [{"etc": "dir"}]) as union:
        etc = tmp_path / "0/etc"
        (etc / "passwd").write_text(
            "bad\nother:x:1:2:x\nuser:x:5:6::/:\nuser:x:7:8::/:\nhuge:x:99999999999:1::/:\n"
        )
        (etc / "group").write_text("staff:x:50:\nstaff:x:51:\n")
        assert owner_ids("", union) == (0, 0)
        assert owner_ids("user", union) == (5, 6)
        assert owner_ids("5", union) == (5, 6)
        assert owner_ids("9", union) == (9, 0)
        assert owner_ids("user:staff", union) == (5, 50)
        assert owner_ids("9:10", union) == (9, 10)
        for owner in ("other", "huge", "nobody", "user:none"):
            with pytest.raises(ImageError, match="is not in /etc/"):
                owner_ids(owner, union)
        with pytest.raises(ImageError, match="larger than the largest id"):
            owner_ids("4294967295", union)
