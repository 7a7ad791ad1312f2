"""unionfs shows the same tree as the writer for random upper layers that other implementations write.

The writers are kernel OverlayFS, with all features or with the options for users, and fuse-overlayfs. The operations
are those of tests/mount/union_machine.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import note, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.mount.support import fuse_overlayfs, kernel_overlay
from tests.mount.union_machine import LONG, SHORT, Outcome, UnionMachine, outcome, walk
from tests.unit.unionfs.seen import differences, tree_in_union, tree_on_disk
from tests.unit.unionfs.support import Union
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.fuse]


class OtherWriter(UnionMachine):
    """Layers that another program mounts. At each remount they are compared through unionfs."""

    whiteouts: ClassVar[WhiteoutFormat] = WhiteoutFormat.OVERLAY

    def __init__(self) -> None:
        self._mounted = ExitStack()
        super().__init__()
        self.plain = self.mount  # paths are drawn from the writer's mount

    def mounted(self, target: str, layers: str) -> Any:
        """Return a context manager that mounts *layers* on *target*."""
        raise NotImplementedError

    def begin(self) -> None:
        """Mount."""
        union = self._union
        lowers = ":".join(os.path.join(self._base, name) for name in ("middle", "bottom"))
        layers = f"lowerdir={lowers},upperdir={union.upper},workdir={union.work}"
        self._mounted.enter_context(self.mounted(union.path, layers))
        self._is_mounted = True

    def both(self, what: str, operation: Callable[[bytes], Any]) -> Outcome:
        """Do *operation* on the mount only. The writer's conformance to POSIX is not tested."""
        UnionMachine.operations += 1
        result = outcome(operation, self.mount)
        note(f"{what} -> {result}")
        return result

    def compare(self) -> None:
        """Do nothing: trees are compared after the unmount."""

    def open(self) -> None:  # type: ignore[override]
        """Replace the rule by nothing, because no file may stay open at the unmount."""

    def again(self) -> None:
        """Unmount, compare with unionfs, mount again."""
        self.look_at_the_layers()
        self.begin()

    def look_at_the_layers(self) -> None:
        """Compare the last tree of the writer with that of unionfs over its layers."""
        union = self._union
        theirs = tree_on_disk(union.path)
        others = walk(self.mount)[1]
        # The writer has an index of its own for the lower names of a copied file.
        linked = {
            "/" + os.fsdecode(path)
            for path in others
            if os.lstat(os.path.join(self.mount, path)).st_ino in self._lower_links
        }
        self._mounted.close()
        self._is_mounted = False
        lowers = [Path(self._base, name) for name in ("middle", "bottom")]
        ours = Union.over(Path(union.upper).parent, lowers, WantedFormat(whiteouts=self.whiteouts))
        try:
            different = differences(tree_in_union(ours), theirs, but_for=linked)
        finally:
            ours.close()
        assert different == {}, different

    def teardown(self) -> None:
        """Compare once more, and remove everything."""
        try:
            if self._is_mounted:  # otherwise the comparison has just failed
                self.look_at_the_layers()
        finally:
            self._mounted.close()
            os.umask(self._old_umask)
            shutil.rmtree(self._base)


class KernelWriter(OtherWriter):
    """Kernel OverlayFS with all of its features."""

    features: ClassVar[str] = "redirect_dir=on,metacopy=on,index=on,xino=on"
    #: The other kind of mark is an ordinary attribute to the kernel, which copies it up. To unionfs it is a mark.
    foreign_mark: ClassVar[str] = "user.overlay.opaque"

    def begin(self) -> None:
        """Mount."""
        marked = os.path.join(self._base, "middle/e")
        if self.foreign_mark in os.listxattr(marked):
            os.removexattr(marked, self.foreign_mark)
        super().begin()

    def mounted(self, target: str, layers: str) -> Any:
        """Mount kernel OverlayFS."""
        return kernel_overlay(target, f"{self.features},{layers}")


class KernelUserWriter(KernelWriter):
    """Kernel OverlayFS with the options for users."""

    features: ClassVar[str] = "userxattr,index=on,xino=on"
    foreign_mark: ClassVar[str] = "trusted.overlay.opaque"


class FuseOverlayfsWriter(OtherWriter):
    """fuse-overlayfs with whiteouts as names."""

    whiteouts: ClassVar[WhiteoutFormat] = WhiteoutFormat.AUFS

    @contextmanager
    def mounted(self, target: str, layers: str) -> Iterator[None]:
        """Mount fuse-overlayfs."""
        with fuse_overlayfs(target, layers):
            yield

    def look_at_the_layers(self) -> None:
        """Remount the writer and compare. Before the remount it has outdated times in its cache."""
        self._mounted.close()
        self.begin()
        super().look_at_the_layers()


BRIEF = settings(SHORT, max_examples=20)
KERNEL = pytest.mark.parametrize("machine", [KernelWriter, KernelUserWriter], ids=["trusted", "user"])


@pytest.mark.overlay
@KERNEL
def test_random_layers_of_kernel_overlayfs_show_the_same_tree(machine: type[OtherWriter]) -> None:
    run_state_machine_as_test(machine, settings=BRIEF)


@pytest.mark.overlay
@pytest.mark.long
@KERNEL
def test_long_random_layers_of_kernel_overlayfs_show_the_same_tree(machine: type[OtherWriter]) -> None:
    run_state_machine_as_test(machine, settings=LONG)


@pytest.mark.fuse_overlayfs
def test_random_layers_of_fuse_overlayfs_show_the_same_tree() -> None:
    run_state_machine_as_test(FuseOverlayfsWriter, settings=BRIEF)


@pytest.mark.fuse_overlayfs
@pytest.mark.long
def test_long_random_layers_of_fuse_overlayfs_show_the_same_tree() -> None:
    run_state_machine_as_test(FuseOverlayfsWriter, settings=LONG)
