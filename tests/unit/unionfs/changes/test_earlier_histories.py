"""Changes of a union whose writable layer is frozen at random: rows and archives are those of all its layers together."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.unit.unionfs.changes.archives import check_layer_archive
from tests.unit.unionfs.changes.trees import Facts, below_of, check, compare, facts, shown_by
from tests.unit.unionfs.client import Client
from tests.unit.unionfs.compared_union import ComparedUnion
from tests.unit.unionfs.freezing import EarlierClient
from tests.unit.unionfs.operations import FORMS, copy_tree
from tests.unit.unionfs.test_freezing_histories import FreezingHistories
from unionfs.changes.rows import MOVED, Row


class EarlierHistories(FreezingHistories):
    """A union whose changes are compared with the lowest layers, which the histories never write."""

    client: ClassVar[type[Client]] = EarlierClient
    max_generations: ClassVar[int] = 8
    compared: ClassVar[int] = 0
    #: How often an object of each type was elsewhere than at the beginning.
    moved: ClassVar[Counter[int]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._below: dict[bytes, Facts] = below_of(self.union)
        self._copies = Path(tempfile.mkdtemp(prefix="unionfs-histories-"))
        self._cleanup.callback(shutil.rmtree, self._copies)
        self._base = self._copies / "base"
        copy_tree(Path(self.plain), self._base)
        #: Descriptors of the objects with one name that the plain directory has at the beginning, by path. They keep the inode
        #: numbers of these objects.
        self._first: dict[bytes, int] = {}
        for path in itertools.chain(*self.walk()):
            fd = os.open(self.plain + path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._cleanup.callback(os.close, fd)
            if stat.S_ISDIR(os.fstat(fd).st_mode) or os.fstat(fd).st_nlink == 1:
                self._first[os.fsencode(path[1:])] = fd

    def freeze(self) -> None:
        """Not a rule: a layer that lost its work directory is not an earlier one."""

    @precondition(lambda self: self._generations < self.max_generations)
    @rule()
    def fork(self) -> None:
        """Continue on a layer that does not get the link index.

        The index alone knows how many names of a file are deleted. Renaming a name makes it one of a copy.
        """
        self._generations += 1
        for path in self.walk()[1]:
            inode = self.union.file(path)
            if inode.indexed or inode.ref.stat().st_nlink > 1:
                for old, new in ((path, f"{path}~"), (f"{path}~", path)):
                    self.union.rename(old, new)
                    os.rename(self.plain + old, self.plain + new)
        self._close_handles()
        self._forget_numbers()
        assert isinstance(self.union, EarlierClient)
        self.union.fork()
        self._compare_unlisted()
        self.compare()
        self.compare_numbers()

    def compare(self) -> None:
        """Compare the two trees, then the rows with the trees, and now and then an archive."""
        super().compare()
        shown, rows = shown_by(self.union), compare(self.union)
        check(rows, self._below, shown)
        self._check_moves(rows)
        since = {
            (value["kind"], value["path"], value["old"]["path"], value["old"]["since"])
            for value in facts(self.union)
            if "old" in value and value["old"]["since"] != "same"
        }
        assert since == set(), "an old object counts as changed although nobody changed the layers below"
        if EarlierHistories.compared % 3 == 0:
            check_layer_archive(self.union, shown, self._base, self._copies)
        EarlierHistories.compared += 1

    def _check_moves(self, rows: list[Row]) -> None:
        """Compare the moves with those in the plain directory, of objects that have had one name all the time."""
        moves = {row.old_path: row.path for row in rows if row.kind == MOVED and row.old_path is not None}
        paths = {
            os.lstat(self.plain + path).st_ino: os.fsencode(path[1:])
            for path in itertools.chain(*self.walk())
        }
        for old, fd in self._first.items():
            info = os.fstat(fd)
            now = paths.get(info.st_ino)
            if now is None or (info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)):
                continue
            if not stat.S_ISDIR(info.st_mode) and os.path.isdir(self.plain + "/" + os.fsdecode(old)):
                continue  # a directory that has moved there replaces the file, which has no row of its own then
            at = old
            while at and at not in moves:
                at = at.rpartition(b"/")[0]
            expected = moves[at] + old[len(at) :] if at else old
            assert now == expected, f"{old!r} is at {now!r}, but the changes have it at {expected!r}"
            EarlierHistories.moved[stat.S_IFMT(info.st_mode)] += now != old

    def compare_numbers(self) -> None:
        """Compare inode numbers, unless they depend on the way in which a symbolic link is stored."""
        if not self.form.override_stat:
            super().compare_numbers()


SHORT = settings(
    max_examples=8,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    derandomize=True,
    database=None,
)
LONG = settings(
    SHORT, max_examples=300, stateful_step_count=200, derandomize=False, phases=[Phase.generate, Phase.shrink]
)


def run(form: str, how: settings) -> None:
    """Run the histories of a union whose writable layers have the format *form*."""
    machine = type("Machine", (EarlierHistories,), {"form": FORMS[form]})
    run_state_machine_as_test(machine, settings=how)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_changes_are_those_of_all_layers_whatever_was_done(form: str) -> None:
    before = FreezingHistories.frozen
    run(form, SHORT)
    assert FreezingHistories.frozen > before


@pytest.mark.long
@pytest.mark.parametrize("form", sorted(FORMS))
def test_changes_are_those_of_all_layers_after_long_histories(form: str) -> None:
    before = ComparedUnion.operations
    run(form, LONG)
    assert ComparedUnion.operations - before >= 10_000
