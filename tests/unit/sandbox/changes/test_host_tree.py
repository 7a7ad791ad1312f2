"""Objects of a host directory are replaced at once, exactly as wanted, and never through a symbolic link."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.changes.directory_calls import temporary_name
from sandbox.changes.host_attributes import Attributes
from sandbox.changes.host_tree import HostTree
from sandbox.errors import SandboxError
from sandbox.kernel import _libc
from tests.support.tree import Dir, File, Symlink, Tree, make_tree, snapshot

ROOT = os.geteuid() == 0
ME = {"uid": os.geteuid(), "gid": os.getegid()}


def wanted(mode: int = 0o644, mtime_ns: int = 10**18 + 1, **more: object) -> Attributes:
    return Attributes(**{**ME, "mode": mode, "mtime_ns": mtime_ns, **more})  # type: ignore[arg-type]


def writer(data: bytes) -> Callable[[int], None]:
    def write(fd: int) -> None:
        os.write(fd, data)

    return write


def error_of(call: Callable[..., object], *arguments: object, **named: object) -> str:
    """Return the message of the error, which must have a hint."""
    with pytest.raises(SandboxError) as caught:
        call(*arguments, **named)
    assert caught.value.hint
    return caught.value.message


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 241, 242, 243, 254, 255])
def test_a_temporary_name_is_a_name_for_every_name(length: int) -> None:
    made = temporary_name(b"n" * length)
    assert len(made) <= 255
    assert made.startswith(b".n")
    assert made.endswith(b".sandbox-new")


def test_long_names_with_one_beginning_have_different_temporary_names() -> None:
    names = [b"n" * 254 + end for end in (b"a", b"b")]
    assert len({temporary_name(name) for name in names}) == 2


@pytest.mark.parametrize("name", [b"n" * 255, b"\xff\xfe", b"-", b"with\nline", b" "])
def test_every_name_can_be_written(name: bytes, root: Path, tree: HostTree) -> None:
    for _ in range(2):
        tree.replace_file(name, writer(b"x"), wanted())
    tree.make_directory(b"d" + name[1:], wanted(0o755))
    assert sorted(os.listdir(os.fsencode(root))) == sorted([name, b"d" + name[1:]])


def test_a_name_that_is_too_long_is_an_error_with_the_path(tree: HostTree) -> None:
    assert error_of(tree.replace_file, b"n" * 256, writer(b""), wanted()).startswith(
        "/shown/" + "n" * 256 + ": "
    )


def test_paths_longer_than_a_system_call_takes_can_be_written(root: Path, tree: HostTree) -> None:
    path = b""
    for _ in range(60):
        path = path + b"/" + b"d" * 100 if path else b"d" * 100
        tree.make_directory(path, wanted(0o755))
    tree.replace_file(path + b"/file", writer(b"deep"), wanted())
    info = tree.lstat(path + b"/file")
    assert info is not None
    assert info.st_size == 4
    tree.remove_tree(b"d" * 100)
    assert os.listdir(root) == []


# -- replacing -------------------------------------------------------------------------------------


def test_a_file_has_exactly_the_wanted_attributes(root: Path, tree: HostTree) -> None:
    make_tree(root, {"f": File(b"old", mode=0o600, xattrs={"user.old": b"1"})})
    attributes = wanted(0o4751, 1_234_567_890_123_456_789, xattrs={b"user.new": b"2"})
    assert tree.replace_file(b"f", writer(b"new"), attributes) == ()
    entry = snapshot(root, mtime=True)[b"f"]
    assert (entry.data, entry.mode, entry.mtime_ns) == (b"new", 0o4751, 1_234_567_890_123_456_789)
    assert entry.xattrs == {"user.new": b"2"}


OLD: dict[str, Tree] = {
    "nothing": {},
    "file": {"x": b"old"},
    "link": {"x": Symlink(b"../../outside/canary")},
    "link-to-directory": {"x": Symlink(b"../../outside/dir")},
    "empty-directory": {"x": {}},
}


@pytest.mark.parametrize("old", OLD.values(), ids=OLD)
def test_any_object_is_replaced_by_any_other(old: Tree, root: Path, tree: HostTree) -> None:
    make_tree(root, {"first": b"1"})
    makers: dict[str, Callable[[], object]] = {
        "file": lambda: tree.replace_file(b"x", writer(b"new"), wanted()),
        "dir": lambda: tree.make_directory(b"x", wanted(0o755)),
        "symlink": lambda: tree.make_symlink(b"x", b"target", wanted(0o777)),
        "fifo": lambda: tree.make_fifo(b"x", wanted()),
        "hard-link": lambda: tree.hard_link(b"x", b"first"),
    }
    if ROOT:
        makers["char"] = lambda: tree.make_device(b"x", stat.S_IFCHR, os.makedev(1, 3), wanted())
        makers["block"] = lambda: tree.make_device(b"x", stat.S_IFBLK, os.makedev(7, 9), wanted())
    for kind, make in makers.items():
        make_tree(root, old)
        make()
        found = snapshot(root)
        assert found[b"x"].type == kind.replace("hard-link", "file")
        assert sorted(found) == [b".", b"first", b"x"]
        tree.remove(b"x")


@pytest.mark.parametrize("old", ["file", "empty-directory"])
def test_objects_are_replaced_on_a_file_system_that_cannot_exchange_names(
    old: str, root: Path, tree: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(22, "unsupported")

    monkeypatch.setattr(_libc, "renameat2", unsupported)
    make_tree(root, OLD[old])
    if old == "file":
        tree.make_directory(b"x", wanted(0o755))
    else:
        tree.replace_file(b"x", writer(b"new"), wanted())
    assert snapshot(root)[b"x"].type == ("dir" if old == "file" else "file")
    assert os.listdir(root) == ["x"]


def test_a_directory_with_entries_is_not_replaced(root: Path, tree: HostTree) -> None:
    make_tree(root, {"d": {"x": b"1"}, "f": b"2"})
    before = snapshot(root, mtime=True)
    for call in (
        lambda: tree.replace_file(b"d", writer(b"new"), wanted()),
        lambda: tree.make_fifo(b"d", wanted()),
        lambda: tree.hard_link(b"d", b"f"),
        lambda: tree.rename(b"f", b"d", replace=True),
        lambda: tree.remove(b"d"),
    ):
        assert error_of(call) == "/shown/d: directory not empty"
    assert {**snapshot(root, mtime=True), b".": before[b"."]} == before


def test_a_directory_that_exists_stays(root: Path, tree: HostTree) -> None:
    make_tree(root, {"d": Dir({"x": b"1"}, mode=0o750)})
    before = snapshot(root, mtime=True)
    tree.make_directory(b"d", wanted(0o700))
    assert snapshot(root, mtime=True) == before


def test_another_name_of_the_same_file_is_left(root: Path, tree: HostTree) -> None:
    make_tree(root, {"one": b"1"})
    tree.hard_link(b"two", b"one")
    tree.hard_link(b"two", b"one")
    assert os.path.samefile(root / "one", root / "two")
    tree.rename(b"one", b"two", replace=True)
    assert os.listdir(root) == ["two"]


def test_a_file_that_was_replaced_keeps_its_other_names_as_they_were(root: Path, tree: HostTree) -> None:
    make_tree(root, {"one": b"old"})
    os.link(root / "one", root / "two")
    tree.replace_file(b"one", writer(b"new"), wanted())
    assert (root / "two").read_bytes() == b"old"


def test_the_check_sees_what_would_be_replaced_and_can_keep_it(root: Path, tree: HostTree) -> None:
    make_tree(root, {"f": b"old"})
    seen: list[os.stat_result | None] = []

    def keep(info: os.stat_result | None) -> None:
        seen.append(info)
        raise SandboxError("kept", hint="-")

    for path in (b"f", b"new"):
        with pytest.raises(SandboxError, match="kept"):
            tree.replace_file(path, writer(b"new"), wanted(), keep)
    assert seen[0] is not None
    assert seen[0].st_ino == (root / "f").stat().st_ino
    assert seen[1] is None
    assert os.listdir(root) == ["f"]


def test_what_a_killed_process_left_is_removed(root: Path, tree: HostTree) -> None:
    make_tree(
        root,
        {".f.sandbox-new": b"half", ".d.sandbox-new": {}, ".l.sandbox-new": Symlink(b"../../outside/dir")},
    )
    tree.replace_file(b"f", writer(b"x"), wanted())
    tree.make_directory(b"d", wanted(0o755))
    tree.make_symlink(b"l", b"x", wanted(0o777))
    assert sorted(os.listdir(root)) == ["d", "f", "l"]


def test_nothing_is_left_after_an_error(root: Path, tree: HostTree) -> None:
    def fail(fd: int) -> None:
        os.write(fd, b"half")
        raise OSError(28, os.strerror(28))

    make_tree(root, {"f": b"old"})
    assert error_of(tree.replace_file, b"f", fail, wanted()) == "/shown/f: no space left on device"
    assert snapshot(root)[b"f"].data == b"old"
    assert os.listdir(root) == ["f"]


def test_a_file_with_the_temporary_name_of_another_one_is_not_lost(root: Path, tree: HostTree) -> None:
    tree.replace_file(b".f.sandbox-new", writer(b"wanted"), wanted())
    assert ".f.sandbox-new in the same directory" in error_of(tree.replace_file, b"f", writer(b"x"), wanted())
    assert snapshot(root)[b".f.sandbox-new"].data == b"wanted"


# -- attributes ------------------------------------------------------------------------------------


def test_the_attributes_of_a_directory_are_exact(root: Path, tree: HostTree) -> None:
    make_tree(root, {"d": Dir({"x": b"1"}, mode=0o555, xattrs={"user.old": b"1", "user.kept": b"2"})})
    attributes = wanted(0o2711, 5 * 10**9, xattrs={b"user.kept": b"2", b"user.new": b"3"})
    assert tree.set_directory_attributes(b"d", attributes) == ()
    entry = snapshot(root, mtime=True)[b"d"]
    assert (entry.mode, entry.mtime_ns) == (0o2711, 5 * 10**9)
    assert entry.xattrs == {"user.kept": b"2", "user.new": b"3"}


def test_a_symbolic_link_has_its_own_time_and_its_target_stays(root: Path, tree: HostTree) -> None:
    tree.make_symlink(b"l", b"../../outside/canary", wanted(0o777, 77))
    assert os.lstat(root / "l").st_mtime_ns == 77
    tree.set_time(b"l", 78)
    assert os.lstat(root / "l").st_mtime_ns == 78


def test_attributes_that_cannot_be_set_but_left_out_are_returned(tree: HostTree) -> None:
    attributes = wanted(xattrs={b"user.color": b"blue"})
    assert tree.make_fifo(b"p", attributes) == (b"user.color",)


@pytest.mark.skipif(ROOT, reason="root may set every owner")
def test_an_owner_that_the_user_cannot_set_is_an_error_with_the_path_and_both_ids(
    root: Path, tree: HostTree
) -> None:
    make_tree(root, {"f": b"old"})
    for call in (
        lambda: tree.replace_file(b"f", writer(b"new"), wanted(uid=12345, gid=54321)),
        lambda: tree.make_symlink(b"l", b"x", wanted(uid=12345, gid=54321)),
        lambda: tree.make_directory(b"d", wanted(uid=12345, gid=54321)),
    ):
        message = error_of(call)
        assert message.startswith("/shown/")
        assert f"owner 12345:54321 cannot be set by user {os.geteuid()}" in message
    assert snapshot(root)[b"f"].data == b"old"
    assert os.listdir(root) == ["f"]


@pytest.mark.skipif(not ROOT, reason="only root may set every owner")
def test_root_sets_owners_of_every_kind_of_object(root: Path, tree: HostTree) -> None:
    attributes = wanted(0o6755, uid=12345, gid=54321)
    tree.replace_file(b"f", writer(b"new"), attributes)
    tree.make_symlink(b"l", b"x", attributes)
    tree.make_directory(b"d", attributes)
    tree.make_fifo(b"p", attributes)
    found = {path: (entry.uid, entry.gid, entry.mode) for path, entry in snapshot(root).items()}
    assert found[b"f"] == found[b"d"] == found[b"p"] == (12345, 54321, 0o6755)
    assert found[b"l"][:2] == (12345, 54321)


@pytest.mark.parametrize("owner", [(-1, 0), (0, 2**32 - 1), (2**40, 0)])
def test_an_invalid_owner_is_refused(owner: tuple[int, int], root: Path, tree: HostTree) -> None:
    message = error_of(tree.replace_file, b"f", writer(b""), wanted(uid=owner[0], gid=owner[1]))
    assert f"{owner[0]}:{owner[1]}" in message
    assert os.listdir(root) == []


def test_a_time_out_of_range_is_refused(tree: HostTree) -> None:
    assert "out of range" in error_of(tree.replace_file, b"f", writer(b""), wanted(mtime_ns=1 << 94))


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an access control list as the kernel stores it: tag, permissions, id."""
    packed = b"".join(
        tag.to_bytes(2, "little") + permissions.to_bytes(2, "little") + number.to_bytes(4, "little")
        for tag, permissions, number in entries
    )
    return (2).to_bytes(4, "little") + packed


NONE = 0xFFFFFFFF
ACL = acl((1, 6, NONE), (2, 4, 12345), (4, 4, NONE), (0x10, 6, NONE), (0x20, 4, NONE))


def test_an_access_control_list_is_not_inherited_from_the_directory(root: Path, tree: HostTree) -> None:
    os.setxattr(root, "system.posix_acl_default", ACL)
    tree.replace_file(b"f", writer(b""), wanted(0o640))
    tree.make_directory(b"d", wanted(0o750))
    for name in ("f", "d"):
        assert not [each for each in os.listxattr(root / name) if "acl" in each]
        assert not (root / name).stat().st_mode & 0o7


def test_an_access_control_list_that_the_archive_does_not_have_stays_if_it_has_none(
    root: Path, tree: HostTree
) -> None:
    make_tree(root, {"f": b"old", "plain": b"old"})
    os.setxattr(root / "f", "system.posix_acl_access", ACL)
    os.setxattr(root, "system.posix_acl_default", ACL)
    fd = os.open(root, os.O_PATH)
    keeping = HostTree(fd, keep_acls=True)
    for name in (b"f", b"plain"):
        keeping.replace_file(name, writer(b"new"), wanted(0o664))
    os.close(fd)
    assert os.getxattr(root / "f", "system.posix_acl_access") == ACL
    assert os.listxattr(root / "plain") == []
    tree.replace_file(b"f", writer(b"newer"), wanted(0o664))
    assert os.listxattr(root / "f") == []


# -- never outside ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [b"../outside/canary", b"d/../../outside/canary", b"..", b"d/..", b".", b"./f"]
)
def test_a_path_with_dots_is_refused(path: bytes, root: Path, tree: HostTree) -> None:
    make_tree(root, {"d": {}})
    for call in all_calls(tree, path):
        assert error_of(call)


def test_a_symbolic_link_on_the_way_is_refused(root: Path, tree: HostTree) -> None:
    make_tree(root, {"l": Symlink(b"../../outside/dir"), "inner": Symlink(b"d"), "d": {"f": b"1"}})
    for path in (b"l/inner", b"l/new", b"inner/f"):
        assert tree.lstat(path) is None
        for call in all_calls(tree, path):
            assert "symbolic link" in error_of(call)
    assert snapshot(root)[b"d/f"].data == b"1"


def all_calls(tree: HostTree, path: bytes) -> list[Callable[[], object]]:
    """Return a call of each method that writes."""
    return [
        lambda: tree.replace_file(path, writer(b"x"), wanted()),
        lambda: tree.make_directory(path, wanted(0o755)),
        lambda: tree.make_symlink(path, b"x", wanted()),
        lambda: tree.make_fifo(path, wanted()),
        lambda: tree.make_device(path, stat.S_IFCHR, os.makedev(1, 3), wanted()),
        lambda: tree.hard_link(path, b"d"),
        lambda: tree.hard_link(b"new", path),
        lambda: tree.set_directory_attributes(path, wanted(0o755)),
        lambda: tree.set_time(path, 0),
        lambda: tree.remove(path),
        lambda: tree.remove_tree(path),
        lambda: tree.rename(path, b"new"),
        lambda: tree.rename(b"d", path),
        lambda: tree.open_parent(path),
    ]


# -- removing and renaming -------------------------------------------------------------------------


def test_a_rename_keeps_what_is_there_unless_told_otherwise(root: Path, tree: HostTree) -> None:
    make_tree(root, {"a": b"1", "b": b"2", "d": {"x": b"3"}, "e": {}})
    assert error_of(tree.rename, b"a", b"b") == "/shown/b: file exists"
    assert error_of(tree.rename, b"d", b"e") == "/shown/e: file exists"
    tree.rename(b"a", b"b", replace=True)
    tree.rename(b"d", b"e", replace=True)
    assert sorted(snapshot(root)) == [b".", b"b", b"e", b"e/x"]
    tree.rename(b"b", b"e/b")
    tree.rename(b"e/x", b"x")
    assert sorted(snapshot(root)) == [b".", b"e", b"e/b", b"x"]


def test_a_tree_is_removed_whatever_is_in_it(root: Path, tree: HostTree) -> None:
    closed = Dir({"a": Dir({"f": b"1"}, mode=0o500), "l": Symlink(b"../../outside/dir")}, mode=0o000)
    make_tree(root, {"d": closed, "f": b"2", "l": Symlink(b"../outside")})
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(root)
        try:
            sock.bind("s")
        finally:
            os.chdir(here)
    for name in (b"d", b"f", b"l", b"s"):
        tree.remove_tree(name)
    assert os.listdir(root) == []


# -- directories of the user without write permission ----------------------------------------------


@pytest.mark.skipif(ROOT, reason="root needs no permission")
def test_the_owner_writes_to_a_directory_without_write_permission_which_stays_as_it_is(
    root: Path, tree: HostTree
) -> None:
    make_tree(
        root,
        {
            "d": Dir({"f": b"old", "gone": b"", "e": Dir({}, mode=0o555), "moved": b"1"}, mode=0o555),
            "to": Dir({}, mode=0o511),
        },
    )
    tree.replace_file(b"d/f", writer(b"new"), wanted())
    tree.make_directory(b"d/made", wanted(0o555))
    tree.make_symlink(b"d/made/l", b"x", wanted())
    tree.make_fifo(b"d/p", wanted())
    tree.hard_link(b"d/link", b"d/f")
    tree.remove(b"d/gone")
    tree.rename(b"d/moved", b"to/moved")
    tree.rename(b"d/e", b"to/e")
    found = snapshot(root)
    assert found[b"d/f"].data == b"new"
    assert {path: entry.mode for path, entry in found.items() if entry.type == "dir"} == {
        b".": found[b"."].mode, b"d": 0o555, b"d/made": 0o555, b"to": 0o511, b"to/e": 0o555,
    }  # fmt: skip
    assert sorted(found) == [
        b".",
        b"d",
        b"d/f",
        b"d/link",
        b"d/made",
        b"d/made/l",
        b"d/p",
        b"to",
        b"to/e",
        b"to/moved",
    ]


@pytest.mark.skipif(ROOT, reason="root needs no permission")
def test_the_directory_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    fd = os.open("/usr", os.O_PATH)
    try:
        message = error_of(HostTree(fd, "/usr").replace_file, b"bin/new", writer(b""), wanted())
        assert message in ("/usr/bin/new: permission denied", "/usr/bin/new: read-only file system")
    finally:
        os.close(fd)
