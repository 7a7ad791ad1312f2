"""Offsets in a directory stay good however it changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unionfs.inode.directory_offsets import DirectoryOffsets

NAMES = st.lists(st.sampled_from([b"%d" % number for number in range(12)]), unique=True)


def listed(positions: DirectoryOffsets, start: int = 0) -> list[bytes]:
    return [name for name, _ in positions.since(start)]


def test_names_are_numbered_in_the_order_in_which_they_came() -> None:
    positions = DirectoryOffsets()
    positions.update([b"b", b"a", b"c"])
    assert list(positions.since(0)) == [(b"b", 0), (b"a", 1), (b"c", 2)]
    assert listed(positions, 2) == [b"c"]
    assert listed(positions, 3) == []


def test_a_name_keeps_its_number_while_others_go_and_come() -> None:
    positions = DirectoryOffsets()
    positions.update([b"a", b"b", b"c"])
    positions.update([b"new", b"c", b"a"])
    assert list(positions.since(0)) == [(b"a", 0), (b"c", 2), (b"new", 3)]
    assert listed(positions, 1) == [b"c", b"new"]


def test_a_name_that_was_there_before_comes_last() -> None:
    positions = DirectoryOffsets()
    positions.update([b"a", b"b"])
    positions.update([b"b"])
    positions.update([b"a", b"b"])
    assert list(positions.since(0)) == [(b"b", 1), (b"a", 2)]


def test_an_offset_beyond_all_and_a_directory_without_names_give_nothing() -> None:
    positions = DirectoryOffsets()
    assert listed(positions) == listed(positions, (1 << 64) - 3) == []
    positions.update([b"a"])
    positions.update([])
    assert listed(positions) == []
    positions.update([b"b"])
    assert list(positions.since(0)) == [(b"b", 1)]


@given(st.lists(NAMES, min_size=1), st.data())
def test_a_reader_sees_what_stays_exactly_once_whatever_changes(
    states: list[list[bytes]], data: st.DataObject
) -> None:
    positions = DirectoryOffsets()
    seen: list[bytes] = []
    at = 0
    for names in states:
        positions.update(names)
        assert sorted(listed(positions)) == sorted(names)
        for name, number in positions.since(at):
            if data.draw(st.booleans()):
                break
            seen.append(name)
            at = number + 1
    seen += listed(positions, at)
    for name in set.intersection(*(set(names) for names in states)):
        assert seen.count(name) == 1
