"""Discarding changes after random histories of a union that is frozen at random: exactly the chosen ones are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.unit.unionfs.changes.archives import links_in, links_on_disk
from tests.unit.unionfs.changes.discarding import copy_out, discard_and_check
from tests.unit.unionfs.changes.test_earlier_histories import LONG, SHORT, EarlierHistories
from tests.unit.unionfs.changes.trees import below_of, compare, facts, shown_by
from tests.unit.unionfs.operations import FORMS
from tests.unit.unionfs.test_histories import ANY

if TYPE_CHECKING:
    from unionfs.changes.rows import Row

_LEAST_ROWS = 2


class EarlierDiscarding(EarlierHistories):
    """A union of whose changes some are discarded now and then. The plain directory is made anew after that."""

    #: How many changes were discarded that an earlier layer had, and how many others.
    earlier: ClassVar[int] = 0
    others: ClassVar[int] = 0

    @rule(picks=st.lists(ANY, min_size=1, max_size=3), above=st.integers(0, 2))
    def discard(self, picks: list[int], above: int) -> None:
        """Discard some changes, or all in a directory, unless there are too few."""
        rows = compare(self.union)
        if len(rows) < _LEAST_ROWS:
            return
        paths = sorted(
            {row.path for row in rows} | {row.old_path for row in rows if row.old_path is not None}
        )
        chosen = set()
        for pick in picks:
            path = paths[pick % len(paths)]
            for _ in range(above if pick % 4 == 0 else 0):
                path = path.rpartition(b"/")[0] or path
            chosen.add(path)
        self._discard(sorted(chosen), rows)

    def _discard(self, chosen: list[bytes], rows: list[Row]) -> None:
        self._close_handles()
        self._forget_numbers()
        discarded = discard_and_check(self.union, chosen)
        note(f"discard {chosen} -> {sorted(discarded, key=str)}")
        for row in rows:
            if (row.kind, row.path, row.old_path) in discarded:
                in_writable = row.new is not None and row.new.ref.layer.writable
                EarlierDiscarding.earlier += bool(self._client.works) and not in_writable
                EarlierDiscarding.others += in_writable
        assert {value["old"]["since"] for value in facts(self.union) if "old" in value} <= {"same"}
        copy_out(self.union, self.plain)
        self._listed = None
        self._compare_unlisted()
        self.compare()
        self.compare_numbers()
        self._client.check_frozen()

    def finish(self) -> None:
        """Discard all that is left: the union then shows the lowest layers, with their hard links."""
        self._discard([b""], compare(self.union))
        assert compare(self.union) == []
        shown = shown_by(self.union)
        assert shown == below_of(self.union)
        assert links_in(self.union, shown) == links_on_disk(self._base)


def _machine(form: str) -> type[EarlierDiscarding]:
    return type("Machine", (EarlierDiscarding,), {"form": FORMS[form]})


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_old_objects_of_changes_are_shown_whichever_layer_has_them(form: str) -> None:
    before = EarlierDiscarding.earlier, EarlierDiscarding.others
    run_state_machine_as_test(_machine(form), settings=settings(SHORT, max_examples=12))
    assert EarlierDiscarding.earlier > before[0]
    assert EarlierDiscarding.others > before[1]


@pytest.mark.long
@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_old_objects_are_shown_after_long_histories(form: str) -> None:
    run_state_machine_as_test(_machine(form), settings=LONG)
