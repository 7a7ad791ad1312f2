"""Rows of changes after random histories of a union, against the difference of two full trees."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.unionfs.changes.trees import Facts, below_of, check, compare, facts, shown_by
from tests.unit.unionfs.test_histories import Histories
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat


class ComparedHistories(Histories):
    """A union whose changes are compared with the layers below after every tenth step."""

    compared: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self._below: tuple[int, dict[bytes, Facts]] | None = None

    def compare(self) -> None:
        """Compare the two trees, and then the rows with the trees."""
        super().compare()
        if self.union.fs.writable is None:
            return  # between two layers
        if self._below is None or self._below[0] != len(self.union.lowers):
            self._below = len(self.union.lowers), below_of(self.union)
        check(compare(self.union), self._below[1], shown_by(self.union))
        since = {
            (value["kind"], value["path"], value["old"]["path"], value["old"]["since"])
            for value in facts(self.union)
            if "old" in value and value["old"]["since"] != "same"
        }
        assert since == set(), "an old object counts as changed although nobody changed the layers below"
        ComparedHistories.compared += 1


@pytest.mark.parametrize("form", list(WhiteoutFormat), ids=lambda form: form.value)
def test_rows_are_the_difference_of_two_trees_whatever_was_done(form: WhiteoutFormat) -> None:
    machine = type("Machine", (ComparedHistories,), {"form": WantedFormat(whiteouts=form)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            derandomize=True,
            database=None,
        ),
    )
