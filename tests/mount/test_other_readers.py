"""Other implementations show the same tree as unionfs for layers with a random history.

The histories are those of tests/unit/unionfs/test_histories.py, with all layers that were written. The readers are
kernel OverlayFS, and fuse-overlayfs for whiteouts as names.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.mount.support import fuse_overlayfs, kernel_overlay
from tests.unit.unionfs.seen import differences, tree_in_union, tree_on_disk
from tests.unit.unionfs.test_histories import LONG, SHORT, Histories
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.inode.inode import FileInode
from unionfs.upper.format import WantedFormat

pytestmark = pytest.mark.root


class ReadByOthers(Histories):
    """A history whose layers another program mounts at its end."""

    def __init__(self) -> None:
        super().__init__()
        for marked in ("lower0/f", "lower1/e"):  # kernel OverlayFS reads either root's marks or users'
            os.setxattr(self.union.base / marked, "trusted.overlay.opaque", b"y")

    def mounted(self, target: str, layers: str) -> AbstractContextManager[str]:
        """Mount *layers* read-only on *target*. Their names are relative to the directory of *target*."""
        raise NotImplementedError

    def finish(self) -> None:
        """Compare the trees, except names of hard links whose copy only the link index knows."""
        ours = tree_in_union(self.union)
        linked = {
            path for path in ours if isinstance(inode := self.union.inode(path), FileInode) and inode.indexed
        }
        target = self.union.base / "mnt"
        target.mkdir()
        layers = ":".join(path.name for path in (self.union.upper, *self.union.lowers))
        with self.mounted(str(target), f"lowerdir={layers}"):
            theirs = tree_on_disk(str(target))
        different = differences(ours, theirs, but_for=linked)
        assert different == {}, different


class ReadByTheKernel(ReadByOthers):
    """Kernel OverlayFS."""

    def mounted(self, target: str, layers: str) -> AbstractContextManager[str]:
        """Mount kernel OverlayFS."""
        return kernel_overlay(target, f"ro,redirect_dir=on,metacopy=on,{layers}", cwd=os.path.dirname(target))


class ReadByFuseOverlayfs(ReadByOthers):
    """fuse-overlayfs, which supports neither redirects nor metadata copies."""

    form: ClassVar[WantedFormat] = WantedFormat(whiteouts=WhiteoutFormat.AUFS, redirect=False, metacopy=False)

    def mounted(self, target: str, layers: str) -> AbstractContextManager[str]:
        """Mount fuse-overlayfs."""
        return fuse_overlayfs(target, layers, cwd=os.path.dirname(target))


BRIEF = settings(SHORT, max_examples=10)
FOR_LONG = settings(LONG, max_examples=1000)


@pytest.mark.overlay
def test_kernel_overlayfs_shows_layers_of_a_random_history_alike() -> None:
    run_state_machine_as_test(ReadByTheKernel, settings=BRIEF)


@pytest.mark.overlay
@pytest.mark.long
def test_kernel_overlayfs_shows_layers_of_a_long_history_alike() -> None:
    run_state_machine_as_test(ReadByTheKernel, settings=FOR_LONG)


@pytest.mark.fuse_overlayfs
def test_fuse_overlayfs_shows_layers_of_a_random_history_alike() -> None:
    run_state_machine_as_test(ReadByFuseOverlayfs, settings=BRIEF)


@pytest.mark.fuse_overlayfs
@pytest.mark.long
def test_fuse_overlayfs_shows_layers_of_a_long_history_alike() -> None:
    run_state_machine_as_test(ReadByFuseOverlayfs, settings=FOR_LONG)
