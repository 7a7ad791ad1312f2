"""Random histories of a union over mounted archives, against a plain directory with the same tree.

These are the histories of `test_histories.py`: copy-up in all its forms, renames of lower directories, whiteouts and opaque
directories above and below, hard links, open files, inode numbers over remounts, and the freezing of written layers.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.unionfs.archived_client import ArchivedClient
from tests.unit.unionfs.changes.test_comparison_histories import ComparedHistories
from tests.unit.unionfs.changes.test_discard_histories import Discarding
from tests.unit.unionfs.changes.test_layer_histories import UnpackedHistories
from tests.unit.unionfs.client import Client
from tests.unit.unionfs.freezing import FreezingClient
from tests.unit.unionfs.test_freezing_histories import FreezingHistories
from tests.unit.unionfs.test_histories import LONG, SHORT, AufsHistories, Histories


class ArchivedHistories(Histories):
    """Histories over archives."""

    client: ClassVar[type[Client]] = ArchivedClient


class ArchivedAufsHistories(AufsHistories):
    """The same with whiteouts as names."""

    client: ClassVar[type[Client]] = ArchivedClient


class ArchivedComparisons(ComparedHistories):
    """Histories after which `unionfs changes` lists the changes."""

    client: ClassVar[type[Client]] = ArchivedClient


class ArchivedLayers(UnpackedHistories):
    """Histories whose layer is written as an archive and unpacked."""

    client: ClassVar[type[Client]] = ArchivedClient


class ArchivedDiscarding(Discarding):
    """Histories in which some changes are discarded."""

    client: ClassVar[type[Client]] = ArchivedClient


class _FreezingClient(FreezingClient, ArchivedClient):
    """A client over archives whose layer can be frozen."""


class ArchivedFreezing(FreezingHistories):
    """Histories in which the writable layer is frozen while the union is open."""

    client: ClassVar[type[Client]] = _FreezingClient


MACHINES = pytest.mark.parametrize(
    "machine",
    [
        ArchivedHistories,
        ArchivedAufsHistories,
        ArchivedComparisons,
        ArchivedLayers,
        pytest.param(
            ArchivedDiscarding,
            marks=pytest.mark.xfail(
                strict=False, reason="known: after a discard and a remount, an inode number can differ"
            ),
        ),
        ArchivedFreezing,
    ],
    ids=["overlay", "aufs", "changes", "layers", "discard", "freezing"],
)


@MACHINES
def test_a_union_over_archives_and_a_plain_directory_have_the_same_history(machine: type[Histories]) -> None:
    run_state_machine_as_test(machine, settings=SHORT)


@pytest.mark.long
@MACHINES
def test_a_union_over_archives_and_a_plain_directory_have_the_same_long_history(
    machine: type[Histories],
) -> None:
    run_state_machine_as_test(machine, settings=LONG)
