"""The link index: its records, their lifetime, and the stack that they belong to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from unionfs.layer.directory import Layer
from unionfs.layer.fd_cache import FdCache
from unionfs.layer.objects import PathRef
from unionfs.types import Ino
from unionfs.upper.link_index import ORIGIN_XATTR, LinkIndex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBER = Ino((1 << 48) + 5)


class Home:
    """An upper directory, the home in its work directory, and the indexes that are opened there."""

    def __init__(self, base: Path) -> None:
        self.upper, self.home = base / "upper", base / "home"
        self.upper.mkdir()
        self.home.mkdir()
        self.layer = Layer(os.open(self.upper, os.O_PATH), FdCache(16), writable=True)
        self._home_fd = os.open(self.home, os.O_PATH)
        self._made: list[LinkIndex] = []

    def open(self, fingerprint: bytes = b"1 2") -> LinkIndex:
        self._made.append(LinkIndex(self.layer, self._home_fd, fingerprint))
        return self._made[-1]

    def copy(self, name: str) -> tuple[int, bytes]:
        """Create a finished copy, and return its place."""
        (self.upper / name).write_bytes(b"copy")
        return self.layer.root.fd(), os.fsencode(name)

    def entries(self) -> list[str]:
        return sorted(os.listdir(self.home / "index"))

    def close(self) -> None:
        for index in self._made:
            index.close()
        self.layer.close()
        os.close(self._home_fd)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def test_a_copy_is_found_by_its_number_at_the_next_mount(home: Home) -> None:
    home.open().add(NUMBER, *home.copy("a"), 2, lasting=True)
    again = home.open()
    found = again.find(NUMBER)
    assert found is not None
    assert found.stat().st_ino == (home.upper / "a").stat().st_ino
    assert again.lower_names(NUMBER) == 2


def test_an_upper_name_of_an_indexed_copy_leads_to_its_number(home: Home) -> None:
    index = home.open()
    index.add(NUMBER, *home.copy("a"), 1, lasting=True)
    ref = PathRef(home.layer.root, b"a")
    assert index.origin(ref, ref.stat()) == NUMBER


def test_a_number_of_this_mount_only_is_gone_at_the_next(home: Home) -> None:
    first = home.open()
    first.add(NUMBER, *home.copy("a"), 1, lasting=False)
    first.lose_name(Ino(NUMBER + 1), lasting=False)
    assert first.find(NUMBER) is not None
    second = home.open()
    assert second.find(NUMBER) is None
    assert second.lost_names(Ino(NUMBER + 1)) == 0
    assert home.entries() == []


def test_losing_a_lower_name_counts_down_and_renames_the_entry(home: Home) -> None:
    index = home.open()
    index.add(NUMBER, *home.copy("a"), 2, lasting=True)
    ref = index.lose_lower_name(NUMBER)
    assert ref is not None
    assert home.entries() == [os.fsdecode(ref.name)]
    assert index.lower_names(NUMBER) == 1
    index.lose_lower_name(NUMBER)
    index.lose_lower_name(NUMBER)
    assert index.lower_names(NUMBER) == 0


def test_a_number_that_is_not_indexed_has_no_lower_names_to_lose(home: Home) -> None:
    assert home.open().lose_lower_name(NUMBER) is None


def test_a_copy_to_which_no_name_leads_any_more_is_dropped(home: Home) -> None:
    index = home.open()
    index.add(NUMBER, *home.copy("a"), 1, lasting=True)
    index.add(Ino(NUMBER + 1), *home.copy("b"), 0, lasting=True)
    for name in ("a", "b"):
        (home.upper / name).unlink()
    again = home.open()
    assert again.find(NUMBER) is not None
    assert again.find(Ino(NUMBER + 1)) is None
    assert home.entries() == [f"{NUMBER:x}.1"]


def test_removing_a_copy_leaves_nothing(home: Home) -> None:
    index = home.open()
    index.add(NUMBER, *home.copy("a"), 1, lasting=True)
    index.remove(NUMBER)
    index.remove(NUMBER)
    ref = PathRef(home.layer.root, b"a")
    assert index.find(NUMBER) is None
    assert index.origin(ref, ref.stat()) is None
    assert home.entries() == []


def test_lost_names_are_counted_over_mounts_until_they_are_settled(home: Home) -> None:
    index = home.open()
    index.lose_name(NUMBER, lasting=True)
    index.lose_name(NUMBER, lasting=True)
    again = home.open()
    assert again.lost_names(NUMBER) == 2
    again.settle_lost_names(NUMBER)
    assert again.lost_names(NUMBER) == 0
    assert home.entries() == []


def test_a_count_left_beside_a_copy_by_a_crash_is_dropped(home: Home) -> None:
    index = home.open()
    index.lose_name(NUMBER, lasting=True)
    index.add(NUMBER, *home.copy("a"), 1, lasting=True)
    again = home.open()
    assert again.lost_names(NUMBER) == 0
    assert again.find(NUMBER) is not None
    assert home.entries() == [f"{NUMBER:x}.1"]


def test_an_entry_left_by_a_copy_up_that_a_crash_ended_is_replaced(home: Home) -> None:
    home.open().add(NUMBER, *home.copy("a"), 1, lasting=True)
    index = home.open()
    index.add(NUMBER, *home.copy("b"), 1, lasting=True)
    found = index.find(NUMBER)
    assert found is not None
    assert found.stat().st_ino == (home.upper / "b").stat().st_ino


def test_facts_written_over_other_layers_are_dropped(home: Home) -> None:
    index = home.open()
    fd = os.open(home.upper / "f", os.O_RDWR | os.O_CREAT, 0o600)
    index.set_origin(fd, NUMBER)
    os.close(fd)
    index.add(NUMBER, *home.copy("a"), 1, lasting=True)
    other = home.open(b"3 4")
    ref = PathRef(home.layer.root, b"f")
    assert other.find(NUMBER) is None
    assert other.origin(ref, ref.stat()) is None
    assert home.entries() == []


def test_an_origin_is_read_back_over_the_same_layers(home: Home) -> None:
    fd = os.open(home.upper / "f", os.O_RDWR | os.O_CREAT, 0o600)
    home.open().set_origin(fd, NUMBER)
    os.close(fd)
    ref = PathRef(home.layer.root, b"f")
    assert home.open().origin(ref, ref.stat()) == NUMBER


@pytest.mark.parametrize("value", [b"", b":", b"zz:5", b"zz"])
def test_an_origin_that_we_did_not_write_is_ignored(home: Home, value: bytes) -> None:
    (home.upper / "f").write_bytes(b"")
    os.setxattr(home.upper / "f", ORIGIN_XATTR, value)
    ref = PathRef(home.layer.root, b"f")
    assert home.open().origin(ref, ref.stat()) is None


def test_a_number_that_is_none_after_our_generation_is_ignored(home: Home) -> None:
    index = home.open()
    (home.upper / "f").write_bytes(b"")
    fd = os.open(home.upper / "f", os.O_RDWR)
    index.set_origin(fd, NUMBER)
    generation = os.getxattr(fd, ORIGIN_XATTR).partition(b":")[0]
    os.setxattr(fd, ORIGIN_XATTR, generation + b":none")
    os.close(fd)
    ref = PathRef(home.layer.root, b"f")
    assert index.origin(ref, ref.stat()) is None


def test_what_is_no_entry_is_cleared_from_the_index(home: Home) -> None:
    home.open()
    (home.home / "index" / "strange").write_bytes(b"")
    home.open()
    assert home.entries() == []


@pytest.mark.parametrize("stored", [b"", b"\n", b"abc", b"abc\n9 9"])
def test_a_damaged_or_foreign_stack_file_begins_anew(home: Home, stored: bytes) -> None:
    home.open().add(NUMBER, *home.copy("a"), 1, lasting=True)
    (home.home / "stack").write_bytes(stored)
    assert home.open().find(NUMBER) is None
    assert home.open().find(NUMBER) is None
    assert (home.home / "stack").read_bytes().endswith(b"\n1 2")
