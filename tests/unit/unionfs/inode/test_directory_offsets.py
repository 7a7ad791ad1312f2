"""Directory offsets stay valid when the directory changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unionfs.inode.directory_offsets import DirectoryOffsets

NAMES = st.lists(st.sampled_from([b"%d" % number for number in range(12)]), unique=True)


def listed(offsets: DirectoryOffsets, start: int = 0) -> list[bytes]:
    return [name for name, _ in offsets.since(start)]


def test_names_are_numbered_in_the_order_in_which_they_came() -> None:
    offsets = DirectoryOffsets()
    offsets.update([b"b", b"a", b"c"])
    assert list(offsets.since(0)) == [(b"b", 0), (b"a", 1), (b"c", 2)]
    assert listed(offsets, 2) == [b"c"]
    assert listed(offsets, 3) == []


def test_a_name_keeps_its_number_while_others_go_and_come() -> None:
    offsets = DirectoryOffsets()
    offsets.update([b"a", b"b", b"c"])
    offsets.update([b"new", b"c", b"a"])
    assert list(offsets.since(0)) == [(b"a", 0), (b"c", 2), (b"new", 3)]
    assert listed(offsets, 1) == [b"c", b"new"]


def test_a_name_that_was_there_before_comes_last() -> None:
    offsets = DirectoryOffsets()
    offsets.update([b"a", b"b"])
    offsets.update([b"b"])
    offsets.update([b"a", b"b"])
    assert list(offsets.since(0)) == [(b"b", 1), (b"a", 2)]


def test_an_offset_beyond_all_and_a_directory_without_names_give_nothing() -> None:
    offsets = DirectoryOffsets()
    assert listed(offsets) == listed(offsets, (1 << 64) - 3) == []
    offsets.update([b"a"])
    offsets.update([])
    assert listed(offsets) == []
    offsets.update([b"b"])
    assert list(offsets.since(0)) == [(b"b", 1)]


@given(st.lists(NAMES, min_size=1), st.data())
def test_a_reader_sees_what_stays_exactly_once_whatever_changes(
    states: list[list[bytes]], data: st.DataObject
) -> None:
    offsets = DirectoryOffsets()
    seen: list[bytes] = []
    at = 0
    for names in states:
        offsets.update(names)
        assert sorted(listed(offsets)) == sorted(names)
        for name, number in offsets.since(at):
            if data.draw(st.booleans()):
                break
            seen.append(name)
            at = number + 1
    seen += listed(offsets, at)
    for name in set.intersection(*(set(names) for names in states)):
        assert seen.count(name) == 1
