"""A union that is frozen while it runs: the client that freezes it as the launcher does, and pictures of frozen layers."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.tree import File, HardLink, Symlink, Tree
from tests.unit.unionfs.client import Client
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.relocation import relocate
from unionfs.formats.whiteout import ALL_MARKS, NO_MARKS, MarkPolicy
from unionfs.upper.format import WantedFormat, lower_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.assemble import StackSource

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
BIG = b"x" * 20_000
LOWER: Tree = {
    "a": b"lower a",
    "big": File(BIG),
    "gone": b"gone",
    "hard1": b"two names",
    "d": {"x": b"x", "hard2": HardLink("hard1")},
    "s": Symlink(b"a"),
}
#: Properties of one object of a layer that freezing promises to keep: type and mode, owner, group, device, size, modification
#: time, contents or target, and attributes.
Picture = dict[str, tuple[object, ...]]


def picture(root: Path) -> Picture:
    """Return everything in the layer *root* that must not change once it is frozen, by path."""
    found: Picture = {}
    pending = [root]
    while pending:
        at = pending.pop()
        info = os.lstat(at)
        data: bytes | str | None = None
        if stat.S_ISREG(info.st_mode):
            data = at.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            data = os.readlink(at)
        elif stat.S_ISDIR(info.st_mode):
            pending += [at / name for name in os.listdir(at)]
        attributes = tuple(
            (name, os.getxattr(at, name, follow_symlinks=False))
            for name in sorted(os.listxattr(at, follow_symlinks=False))
        )
        size = None if stat.S_ISDIR(info.st_mode) else info.st_size
        found[str(at.relative_to(root))] = (
            info.st_mode, info.st_uid, info.st_gid, info.st_rdev, info.st_nlink, size, info.st_mtime_ns, data, attributes,
        )  # fmt: skip
    return found


class FreezingClient(Client):
    """A client whose layer can be frozen while the union is open."""

    def __init__(self, base: Path, lowers: Sequence[Tree], form: WantedFormat) -> None:
        """Write *lowers* below *base*, and open them with an empty upper layer."""
        #: The layers that were frozen, as they were right after that.
        self.frozen: dict[Path, Picture] = {}
        self._layers = 0
        super().__init__(base, lowers, form)

    def _source(self, *, writable: bool) -> StackSource:
        source = super()._source(writable=writable)
        lowers = tuple(
            replace(lower, policy=self._policy_of(path, lower.fd))
            for path, lower in zip(self.lowers, source.lowers, strict=True)
        )
        return replace(source, lowers=lowers)

    def _policy_of(self, path: Path, fd: int) -> MarkPolicy:
        return lower_policy(fd, self.form) if path in self.frozen else self.policy

    def remaining_names(self) -> list[bytes]:
        """Search for names that are not links of their copies, as another process does."""
        stack = open_stack_to_compare(self._source(writable=True))
        try:
            return Comparison(stack, contents=False).remaining_names()
        finally:
            stack.close()

    def new_layer(self) -> tuple[Path, Path]:
        """Make an empty directory for the next writable layer, and its work directory."""
        self._layers += 1
        upper, work = self.base / f"next{self._layers}", self.base / f"next{self._layers}-work"
        upper.mkdir(mode=0o700)
        work.mkdir()
        return upper, work

    def freeze_running(self) -> None:
        """Freeze the writable layer, and continue on a new one."""
        stamp = self.fs.search_stamp
        self.fs.link_remaining_names(self.remaining_names())
        if self._layers % 2:
            while self.fs.leave_index(2):
                pass
        upper, work = self.new_layer()
        self.fs.freeze(os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR), searched=stamp)
        self.lowers.insert(0, self.upper)
        self.frozen[self.upper] = picture(self.upper)
        self.upper, self.work = upper, work

    def check_frozen(self) -> None:
        """Check that no frozen layer has changed since it was frozen."""
        for path, before in self.frozen.items():
            now = picture(path)
            changed = {at: (before.get(at), now.get(at)) for at in before.keys() | now.keys()}
            assert {at: both for at, both in changed.items() if both[0] != both[1]} == {}, path


class EarlierClient(FreezingClient):
    """A client that opens the frozen layers again as earlier layers, as the launcher does."""

    def __init__(self, base: Path, lowers: Sequence[Tree], form: WantedFormat) -> None:
        """Write *lowers* below *base*, and open them with an empty upper layer."""
        #: The work directories of the frozen layers.
        self.works: dict[Path, Path] = {}
        self.relocation: Path | None = None
        super().__init__(base, lowers, form)

    def _source(self, *, writable: bool) -> StackSource:
        source = super()._source(writable=writable)
        lowers = tuple(
            replace(
                lower,
                earlier=True,
                relocation=path == self.relocation,
                work_fd=os.open(self.works[path], _OPEN_DIR),
            )
            if path in self.works
            else lower
            for path, lower in zip(self.lowers, source.lowers, strict=True)
        )
        return replace(source, lowers=lowers)

    def _policy_of(self, path: Path, fd: int) -> MarkPolicy:
        return NO_MARKS if path in self.works else ALL_MARKS  # an earlier layer is read by its record

    def source_to_compare(self) -> StackSource:
        """Return the stack with descriptors of its own."""
        return self._source(writable=True)

    def freeze_running(self) -> None:
        """Freeze the writable layer, and keep its work directory."""
        upper, work = self.upper, self.work
        super().freeze_running()
        self.works[upper] = work

    def relocate(self, *moves: tuple[str, str]) -> None:
        """Begin a relocation for *moves* that were made in the layer below, and open the union again."""
        self.close()
        upper, work = self.new_layer()
        group = [(os.fsencode(old), os.fsencode(new)) for old, new in moves]
        relocate(self.source_to_compare(), os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR), group)
        if self.relocation is not None:
            self.lowers.remove(self.relocation)
        earlier = [path for path in self.lowers if path in self.works]
        self.lowers.insert(len(earlier), upper)
        self.works[upper], self.relocation = work, upper
        self.fs = self._open()

    def fork(self) -> None:
        """Freeze the writable layer, and continue on another one, whose records know nothing of it, as a forked sandbox does."""
        self.freeze_running()
        self.close()
        self.upper, self.work = self.new_layer()
        self._copy_root(self.lowers[0], self.upper)
        self.fs = self._open()


def freeze(client: FreezingClient, searched: int | None = None) -> tuple[Path, Path]:
    """Freeze without a search. Return the new directories."""
    upper, work = client.new_layer()
    client.fs.freeze(os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR), searched=searched)
    return upper, work
