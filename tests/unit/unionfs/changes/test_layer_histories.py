"""Layers and trees after random histories of a union: unpacked by GNU tar, they give what the union shows."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.unionfs.changes.archives import (
    check_layer_archive,
    comparable,
    differences,
    facts_on_disk,
    links_in,
    links_on_disk,
    unpack,
    written,
)
from tests.unit.unionfs.changes.trees import Facts, shown_by
from tests.unit.unionfs.compared_union import ComparedUnion
from tests.unit.unionfs.operations import FORMS, copy_tree
from tests.unit.unionfs.test_histories import Histories


class UnpackedHistories(Histories):
    """A union whose layer is unpacked after every tenth step, over a copy of the tree that was there before the layer."""

    unpacked: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self._copies = Path(tempfile.mkdtemp(prefix="unionfs-histories-"))
        self._cleanup.callback(shutil.rmtree, self._copies)
        #: A copy of the plain directory, and how many lower layers the union had when it was made.
        self._lower: tuple[int, Path] | None = None

    def compare(self) -> None:
        """Compare the two trees, and then what is unpacked with the union."""
        super().compare()
        count = len(self.union.lowers)
        if self._lower is None or self._lower[0] != count:
            # The union and the plain directory are equal, and the next layer has no changes yet.
            self._lower = count, self._copies / f"lower{count}"
            copy_tree(Path(self.plain), self._lower[1])
        if self.union.fs.writable is None:
            return  # between two layers
        shown = shown_by(self.union)
        check_layer_archive(self.union, shown, self._lower[1], self._copies)
        if UnpackedHistories.unpacked % 4 == 0:
            self._compare_tree(comparable(shown))
        UnpackedHistories.unpacked += 1

    def _compare_tree(self, shown: dict[bytes, Facts]) -> None:
        target = Path(tempfile.mkdtemp(dir=self._copies)) / "tree"
        unpack(written(self.union, "trees", [b""]), target)
        assert differences(shown, comparable(facts_on_disk(target))) == {}
        assert links_on_disk(target) == links_in(self.union, shown)
        shutil.rmtree(target)


SHORT = settings(
    max_examples=4,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    derandomize=True,
    database=None,
)
LONG = settings(SHORT, max_examples=100, stateful_step_count=200)


def run(form: str, how: settings) -> None:
    """Run the histories of a union whose writable layer has the format *form*."""
    machine = type("Machine", (UnpackedHistories,), {"form": FORMS[form]})
    run_state_machine_as_test(machine, settings=how)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_unpacked_layers_are_what_the_union_shows_whatever_was_done(form: str) -> None:
    run(form, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("form", sorted(FORMS))
def test_unpacked_layers_are_what_the_union_shows_after_long_histories(form: str) -> None:
    before = ComparedUnion.operations
    run(form, LONG)
    assert ComparedUnion.operations - before >= 10_000
