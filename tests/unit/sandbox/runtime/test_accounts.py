"""Users of a sandbox, looked up in files that its layers hold and nobody vouches for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.runtime.accounts import UnknownAccountError, resolve

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
