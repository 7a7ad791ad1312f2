"""The lookup of users in the /etc/passwd and /etc/group of a sandbox, which are untrusted files of its layers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.runtime.process.passwd import UnknownAccountError, find_groups, groups_of, resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv/web:/bin/false\nbad line\n:::::::::\nodd:x:-1:0::/:/x\n"
GROUP = "root:x:0:\nadm:x:4:web\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(PASSWD)
    (tmp_path / "etc" / "group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


def test_name_gives_ids_and_home(root: int) -> None:
    account = resolve(root, "web", None)
    assert (account.uid, account.gid, account.home, account.name) == (33, 44, "/srv/web", "web")


def test_number_that_has_an_entry_is_that_user(root: int) -> None:
    account = resolve(root, 33, None)
    assert (account.gid, account.name) == (44, "web")


def test_number_without_an_entry_has_group_0_and_the_root_for_a_home(root: int) -> None:
    account = resolve(root, 4242, None)
    assert (account.uid, account.gid, account.home, account.name) == (4242, 0, "/", None)


def test_group_by_name_and_number(root: int) -> None:
    assert resolve(root, "web", "adm").gid == 4
    assert resolve(root, "web", 77).gid == 77


@pytest.mark.parametrize("name", ["nobody-here", "bad line", "odd", ""])
def test_unknown_user_is_an_error(root: int, name: str) -> None:
    with pytest.raises(UnknownAccountError, match="not in the sandbox's /etc/passwd"):
        resolve(root, name, None)


def test_unknown_group_is_an_error(root: int) -> None:
    with pytest.raises(UnknownAccountError, match="not in the sandbox's /etc/group"):
        resolve(root, "web", "no-group")


def test_account_file_that_is_a_fifo_does_not_block(root: int, tmp_path: Path) -> None:
    (tmp_path / "etc" / "passwd").unlink()
    os.mkfifo(tmp_path / "etc" / "passwd")
    assert resolve(root, 0, None).home == "/"


def test_account_file_that_links_out_of_the_root_is_not_followed(root: int, tmp_path: Path) -> None:
    (tmp_path / "etc" / "passwd").unlink()
    (tmp_path / "etc" / "passwd").symlink_to("/../../../../../../etc/passwd")
    with pytest.raises(UnknownAccountError):
        resolve(root, "daemon", None)


@pytest.mark.parametrize(
    ("text", "home"),
    [
        (
            "root:x:0:0:root:/first:/bin/sh\nroot:x:0:0:root:/second:/bin/sh\n",
            "/first",
        ),  # as getpwnam(3) does
        ("root:x:0:0:root:/no-newline:/bin/sh", "/no-newline"),
        ("root:x:0:0:root:relative:/bin/sh\n", "/"),
        ("root:x:0:0:ro\0ot:/nul:/bin/sh\nroot:x:0:0:root:/clean:/bin/sh\n", "/clean"),
        ("root:x:0:4294967295:root:/odd:/bin/sh\n", "/"),
        ("root:x:0:-1:root:/odd:/bin/sh\nroot:x:0:0:root:/clean:/bin/sh\n", "/clean"),
        ("root:x:18446744073709551616:0:root:/odd:/bin/sh\n", "/"),
        ("root:x:00:0:root:/zeros:/bin/sh\n", "/zeros"),
        (":x:0:0:root:/nameless:/bin/sh\n", "/"),
        ("+::::::\n\n\xff\xfe:x:0:0::/bytes:/x\n", "/bytes"),
        ("#" * (4 << 20) + "\nroot:x:0:0:root:/late:/bin/sh\n", "/"),  # too large for a user id
    ],
)
def test_hostile_account_files_give_a_home_or_none(root: int, tmp_path: Path, text: str, home: str) -> None:
    (tmp_path / "etc" / "passwd").write_bytes(text.encode("latin-1"))
    account = resolve(root, 0, None)
    assert (account.uid, account.gid, account.home) == (0, 0, home)


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_only_a_line_feed_ends_an_entry(root: int, tmp_path: Path, separator: str) -> None:
    # Python's splitlines() would find a second entry in this name, which a user can set with chfn(1).
    text = f"web:x:33:33:web{separator}admin:x:0:0::/:/bin/sh\n"
    (tmp_path / "etc" / "passwd").write_text(text, newline="")
    with pytest.raises(UnknownAccountError):
        resolve(root, "admin", None)


@pytest.mark.parametrize("number", ["-1", "4294967295", "4294967296", "99999999999", "0x0", "\u0660", ""])
def test_entry_with_an_impossible_id_is_none(root: int, tmp_path: Path, number: str) -> None:
    (tmp_path / "etc" / "passwd").write_text(f"odd:x:{number}:0::/:/bin/sh\neven:x:5:{number}::/:/bin/sh\n")
    for name in ("odd", "even"):
        with pytest.raises(UnknownAccountError):
            resolve(root, name, None)


@pytest.mark.parametrize("kind", ["directory", "device", "socket", "loop"])
def test_account_file_that_is_no_file_is_none(root: int, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "etc" / "passwd"
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
        (tmp_path / "dev").mkdir()
        try:
            os.mknod(tmp_path / "dev" / "zero", 0o20666, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root makes devices")
    elif kind == "socket":
        import socket

        # Bound relative to the directory, because a socket path has at most 107 bytes (unix(7)).
        directory = os.open(path.parent, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
    else:
        path.symlink_to("passwd")
    assert resolve(root, 0, None).home == "/"


def test_groups_are_found_by_name_in_their_order_and_ids_need_no_entry(root: int) -> None:
    assert find_groups(root, ("adm", 77, "root")) == (4, 77, 0)
    assert find_groups(root, ()) == ()


def test_first_of_several_groups_that_is_not_there_is_told(root: int) -> None:
    with pytest.raises(UnknownAccountError, match="group gone is not in the sandbox's /etc/group") as caught:
        find_groups(root, ("adm", 5, "gone", "away"))
    assert caught.value.number == 2


def test_user_is_in_the_groups_whose_entries_list_it(root: int, tmp_path: Path) -> None:
    lines = [
        "one:x:1:web",
        "two:x:2:other,web,third",
        "again:x:2:web",  # the same group id
        "web:x:3:",  # the name of a group is not a member
        "part:x:4:webber,web2,we",
        "last:x:5:a,,web",
    ]
    (tmp_path / "etc" / "group").write_text("\n".join(lines))
    assert groups_of(root, "web") == {1: "one", 2: "two", 5: "last"}


@pytest.mark.parametrize(
    "line",
    [
        "odd:x:-1:web",
        "odd:x:4294967295:web",
        "odd:x:\u0663:web",
        "odd:x::web",
        "odd:x:3",
        "odd:x:3:web:more",
        ":x:3:web",
        "odd:x:3:w\0eb,web",
        "even:x:9:\u2028odd:x:3:web",
        "#" * (4 << 20) + "\nodd:x:3:web",
    ],
)
def test_hostile_group_files_make_nobody_a_member(root: int, tmp_path: Path, line: str) -> None:
    (tmp_path / "etc" / "group").write_text(line + "\n")
    assert groups_of(root, "web") == {}
    with pytest.raises(UnknownAccountError):
        find_groups(root, ("odd",))


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "link out"])
def test_group_file_that_is_no_file_has_no_groups(root: int, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "etc" / "group"
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link out":
        path.symlink_to("/../../../../../../etc/group")
    assert groups_of(root, "root") == {}
    assert find_groups(root, (7,)) == (7,)
    with pytest.raises(UnknownAccountError):
        find_groups(root, ("daemon",))
