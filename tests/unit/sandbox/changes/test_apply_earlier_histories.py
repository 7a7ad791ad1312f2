"""Applies changes of random histories of a union whose writable layer is frozen at random, some of them first, then the others.

After each application, the union must show what it showed before. In the end, the directory below must be equal to it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from sandbox.changes.apply_plan import Plan, Rules
from sandbox.changes.relocating import moves_of
from sandbox.changes.rows import Change
from tests.unit.sandbox.changes.killing import killed_at
from tests.unit.sandbox.changes.test_apply_histories import LONG, SHORT, SelectedHistories, apply_to, seen
from tests.unit.sandbox.changes.union_changes import archive_of, rows_of
from tests.unit.unionfs.changes.trees import facts
from tests.unit.unionfs.client import Client
from tests.unit.unionfs.freezing import EarlierClient
from tests.unit.unionfs.operations import FORMS
from tests.unit.unionfs.seen import Seen, in_union, on_disk
from tests.unit.unionfs.test_histories import ANY
from unionfs.changes.compared_stack import open_home, open_stack_to_compare
from unionfs.changes.renewal import renew


class EarlierAppliedHistories(SelectedHistories):
    """A union that is frozen while it runs, over one layer to which the changes are applied."""

    client: ClassVar[type[Client]] = EarlierClient
    max_generations: ClassVar[int] = 4
    #: How many objects of each type were moved in the layer below.
    moved: ClassVar[Counter[str]] = Counter()
    _has_applied = False
    #: Files below that have, or had, several names: applying a change of one name touches the file of the others.
    _linked: frozenset[int] | set[int] = frozenset()

    @property
    def _earlier(self) -> EarlierClient:
        assert isinstance(self.union, EarlierClient)
        return self.union

    @precondition(lambda self: self._generations < self.max_generations)
    @rule(again=st.booleans())
    def freeze_running(self, again: bool) -> None:
        """Freeze the layer, once or twice."""
        self._generations += 1
        for _ in range(2 if again else 1):
            self._earlier.freeze_running()

    @rule(at=ANY, value=st.binary(max_size=3))
    def setxattr(self, at: int, value: bytes) -> None:  # type: ignore[override]
        """Set an attribute, but none that is named like a mark: an archive has none of these, so they would stay changes."""
        path = self._other(at, stat.S_IFREG) if at % 2 else self._directory(at)
        if path is not None:
            self.both(
                f"setxattr {path}",
                lambda: self.union.setxattr(path, "user.color", value),
                lambda: os.setxattr(self.plain + path, "user.color", value),
            )

    def freeze(self) -> None:
        """Not a rule: a layer that lost its work directory is not an earlier one."""

    def _same(self, path: str) -> Seen:
        """Compare an object. The link index does not follow names that were deleted below, so the union may show too few."""
        if not self._has_applied:
            return super()._same(path)
        ours, theirs = in_union(self.union, path), on_disk(self.plain + path)
        assert ours._replace(nlink=0) == theirs._replace(nlink=0), path
        return theirs

    def compare_numbers(self) -> None:
        """Do nothing: the next mount gives an object of a frozen layer another number."""

    def finish(self) -> None:
        """Freeze once more, and apply."""
        self._earlier.freeze_running()
        super().finish()

    def check(self, lower: Path, rows: Sequence[Change]) -> None:
        """Apply some of *rows* to *lower*, and then all that are left."""
        self._linked = {info.st_ino for info in _files_in(lower) if info.st_nlink > 1}
        chosen = self.some(rows)
        self.apply(lower, rows, chosen)
        self.apply(lower, rows_of(self.union), Rules())
        rows = rows_of(self.union)
        assert [row for row in rows if row.type != "socket"] == []
        assert seen(lower, rows) == seen(self.plain, rows)
        self._earlier.check_frozen()

    def apply(self, lower: Path, rows: Sequence[Change], rules: Rules) -> None:
        """Apply what *rules* select of *rows* to *lower*, and compare the union with the plain directory."""
        note(f"selected {rules.paths} without {rules.exclude}")
        plan, _ = self.plan(rows, rules)
        self.execute(lower, plan)
        self.follow(plan)
        self._has_applied = True
        self.compare()
        self.union.end_request()
        since = {
            (value["kind"], value["path"], value["old"]["since"])
            for value in facts(self.union)
            if "old" in value and value["old"].get("ino") not in self._linked
        }
        changed = {row for row in since if row[2] != "same"}
        note(f"changed: {changed}")
        assert changed == set(), (
            "an old object counts as changed although nobody else changed the layer below"
        )

    def execute(self, lower: Path, plan: Plan) -> None:
        """Execute *plan*."""
        apply_to(lower, plan, archive_of(self.union, plan.members))

    def follow(self, plan: Plan) -> None:
        """Let the union follow *plan*, as `sandbox apply` does."""
        moves = moves_of(plan)
        for move in moves:
            self.moved[move.type] += 1
        self.union.end_request()
        if moves and self._earlier.works:
            self._earlier.relocate(*((os.fsdecode(move.old), os.fsdecode(move.new)) for move in moves))
        self.union.close()
        source = self._earlier.source_to_compare()
        assert source.work_fd is not None
        home_fd = open_home(source.work_fd)
        assert home_fd is not None
        stack = open_stack_to_compare(source)
        try:
            renew(stack, home_fd, _paths_of(plan.changes))
        finally:
            stack.close()
            os.close(home_fd)
        self.union.fs = self.union._open()


class KilledEarlierHistories(EarlierAppliedHistories):
    """The same with processes that are killed at a random system call, until one is not."""

    kills: ClassVar[int] = 0

    def execute(self, lower: Path, plan: Plan) -> None:
        """Execute *plan* in several processes."""
        archive = archive_of(self.union, plan.members)
        position = self.random.randrange(40)
        while killed_at(lambda: apply_to(lower, plan, archive), position):
            KilledEarlierHistories.kills += 1
            position += self.random.randrange(40)


def _files_in(directory: Path) -> Iterator[os.stat_result]:
    for at, _, names in os.walk(directory):
        for name in names:
            yield os.lstat(os.path.join(at, name))


def _paths_of(rows: Iterable[Change]) -> list[bytes]:
    return sorted(
        {path.strip(b"/") for row in rows for path in (row.path, row.from_path) if path is not None}
    )


HISTORIES = settings(SHORT, max_examples=7)
MACHINES = pytest.mark.parametrize("machine", [EarlierAppliedHistories, KilledEarlierHistories])


@MACHINES
@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_union_shows_the_same_after_its_changes_were_applied(
    machine: type[EarlierAppliedHistories], form: str
) -> None:
    EarlierAppliedHistories.moved.clear()
    run_state_machine_as_test(type("Machine", (machine,), {"form": FORMS[form]}), settings=HISTORIES)
    assert EarlierAppliedHistories.moved["directory"]
    assert EarlierAppliedHistories.moved["file"]


@pytest.mark.long
@MACHINES
@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_union_shows_the_same_after_the_changes_of_many_histories_were_applied(
    machine: type[EarlierAppliedHistories], form: str
) -> None:
    run_state_machine_as_test(type("Machine", (machine,), {"form": FORMS[form]}), settings=LONG)
