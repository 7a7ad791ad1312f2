"""Unpacking through links: a hostile archive cannot reach anything outside of the destination."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from tests.unit.sandbox.images.tars import (
    FIFO,
    SYMLINK,
    directory,
    extract,
    file,
    hard_link,
    header,
    symlink,
    tar,
)
from tests.unit.sandbox.images.unpacking import paths, refused


def test_a_member_behind_a_link_lands_where_the_link_leads_inside(root: Path) -> None:
    extract(
        tar(
            directory(b"usr/lib"),
            symlink(b"lib", b"usr/lib"),
            symlink(b"deep/abs", b"/usr/./lib/"),
            symlink(b"deep/up", b"../../../usr"),
            symlink(b"chain", b"deep/abs"),
            file(b"lib/one", b"1"),
            file(b"deep/abs/two", b"2"),
            file(b"deep/up/lib/three", b"3"),
            file(b"chain/four", b"4"),
            directory(b"chain/five", mode=0o711),
        ),
        root,
    )
    assert sorted(os.listdir(root / "usr/lib")) == ["five", "four", "one", "three", "two"]
    assert stat.S_IMODE(os.stat(root / "usr/lib/five").st_mode) == 0o711
    assert (root / "lib").is_symlink()
    assert (root / "chain").is_symlink()


def test_a_member_behind_a_dangling_link_makes_what_it_leads_to(root: Path) -> None:
    extract(tar(symlink(b"bin", b"usr/bin"), file(b"bin/sh", b"x")), root)
    assert paths(root) == {"bin": "symlink", "usr": "dir", "usr/bin": "dir", "usr/bin/sh": "file"}


@pytest.mark.parametrize(
    "target",
    [
        "{outside}",
        "{outside}/dir",
        "../../outside",
        "../../outside/dir",
        "/../../../..{outside}",
        "/proc/self/cwd",
    ],
)
def test_writing_through_a_link_stays_inside(target: str, root: Path, tmp_path: Path) -> None:
    link = os.fsencode(target.format(outside=tmp_path / "outside"))
    extract(tar(symlink(b"out", link), file(b"out/canary", b"bad"), file(b"out/dir/inner", b"bad")), root)
    assert os.readlink(os.fsencode(root / "out")) == link
    found = [directory for directory, _, names in os.walk(root) if "canary" in names]
    assert len(found) == 1


def test_a_file_directory_or_fifo_never_goes_through_a_link_of_its_own_name(
    root: Path, tmp_path: Path
) -> None:
    canary = os.fsencode(tmp_path / "outside/canary")
    outside = os.fsencode(tmp_path / "outside/dir")
    extract(
        tar(
            symlink(b"f", canary),
            file(b"f", b"bad"),
            symlink(b"d", outside),
            directory(b"d", mode=0o700, mtime=1),
            file(b"d/inner", b"bad"),
            symlink(b"p", canary),
            header(b"p", flag=FIFO, mode=0o777),
            symlink(b"s", canary),
            symlink(b"s", outside),
        ),
        root,
    )
    assert paths(root) == {"f": "file", "d": "dir", "d/inner": "file", "p": "fifo", "s": "symlink"}


def test_a_directory_replaced_by_a_link_and_then_filled_is_filled_where_the_link_leads(
    root: Path, tmp_path: Path
) -> None:
    extract(
        tar(
            directory(b"d", mode=0o700),
            file(b"d/old"),
            directory(b"d/sub"),
            symlink(b"d", os.fsencode(tmp_path / "outside")),
            file(b"d/canary", b"bad"),
            file(b"d/sub/x", b"bad"),
        ),
        root,
    )
    inside = str(root) + str(tmp_path / "outside")
    assert (root / "d").is_symlink()
    assert sorted(os.listdir(inside)) == ["canary", "sub"]


def test_a_link_replaced_by_a_directory_is_not_remembered(root: Path) -> None:
    extract(
        tar(directory(b"t"), symlink(b"d", b"t"), file(b"d/one"), directory(b"d"), file(b"d/two")),
        root,
    )
    assert paths(root) == {"t": "dir", "t/one": "file", "d": "dir", "d/two": "file"}


def test_links_that_lead_in_a_circle_are_refused(root: Path) -> None:
    message = refused(root, symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x"))
    assert message == "a.tar: a/x: its path contains too many symbolic links"


def test_a_hard_link_to_a_link_is_another_name_of_the_link(root: Path, tmp_path: Path) -> None:
    extract(tar(symlink(b"s", os.fsencode(tmp_path / "outside/canary")), hard_link(b"h", b"s")), root)
    assert (root / "h").is_symlink()
    assert os.lstat(root / "h").st_ino == os.lstat(root / "s").st_ino


def test_a_hard_link_finds_its_target_behind_links_inside(root: Path) -> None:
    extract(tar(file(b"usr/f", b"x"), symlink(b"u", b"/usr"), hard_link(b"h", b"/u/f")), root)
    assert os.path.samefile(root / "h", root / "usr/f")


def test_a_hard_link_to_itself_or_to_another_of_its_names_changes_nothing(root: Path) -> None:
    extract(tar(file(b"a", b"x"), hard_link(b"a", b"a"), hard_link(b"b", b"a"), hard_link(b"a", b"b")), root)
    assert (root / "a").read_bytes() == b"x"
    assert os.stat(root / "a").st_nlink == 2


def test_a_hard_link_replaces_what_has_its_name(root: Path) -> None:
    extract(tar(file(b"a", b"x"), directory(b"d"), file(b"d/inner"), hard_link(b"d", b"a")), root)
    assert os.path.samefile(root / "a", root / "d")


@pytest.mark.parametrize(
    "parts",
    [
        (hard_link(b"h", b"missing"),),
        (hard_link(b"h", b"missing/deeper"),),
        (file(b"f"), hard_link(b"h", b"f/x")),
        (hard_link(b"h", b"{outside}/canary"),),
        (symlink(b"out", b"{outside}"), hard_link(b"h", b"out/canary")),
        (hard_link(b"h", b""),),
        (directory(b"d"), file(b"d/f"), hard_link(b"d", b"d/f")),
        (file(b"f"), hard_link(b"f/h", b"f")),
    ],
)
def test_a_hard_link_to_what_is_no_member_is_refused(
    parts: tuple[bytes, ...], root: Path, tmp_path: Path
) -> None:
    where = os.fsencode(tmp_path / "outside")
    filled = [
        header(
            block[:100].rstrip(b"\0"),
            flag=block[156:157],
            link=block[157:257].rstrip(b"\0").replace(b"{outside}", where),
        )
        for block in parts
    ]
    assert re.search("a hard link to .*(which is not an earlier member|directory)", refused(root, *filled))


def test_a_hard_link_to_a_directory_is_refused(root: Path) -> None:
    assert refused(root, directory(b"d"), hard_link(b"h", b"d")) == "a.tar: h: a hard link to a directory"


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"a/..", b"..", b"/../x"])
def test_dots_that_lead_up_are_refused_in_names_and_hard_links(name: bytes, root: Path) -> None:
    for part in (file(name), directory(name), symlink(name, b"t"), hard_link(b"h", name)):
        assert "a path with `..` in it" in refused(root, file(b"x"), part)


def test_the_root_cannot_be_anything_but_a_directory(root: Path) -> None:
    for name in (b".", b"./", b"/"):
        for flag in (SYMLINK, FIFO):
            assert "must be a directory" in refused(root, header(name, flag=flag, link=b"x"))


def test_a_symbolic_link_without_target_is_refused(root: Path) -> None:
    assert refused(root, symlink(b"s", b"")) == "a.tar: s: a symbolic link to 0 bytes"


def test_a_message_shows_no_control_characters_of_a_name(root: Path) -> None:
    assert refused(root, file(b"\x1b[2J/../\n")).isprintable()
