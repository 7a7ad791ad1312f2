"""`tests.support.tree` writes the given trees and finds the requested differences."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.tree import (
    Device,
    Dir,
    Entry,
    Fifo,
    File,
    HardLink,
    Node,
    Opaque,
    Socket,
    Symlink,
    Whiteout,
    make_tree,
    snapshot,
)


def test_every_kind_of_node_is_made_and_described(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {
            "plain": b"text",
            "deep/er/file": File(b"x", mode=0o640, mtime_ns=1_500_000_000_123_456_789),
            "hole": File(b"", size=4096),
            "dir": {"inner": b""},
            "sticky": Dir({}, mode=0o1777),
            "link": Symlink(b"plain"),
            "pipe": Fifo(mode=0o600),
            "sock": Socket(mode=0o755),
            "gone": Whiteout(),
            "opaque": Opaque({"new": b"n"}),
            "set-id": File(b"", mode=0o6755),
            "other": HardLink("deep/er/file"),
        },
    )
    seen = snapshot(tmp_path, ids=False, nlink=True, mtime=True)
    assert sorted(seen) == [
        b".",
        *(b"deep", b"deep/er", b"deep/er/file", b"dir", b"dir/inner", b"gone", b"hole", b"link"),
        *(b"opaque", b"opaque/new", b"other", b"pipe", b"plain", b"set-id", b"sock", b"sticky"),
    ]
    assert seen[b"deep/er/file"] == Entry(
        type="file", mode=0o640, size=1, data=b"x", nlink=2, mtime_ns=1_500_000_000_123_456_789
    )
    assert seen[b"other"] == seen[b"deep/er/file"]
    assert os.path.samefile(tmp_path / "other", tmp_path / "deep/er/file")
    assert (seen[b"hole"].size, seen[b"hole"].data) == (4096, b"\0" * 4096)
    assert (seen[b"sticky"].type, seen[b"sticky"].mode) == ("dir", 0o1777)
    assert (seen[b"link"].type, seen[b"link"].target) == ("symlink", b"plain")
    assert (seen[b"gone"].type, seen[b"gone"].device) == ("char", (0, 0))
    assert seen[b"opaque"].xattrs == {"user.overlay.opaque": b"y"}
    assert seen[b"set-id"].mode == 0o6755
    assert [seen[name].type for name in (b"pipe", b"sock")] == ["fifo", "socket"]


def test_modes_are_exact_for_every_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make_tree(tmp_path / "new", {"a/b": {"c": b""}})
    finally:
        os.umask(before)
    seen = snapshot(tmp_path / "new")
    assert [seen[name].mode for name in (b"a", b"a/b", b"a/b/c")] == [0o755, 0o755, 0o644]


def test_entries_of_a_directory_that_forbids_writing_are_made_first(tmp_path: Path) -> None:
    make_tree(tmp_path, {"locked": Dir({"inside": b"x"}, mode=0o555, mtime_ns=10**18)})
    status = os.stat(tmp_path / "locked")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o555, 10**18)
    assert (tmp_path / "locked/inside").read_bytes() == b"x"
    os.chmod(tmp_path / "locked", 0o755)


def test_a_name_that_exists_already_is_an_error(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": b""})
    with pytest.raises(FileExistsError):
        make_tree(tmp_path, {"a": b""})


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    name = bytes(range(1, 256)).replace(b"/", b"")[:250]
    make_tree(tmp_path, {name: b"x"})
    assert name in snapshot(tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "options"),
    [
        (b"a", b"b", {}),
        (b"a" * 5000, b"a" * 4999 + b"b", {}),
        (b"", Symlink(b"a"), {}),
        (Symlink(b"a"), Symlink(b"b"), {}),
        (File(b"", mode=0o644), File(b"", mode=0o755), {}),
        (File(b"", mtime_ns=1), File(b"", mtime_ns=2), {"mtime": True}),
        (File(b"", xattrs={"user.k": b"1"}), File(b"", xattrs={"user.k": b"2"}), {}),
        (Opaque({}), Dir({}), {}),
    ],
)
def test_a_difference_is_found(tmp_path: Path, one: Node, other: Node, options: dict[str, bool]) -> None:
    make_tree(tmp_path, {"one": {"x": one}, "other": {"x": other}, "same": {"x": one}})
    first = snapshot(tmp_path / "one", **options)
    # The times of the directories themselves differ.
    assert first[b"x"] == snapshot(tmp_path / "same", **options)[b"x"]
    assert first[b"x"] != snapshot(tmp_path / "other", **options)[b"x"]


@pytest.mark.root
def test_owners_and_devices_of_real_root(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {"null": Device(1, 3, mode=0o666), "disk": Device(7, 0, block=True), "f": File(b"", uid=12, gid=34)},
    )
    seen = snapshot(tmp_path)
    assert (seen[b"null"].type, seen[b"null"].device, seen[b"null"].mode) == ("char", (1, 3), 0o666)
    assert (seen[b"disk"].type, seen[b"disk"].device) == ("block", (7, 0))
    assert (seen[b"f"].uid, seen[b"f"].gid) == (12, 34)
    assert snapshot(tmp_path, ids=False)[b"f"].uid is None
