"""Random operations have the same results on a mounted union and on a plain directory with the same tree."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.mount.union_machine import LONG, SHORT, UnionMachine

pytestmark = pytest.mark.fusermount


class AufsMachine(UnionMachine):
    """The same with whiteouts as names."""

    options: ClassVar[str] = "whiteouts=aufs"
    kernel_reads_it: ClassVar[bool] = False


class ArchivedMachine(UnionMachine):
    """The same over mounted archives."""

    archived: ClassVar[bool] = True
    kernel_reads_it: ClassVar[bool] = False


FORMATS = pytest.mark.parametrize(
    "machine", [UnionMachine, AufsMachine, ArchivedMachine], ids=["overlay", "aufs", "archived"]
)


@FORMATS
def test_a_union_and_a_plain_directory_have_the_same_results(machine: type[UnionMachine]) -> None:
    run_state_machine_as_test(machine, settings=SHORT)


@pytest.mark.long
@FORMATS
def test_a_union_and_a_plain_directory_have_the_same_results_for_long(machine: type[UnionMachine]) -> None:
    run_state_machine_as_test(machine, settings=LONG)
