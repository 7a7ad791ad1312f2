"""Discarding changes of a union whose layer was frozen: what the writable layer alone changed is gone, or nothing happens."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.unit.unionfs.changes.discarding import Key, copy_out, discard_from, keys
from tests.unit.unionfs.changes.test_earlier_histories import LONG, SHORT, EarlierHistories
from tests.unit.unionfs.changes.trees import compare
from tests.unit.unionfs.operations import FORMS
from tests.unit.unionfs.test_histories import ANY
from unionfs.errors import UnionError


class EarlierDiscarding(EarlierHistories):
    """A union of whose changes some are discarded now and then. The plain directory is made anew after that."""

    #: How often changes were discarded although there was an earlier layer, and how often that was refused.
    discarded: ClassVar[int] = 0
    refused: ClassVar[int] = 0

    @rule(pick=ANY)
    def discard_one(self, pick: int) -> None:
        """Discard one change."""
        self._discard([pick], 0)

    @rule(picks=st.lists(ANY, min_size=1, max_size=2), above=st.integers(0, 2))
    def discard_some(self, picks: list[int], above: int) -> None:
        """Discard some changes, or all in a directory."""
        self._discard(picks, above)

    def _discard(self, picks: list[int], above: int) -> None:
        self._close_handles()
        self._forget_numbers()
        before = compare(self.union)
        if not before:
            return
        ours = [row for row in before if row.new is not None and row.new.ref.layer.writable]
        chosen = set()
        for pick in picks:
            candidates = ours if ours and pick % 4 else before
            path = candidates[pick % len(candidates)].path
            for _ in range(above if pick % 8 == 0 else 0):
                path = path.rpartition(b"/")[0] or path
            chosen.add(b"/" + path)
        discarded: set[Key] = set()
        try:
            discarded = keys(discard_from(self.union, *sorted(chosen)))
            assert discarded
        except UnionError as error:
            note(f"discard {chosen} -> {error}")
        else:
            note(f"discard {chosen} -> {sorted(discarded, key=str)}")
            copy_out(self.union, self.plain)
        EarlierDiscarding.discarded += bool(discarded and self._client.works)
        EarlierDiscarding.refused += not discarded
        assert keys(compare(self.union)) == keys(before) - discarded
        self._listed = None
        self._compare_unlisted()
        self.compare()
        self.compare_numbers()
        self._client.check_frozen()


def _machine(form: str) -> type[EarlierDiscarding]:
    return type("Machine", (EarlierDiscarding,), {"form": FORMS[form]})


@pytest.mark.parametrize("form", sorted(FORMS))
def test_changes_of_the_writable_layer_are_discarded_and_others_are_refused(form: str) -> None:
    before = EarlierDiscarding.discarded, EarlierDiscarding.refused
    run_state_machine_as_test(_machine(form), settings=settings(SHORT, max_examples=12))
    assert EarlierDiscarding.discarded > before[0]
    assert EarlierDiscarding.refused > before[1]


@pytest.mark.long
@pytest.mark.parametrize("form", sorted(FORMS))
def test_changes_are_discarded_or_refused_after_long_histories(form: str) -> None:
    run_state_machine_as_test(_machine(form), settings=LONG)
