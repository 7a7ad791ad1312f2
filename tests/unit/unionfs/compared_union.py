"""A union and a plain directory with the same tree, and comparisons of the two.

The union is in this process and has no mount.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from tests.support.layers import BOTTOM, MIDDLE, OLD, VISIBLE, age
from tests.support.tree import File, Opaque, Tree, Whiteout, make_tree
from tests.unit.unionfs.client import Client
from tests.unit.unionfs.seen import Seen, in_union, on_disk
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.inode.inode import FileInode, Inode
from unionfs.upper.format import WantedFormat

_ROOT = os.geteuid() == 0
TOP: Tree = {
    "d": {"sub": {"top": b"d/sub/top"}, "m": Whiteout()},
    "top": {"x": b"x"},
    "f": Opaque({"f": b"f/f"}),
}
#: Large enough for a copy of its metadata alone, and no larger: it is read all the time.
BIG: Tree = {"big": File(b"x" * 20_000)}

#: Few, so that what is made, moved and deleted meets itself and what lies below.
NAMES = ["a", "b", "sub", "deep", "x", "d", "e", "f", "m", "top", "hard1", "hard2", "new", ".wh", "n" * 251]
#: Above this many objects nothing is made, so that a comparison stays cheap.
_MANY = 60

Outcome = tuple[str, Any]


def outcome(operation: Callable[[], Any]) -> Outcome:
    """Return what *operation* returns, or the name of its errno."""
    try:
        return "ok", operation()
    except OSError as error:
        return "error", errno.errorcode[error.errno or 0]


def _is_remade(inode: Inode) -> bool:
    """Return whether *inode* is a symbolic link or special file of the writable layer that was remade for a second name or
    another owner.

    It keeps its number only as long as the kernel knows it.
    """
    if not isinstance(inode, FileInode) or stat.S_ISREG(inode.kind):
        return False
    return inode.layer.writable and not inode.indexed and inode.ino != inode.identity


class ComparedUnion(RuleBasedStateMachine):
    """One union, one plain directory, and what is done to both."""

    form: ClassVar[WantedFormat] = WantedFormat(whiteouts=WhiteoutFormat.OVERLAY)
    client: ClassVar[type[Client]] = Client
    #: Operations that were compared, of all examples.
    operations: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(os.umask, os.umask(0))
        base = tempfile.mkdtemp(prefix="unionfs-histories-")
        self._cleanup.callback(shutil.rmtree, base)
        self.union = self.client(Path(base), [TOP, MIDDLE, {**BOTTOM, **BIG}], self.form)
        self._cleanup.callback(self.union.close)
        self.plain = os.path.join(base, "plain")
        make_tree(self.plain, {**VISIBLE, **BIG})
        self._show_top()
        for directory in (*self.union.lowers, self.plain):
            if not _ROOT and (read_only := Path(directory, "mode")).exists():
                read_only.chmod(0o644)  # else the kernel would refuse to open it, which nobody does here
            age(directory)
        os.utime(self.union.upper, ns=(OLD, OLD))
        self.union.reopen()
        #: Handle of the union, descriptor of the plain directory's file.
        self._handles: list[tuple[int, int]] = []
        self._steps = 0
        #: Each path that ever was something.
        self._paths: set[str] = set()
        #: By inode number in the plain directory, whose reuse an O_PATH descriptor prevents: the union's number.
        self._numbers: dict[int, tuple[int, int]] = {}
        self._listed: tuple[list[str], list[str]] | None = None

    def _show_top(self) -> None:
        """Do to the plain directory what the topmost layer does to the others."""
        make_tree(self.plain, {"d/sub/top": b"d/sub/top", "top": {"x": b"x"}, "f/f": b"f/f"})
        shutil.rmtree(f"{self.plain}/d/m")
        os.unlink(f"{self.plain}/f/mine")
        os.chmod(f"{self.plain}/d", 0o755)

    # -- what is compared --------------------------------------------------------------------------

    def both(self, what: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> bool:
        """Do *ours* and *theirs* and compare; tells whether they succeeded."""
        ComparedUnion.operations += 1
        result = outcome(ours)
        note(f"{what} -> {result}")
        if result == ("error", "EXDEV") and not self.form.redirect:
            return False
        expected = outcome(theirs)
        assert result == expected, f"{what}: the union says {result}, a plain directory {expected}"
        self._listed = None
        self.union.end_request()
        return result[0] == "ok"

    def walk(self) -> tuple[list[str], list[str]]:
        """Return the paths of all directories but the root, and of everything else, sorted."""
        if self._listed is None:
            directories, others = [], []
            for at, names, files in os.walk(self.plain):
                relative = at[len(self.plain) :]
                for name in names:
                    is_link = os.path.islink(f"{at}/{name}")
                    (others if is_link else directories).append(f"{relative}/{name}")
                others += [f"{relative}/{name}" for name in files]
            self._listed = sorted(directories), sorted(others)
            self._paths.update(directories, others)
        return self._listed

    def compare(self) -> None:
        """Compare the two trees, names first."""
        pending = [""]
        while pending:
            path = pending.pop()
            names = sorted(os.listdir(self.plain + path))
            assert self.union.names(path) == names, path
            for name in names:
                child = f"{path}/{name}"
                seen = self._same(child)
                if stat.S_ISDIR(seen.mode):
                    pending.append(child)
        self._same("")
        self.union.end_request()

    def _same(self, path: str) -> Seen:
        ours, theirs = in_union(self.union, path), on_disk(self.plain + path)
        assert ours == theirs, f"{path}: the union shows {ours}, a plain directory {theirs}"
        return theirs

    def compare_numbers(self) -> None:
        """See that inode numbers are unique, and for each object what they were."""
        found: dict[int, int] = {}
        for path in itertools.chain([""], *self.walk()):
            info = os.lstat(self.plain + path)
            inode = self.union.inode(path)
            ours = inode.ino
            assert found.setdefault(info.st_ino, ours) == ours, f"{path}: two numbers of one object"
            if _is_remade(inode):
                self._drop_number(info.st_ino)  # it will change
                continue
            if info.st_ino in self._numbers:
                assert self._numbers[info.st_ino][1] == ours, f"{path}: the number changed"
            else:
                pinned = os.open(self.plain + path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                self._numbers[info.st_ino] = pinned, ours
        assert len(set(found.values())) == len(found), "two objects of one number"
        for number in self._numbers.keys() - found.keys():
            self._drop_number(number)

    def _drop_number(self, number: int) -> None:
        pinned, _ = self._numbers.pop(number, (-1, 0))
        if pinned >= 0:
            os.close(pinned)

    def forget_everything(self) -> None:
        """Let the kernel forget everything. Objects that were remade have other numbers afterwards."""
        for path in self.walk()[1]:
            if _is_remade(self.union.inode(path)):
                self._drop_number(os.lstat(self.plain + path).st_ino)
        self.union.forget_everything()

    def _forget_numbers(self) -> None:
        for pinned, _ in self._numbers.values():
            os.close(pinned)
        self._numbers.clear()

    @invariant()
    def trees_are_equal_now_and_then(self) -> None:
        """Compare after every tenth step: each costs as much as the steps between."""
        self._steps += 1
        if self._steps % 10 == 0:
            self.compare()
            self.compare_numbers()

    def _compare_unlisted(self) -> None:
        """Ask for every path that is or was something, before any directory has been listed."""
        present = set(itertools.chain(*self.walk()))
        for path in sorted(self._paths, key=lambda path: zlib.crc32(path.encode())):
            assert self._exists(path) == (path in present), path
            if path in present:
                self._same(path)

    def _exists(self, path: str) -> bool:
        try:
            self.union.inode(path)
        except (FileNotFoundError, AssertionError):  # the latter: something on the way is no directory
            return False
        return True

    def teardown(self) -> None:
        """Compare, open again, compare again."""
        try:
            self._reopen()
            self.finish()
        finally:
            self._close_handles()
            self._forget_numbers()
            self._cleanup.close()

    def finish(self) -> None:
        """Look at the layers in some other way, at the end of a history."""

    def _close_handles(self) -> None:
        for number, fd in self._handles:
            self.union.fs.handles.close_file(number)
            os.close(fd)
        self._handles.clear()

    def _reopen(self) -> None:
        self._close_handles()
        self.compare()
        self.compare_numbers()
        self._remount()
        self._compare_unlisted()
        self.compare()
        self.compare_numbers()
        assert self.union.leftovers() == []

    def _remount(self) -> None:
        self.union.reopen()

    @initialize()
    def the_same_tree_shows_at_the_start(self) -> None:
        """Before anything was done the union shows what is written out above."""
        self.compare()
        self._compare_unlisted()

    # -- drawing paths -----------------------------------------------------------------------------

    def _existing(self, pick: int) -> str:
        directories, others = self.walk()
        paths = directories + others
        return paths[pick % len(paths)] if paths else ""

    def _directory(self, pick: int) -> str:
        directories, _ = self.walk()
        return ["", *directories][pick % (len(directories) + 1)]

    def _other(self, pick: int, *kinds: int) -> str | None:
        """Pick a non-directory, of one of *kinds* if there are any."""
        _, paths = self.walk()
        if kinds:
            paths = [path for path in paths if stat.S_IFMT(os.lstat(self.plain + path).st_mode) in kinds]
        return paths[pick % len(paths)] if paths else None

    def _new(self, pick: int) -> str:
        return f"{self._directory(pick // len(NAMES))}/{NAMES[pick % len(NAMES)]}"

    def _any(self, pick: int) -> str:
        return self._new(pick // 3) if pick % 3 else self._existing(pick // 3) or "/a"

    def _is_full(self) -> bool:
        return sum(map(len, self.walk())) >= _MANY
