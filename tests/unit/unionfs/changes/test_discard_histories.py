"""Discarding changes after random histories of a union: exactly the chosen ones are gone, and the union can be used on."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.unit.unionfs.changes.discarding import copy_out, discard_and_check
from tests.unit.unionfs.changes.trees import below_of, compare, facts, shown_by
from tests.unit.unionfs.operations import FORMS
from tests.unit.unionfs.test_histories import ANY, Histories
from unionfs.upper.below_facts import read_facts

_LEAST_ROWS = 4


class Discarding(Histories):
    """A union of whose changes some are discarded now and then. The plain directory is made anew after that."""

    discarded: ClassVar[int] = 0

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
            for _ in range(above if pick % 2 else 0):
                path = path.rpartition(b"/")[0] or path
            chosen.add(path)
        self._discard(sorted(chosen))

    def _discard(self, chosen: list[bytes]) -> None:
        self._close_handles()
        self._forget_numbers()
        discarded = discard_and_check(self.union, chosen)
        note(f"discard {chosen} -> {sorted(discarded, key=str)}")
        Discarding.discarded += len(discarded)
        assert {value["old"]["since"] for value in facts(self.union) if "old" in value} <= {"same"}
        copy_out(self.union, self.plain)
        self._listed = None
        self._compare_unlisted()
        self.compare()
        self.compare_numbers()

    def compare_numbers(self) -> None:
        """Compare inode numbers, unless they depend on the way in which a symbolic link is stored."""
        if not self.form.override_stat:
            super().compare_numbers()

    def finish(self) -> None:
        """Discard all that is left: the union then shows the layers below."""
        self._discard([b""])
        assert compare(self.union) == []
        assert shown_by(self.union) == below_of(self.union)
        home = os.open(self.union.work / "unionfs", os.O_PATH)
        try:
            recorded = read_facts(home)
        finally:
            os.close(home)
        assert recorded is not None
        assert all(os.path.lexists(self.union.upper / os.fsdecode(path)) for path in recorded.paths())


SHORT = settings(
    max_examples=8,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    derandomize=True,
    database=None,
)
LONG = settings(
    SHORT,
    max_examples=1500,
    stateful_step_count=100,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
)


def _machine(form: str) -> type[Discarding]:
    return type("Machine", (Discarding,), {"form": FORMS[form]})


@pytest.mark.parametrize("form", FORMS)
def test_discarding_shows_the_old_objects_of_the_chosen_changes_and_no_others(form: str) -> None:
    run_state_machine_as_test(_machine(form), settings=SHORT)


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_discarding_shows_the_old_objects_after_long_histories(form: str) -> None:
    run_state_machine_as_test(_machine(form), settings=LONG)
