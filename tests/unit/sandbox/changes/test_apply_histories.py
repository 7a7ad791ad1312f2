"""Changes of random histories are applied to the directory below, which is then compared with a plain directory or a model."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from sandbox.changes import apply, apply_plan
from sandbox.changes.apply_plan import Plan, Rules
from sandbox.changes.host_tree import HostTree
from sandbox.changes.rows import Change
from sandbox.changes.step_order import Action
from tests.support.layers import VISIBLE, age
from tests.support.tree import Entry, make_tree, snapshot
from tests.unit.sandbox.changes.killing import killed_at
from tests.unit.sandbox.changes.model import expected
from tests.unit.sandbox.changes.union_changes import archive_of, rows_of
from tests.unit.unionfs.changes.trees import shown_by
from tests.unit.unionfs.compared_union import BIG, OLD
from tests.unit.unionfs.test_histories import Histories

Tree = dict[bytes, Entry]


def seen(directory: str | os.PathLike[str], rows: Sequence[Change] = ()) -> Tree:
    """Return the tree without what an archive cannot have: sockets, and attributes named like the marks of a layer.

    What sockets of *rows* would replace is left out, too.
    """
    sockets = {row.path.strip(b"/") for row in rows if row.type == "socket"}
    return {
        path: replace(
            entry,
            xattrs={name: value for name, value in entry.xattrs.items() if "overlay" not in name},
        )
        for path, entry in snapshot(directory).items()
        if entry.type != "socket" and path not in sockets
    }


def apply_to(directory: Path, plan: Plan, archive: bytes) -> None:
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        apply.execute(plan, HostTree(root), io.BytesIO(archive), lambda uid, gid: (uid, gid))
    finally:
        os.close(root)


class AppliedHistories(Histories):
    """Histories over one lower layer, whose changes are applied to it at the end."""

    max_generations: ClassVar[int] = 0
    steps: ClassVar[Counter[Action]] = Counter()

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(os.umask, os.umask(0))
        base = tempfile.mkdtemp(prefix="sandbox-apply-")
        self._cleanup.callback(shutil.rmtree, base)
        self.union = self.client(Path(base), [{**VISIBLE, **BIG}], self.form)
        self._cleanup.callback(self.union.close)
        self.plain = os.path.join(base, "plain")
        make_tree(self.plain, {**VISIBLE, **BIG})
        for directory in (*self.union.lowers, self.plain):
            if os.geteuid():
                Path(directory, "mode").chmod(
                    0o644
                )  # else the kernel would refuse to open it, which nobody does here
            age(directory)
        os.utime(self.union.upper, ns=(OLD, OLD))
        self.union.reopen()
        self._handles: list[tuple[int, int]] = []
        self._steps = 0
        self._paths: set[str] = set()
        self._numbers: dict[int, tuple[int, int]] = {}
        self._listed: tuple[list[str], list[str]] | None = None
        self._generations = 0

    def finish(self) -> None:
        """Apply changes, and compare."""
        rows = rows_of(self.union)
        self.random = random.Random(repr([(row.kind, row.path) for row in rows]))
        for row in rows:
            note(f"{row.kind} {row.from_path or b''!r} {row.path!r} {row.type}")
        self.check(self.union.lowers[-1], rows)

    def plan(self, rows: Sequence[Change], rules: Rules) -> tuple[Plan, bytes]:
        plan = apply_plan.make(rows, rules)
        for step in plan.steps:
            note(f"{step.action.value} {step.source!r} {step.path!r}")
            AppliedHistories.steps[step.action] += 1
        assert plan.conflicts == ()
        return plan, archive_of(self.union, plan.members)

    def check(self, lower: Path, rows: Sequence[Change]) -> None:
        """Apply all *rows* to *lower*."""
        plan, archive = self.plan(rows, Rules())
        wanted, times = seen(self.plain, rows), self.times()
        apply_to(lower, plan, archive)
        assert seen(lower, rows) == wanted
        found = {path: os.lstat(os.fsencode(lower) + b"/" + path).st_mtime_ns for path in times}
        assert found == times

    def times(self) -> dict[bytes, int]:
        """Return the times that the union shows, of files alone."""
        return {
            path: facts.mtime_ns
            for path, facts in shown_by(self.union).items()
            if facts.mtime_ns is not None and not stat.S_ISSOCK(facts.mode)
        }


class SelectedHistories(AppliedHistories):
    """The same with a selection."""

    def check(self, lower: Path, rows: Sequence[Change]) -> None:
        """Apply some of *rows* to *lower*."""
        rules = self.some(rows)
        plan, archive = self.plan(rows, rules)
        note(f"selected {rules.paths} without {rules.exclude}")
        for row in plan.changes:
            assert not any(_is_below(row.path, os.fsencode(pattern)) for pattern in rules.exclude)
        if not rules.exclude:
            for row in rows:
                if row.type != "socket" and any(_is_below(row.path, path) for path in rules.paths):
                    assert row in plan.changes
        before, after = seen(lower), seen(self.plain)
        wanted = expected(
            self.with_sockets(lower, before), self.with_sockets(Path(self.plain), after), plan.changes
        )
        apply_to(lower, plan, archive)
        assert seen(lower) == {path: entry for path, entry in wanted.items() if entry.type != "socket"}

    def with_sockets(self, directory: Path, tree: Tree) -> Tree:
        return {**snapshot(directory), **tree}

    def some(self, rows: Sequence[Change]) -> Rules:
        paths = [row.path for row in rows if row.path != b"/"]
        paths += [os.path.dirname(path) for path in paths]
        if not paths:
            return Rules()
        return Rules(
            paths=tuple(self.random.sample(paths, min(len(paths), self.random.choice([0, 1, 1, 2, 5])))),
            exclude=tuple(
                os.fsdecode(path)
                for path in self.random.sample(paths, min(len(paths), self.random.choice([0, 0, 1, 2])))
                if path != b"/"
            ),
        )


def _is_below(path: bytes, top: bytes) -> bool:
    return top in (b"/", path) or path.startswith(top + b"/")


class KilledHistories(AppliedHistories):
    """The same with processes that are killed at a random system call, until one is not."""

    kills: ClassVar[int] = 0

    def check(self, lower: Path, rows: Sequence[Change]) -> None:
        """Apply all *rows* to *lower* in several processes."""
        plan, archive = self.plan(rows, Rules())
        wanted, times = seen(self.plain, rows), self.times()
        whole = {entry for tree in (seen(lower), wanted) for entry in map(_hashable, tree.values())}
        position = self.random.randrange(40)
        while killed_at(lambda: apply_to(lower, plan, archive), position):
            KilledHistories.kills += 1
            for path, entry in seen(lower).items():
                name = path.rpartition(b"/")[2]
                if entry.type != "dir" and not name.endswith(b".sandbox-new"):
                    assert _hashable(entry) in whole, path
            position += self.random.randrange(40)
        assert seen(lower, rows) == wanted
        found = {path: os.lstat(os.fsencode(lower) + b"/" + path).st_mtime_ns for path in times}
        assert found == times


def _hashable(entry: Entry) -> tuple[object, ...]:
    return (
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.data,
        entry.target,
        *sorted(entry.xattrs.items()),
    )


SHORT = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    derandomize=True,
    database=None,
)
LONG = settings(SHORT, max_examples=1000, derandomize=False)
MACHINES = pytest.mark.parametrize("machine", [AppliedHistories, SelectedHistories, KilledHistories])


@MACHINES
def test_the_directory_below_becomes_what_the_sandbox_showed(machine: type[AppliedHistories]) -> None:
    AppliedHistories.steps.clear()
    run_state_machine_as_test(machine, settings=SHORT)
    assert all(AppliedHistories.steps[action] for action in Action if action is not Action.MOVE_ASIDE)


@pytest.mark.long
@MACHINES
def test_the_directory_below_becomes_what_the_sandbox_showed_after_many_histories(
    machine: type[AppliedHistories],
) -> None:
    run_state_machine_as_test(machine, settings=LONG)
