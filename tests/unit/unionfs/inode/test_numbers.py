"""Inode numbers are unique and constant, and persist over mounts where documented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.inode import numbers
from unionfs.inode.numbers import InodeNumbers

LIMIT = 1 << 48


def numbers_of(*devices: int) -> InodeNumbers:
    made = InodeNumbers()
    for device in devices:
        made.announce(device)
    return made


def test_equal_inode_numbers_of_two_devices_get_two_numbers() -> None:
    made = numbers_of(7, 9)
    assert made.number((7, 1)) != made.number((9, 1))


def test_the_first_inode_of_a_device_is_not_the_root_of_the_mount() -> None:
    assert numbers_of(7).number((7, 1)) > 1


def test_a_layer_added_on_top_changes_no_number() -> None:
    before, after = numbers_of(7, 9), numbers_of(7, 9, 11)
    for identity in ((7, 12), (9, 12)):
        assert before.number(identity) == after.number(identity)


def test_a_number_below_2_to_the_48_lasts_on_an_announced_device_only() -> None:
    made = numbers_of(7)
    assert made.lasts(made.number((7, LIMIT - 1)))
    assert not made.lasts(made.number((8, 5)))


def test_inode_numbers_that_do_not_fit_last_as_well_on_an_announced_device() -> None:
    made, again = numbers_of(7), numbers_of(7, 9)
    for inode in (LIMIT, LIMIT + 1, 1 << 63, 0):
        number = made.number((7, inode))
        assert number == made.number((7, inode)) == again.number((7, inode))
        assert made.lasts(number)
        assert not made.lasts(made.number((8, inode)))


def test_of_two_objects_that_are_spread_to_one_number_the_second_gets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numbers, "_spread", lambda _index, _inode: 5)
    made = numbers_of(7)
    first, second = made.number((7, LIMIT)), made.number((7, LIMIT + 1))
    assert first != second
    assert made.lasts(first)
    assert not made.lasts(second)


def test_a_fresh_number_is_nobody_elses_and_does_not_last() -> None:
    made = numbers_of(7)
    taken = {made.number((7, 5)), made.number((7, LIMIT + 5)), made.fresh()}
    fresh = made.fresh()
    assert fresh not in taken
    assert not made.lasts(fresh)
    assert made.number((7, LIMIT + 6)) != fresh


_IDENTITIES = st.tuples(st.integers(0, 40), st.integers(0, (1 << 64) - 1))


@given(st.lists(st.integers(0, 40), max_size=5), st.lists(_IDENTITIES, min_size=1, max_size=40))
def test_two_objects_never_share_a_number_and_one_never_changes_its_own(
    devices: list[int], identities: list[tuple[int, int]]
) -> None:
    made = numbers_of(*devices)
    first = {identity: made.number(identity) for identity in identities}
    assert len(set(first.values())) == len(first)
    assert {identity: made.number(identity) for identity in reversed(identities)} == first
    assert all(1 < number < 1 << 64 for number in first.values())
