"""Random histories of a union, in this process and without a mount, against a plain directory that holds the same tree.

As tests/mount/test_differential.py, but fast enough for long histories and many layers: a layer that was written
becomes the lower layer of the next, whatever was moved, hidden or copied in it.
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

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.layers import BOTTOM, MIDDLE, OLD, RECENT, VISIBLE, age
from tests.support.tree import File, Opaque, Tree, Whiteout, make_tree
from tests.unit.unionfs.client import Client
from tests.unit.unionfs.seen import Seen, in_union, on_disk
from unionfs import _libc
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat
from unionfs.vfs.attributes import Change

_AT_FDCWD = -100
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
MODES = [0o600, 0o644, 0o755, 0o4755, 0o000, 0o444] if _ROOT else [0o600, 0o644, 0o755, 0o700]
DIRECTORY_MODES = [0o700, 0o755, 0o1777, 0o2775] if _ROOT else [0o700, 0o755, 0o1777]
RENAME_FLAGS = [0, 0, 0, 0, _libc.RENAME_NOREPLACE, _libc.RENAME_EXCHANGE, _libc.RENAME_EXCHANGE]
#: Above this many objects nothing is made, so that a comparison stays cheap.
_MANY = 60

ANY = st.integers(0, 1 << 16)

Outcome = tuple[str, Any]


def outcome(operation: Callable[[], Any]) -> Outcome:
    """Return what *operation* returns, or the name of its errno."""
    try:
        return "ok", operation()
    except OSError as error:
        return "error", errno.errorcode[error.errno or 0]


class Histories(RuleBasedStateMachine):
    """One union, one plain directory, and what is done to both."""

    form: ClassVar[WantedFormat] = WantedFormat(whiteouts=WhiteoutFormat.OVERLAY)
    max_generations: ClassVar[int] = 5
    #: Operations that were compared, of all examples.
    operations: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(os.umask, os.umask(0))
        base = tempfile.mkdtemp(prefix="unionfs-histories-")
        self._cleanup.callback(shutil.rmtree, base)
        self.union = Client(Path(base), [TOP, MIDDLE, {**BOTTOM, **BIG}], self.form)
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
        self._steps = self._generations = 0
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
        Histories.operations += 1
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
            ours = self.union.node(path).ino
            assert found.setdefault(info.st_ino, ours) == ours, f"{path}: two numbers of one object"
            if info.st_ino in self._numbers:
                assert self._numbers[info.st_ino][1] == ours, f"{path}: the number changed"
            else:
                pinned = os.open(self.plain + path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                self._numbers[info.st_ino] = pinned, ours
        assert len(set(found.values())) == len(found), "two objects of one number"
        for number in self._numbers.keys() - found.keys():
            os.close(self._numbers.pop(number)[0])

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
            self.union.node(path)
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
        self.union.reopen()
        self._compare_unlisted()
        self.compare()
        self.compare_numbers()
        assert self.union.leftovers() == []

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

    # -- operations on names -----------------------------------------------------------------------

    @initialize()
    def the_same_tree_shows_at_the_start(self) -> None:
        """Before anything was done the union shows what is written out above."""
        self.compare()
        self._compare_unlisted()

    @precondition(lambda self: not self._is_full())
    @rule(at=ANY, mode=st.sampled_from(MODES), data=st.binary(max_size=5))
    def create(self, at: int, mode: int, data: bytes) -> None:
        """Create a file."""
        path = self._any(at)

        def theirs() -> None:
            with open(os.open(self.plain + path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
            os.chmod(self.plain + path, mode & 0o777 if data else mode)  # what writing does to a set-id bit

        self.both(f"create {path} {mode:o}", lambda: self.union.create(path, data, mode), theirs)

    @precondition(lambda self: not self._is_full())
    @rule(at=ANY, mode=st.sampled_from(DIRECTORY_MODES))
    def mkdir(self, at: int, mode: int) -> None:
        """Make a directory."""
        path = self._any(at)
        self.both(
            f"mkdir {path} {mode:o}",
            lambda: self.union.mkdir(path, mode),
            lambda: self._plain_mkdir(path, mode),
        )

    def _plain_mkdir(self, path: str, mode: int) -> None:
        at = self.plain + path
        os.mkdir(at, mode)
        os.chmod(at, mode | os.stat(at).st_mode & stat.S_ISGID)

    @precondition(lambda self: not self._is_full())
    @rule(at=ANY, content=st.sampled_from(["a", "../b", "nowhere"]))
    def symlink(self, at: int, content: str) -> None:
        """Make a symbolic link."""
        path = self._any(at)
        self.both(
            f"symlink {path}",
            lambda: self.union.symlink(path, content),
            lambda: os.symlink(content, self.plain + path),
        )

    @precondition(lambda self: not self._is_full())
    @rule(at=ANY, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]))
    def mknod(self, at: int, kind: int) -> None:
        """Make a special file."""
        path = self._any(at)
        self.both(
            f"mknod {path}",
            lambda: self.union.mknod(path, kind | 0o640),
            lambda: os.mknod(self.plain + path, kind | 0o640),
        )

    @precondition(lambda self: not self._is_full())
    @rule(at=ANY, to=ANY)
    def link(self, at: int, to: int) -> None:
        """Make a hard link."""
        old, new = self._other(at), self._any(to)
        if old is not None:
            self.both(
                f"link {old} {new}",
                lambda: self.union.link(old, new),
                lambda: os.link(self.plain + old, self.plain + new, follow_symlinks=False),
            )

    @rule(at=ANY)
    def unlink(self, at: int) -> None:
        """Remove a name; of a directory that is an error."""
        path = self._existing(at)
        if path:
            self.both(f"unlink {path}", lambda: self.union.unlink(path), lambda: os.unlink(self.plain + path))

    @rule(at=ANY)
    def rmdir(self, at: int) -> None:
        """Remove a directory, if it is empty."""
        path = self._existing(at)
        if path:
            self.both(f"rmdir {path}", lambda: self.union.rmdir(path), lambda: os.rmdir(self.plain + path))

    @rule(at=ANY, again=st.booleans())
    def remove_tree(self, at: int, again: bool) -> None:
        """Remove a directory with everything in it, as rm -r does, and make it again or not."""
        path = self._directory(at)
        if not path:
            return
        for directory, names, files in os.walk(self.plain + path, topdown=False):
            relative = directory[len(self.plain) :]
            for name in [*names, *files]:
                child = f"{relative}/{name}"
                remove = self.union.unlink
                if os.path.isdir(self.plain + child) and not os.path.islink(self.plain + child):
                    remove = self.union.rmdir
                remove(child)
                self.union.end_request()
        self.both(f"rm -r {path}", lambda: self.union.rmdir(path), lambda: shutil.rmtree(self.plain + path))
        if again:
            self.both(
                f"mkdir {path}", lambda: self.union.mkdir(path, 0o755), lambda: self._plain_mkdir(path, 0o755)
            )

    @rule(at=ANY, to=ANY, flags=st.sampled_from(RENAME_FLAGS))
    def rename(self, at: int, to: int, flags: int) -> None:
        """Rename anything, over what is there or not, or exchange."""
        self._rename(self._existing(at), self._any(to), flags)

    @rule(at=ANY, to=ANY, flags=st.sampled_from(RENAME_FLAGS))
    def rename_directory(self, at: int, to: int, flags: int) -> None:
        """Rename a directory."""
        new = self._new(to // 2) if to % 2 else self._directory(to // 2)
        self._rename(self._directory(at), new, flags)

    def _rename(self, old: str, new: str, flags: int) -> None:
        if not old or not new:
            return

        def theirs() -> None:
            _libc.renameat2(
                *(_AT_FDCWD, os.fsencode(self.plain + old), _AT_FDCWD, os.fsencode(self.plain + new), flags)
            )

        what = f"rename {old} {new} {flags}"
        if f"{new}/".startswith(f"{old}/") or f"{old}/".startswith(f"{new}/"):
            # The kernel refuses these before it asks, with errors of its own.
            if old != new:
                result = outcome(lambda: self.union.rename(old, new, flags))
                note(f"{what} -> {result}")
                assert (result[0], outcome(theirs)[0]) == ("error", "error")
            return
        self.both(what, lambda: self.union.rename(old, new, flags), theirs)

    # -- operations on attributes ------------------------------------------------------------------

    @rule(at=ANY, mode=st.sampled_from(MODES))
    def chmod(self, at: int, mode: int) -> None:
        """Change the mode of a file, of a large one without its contents."""
        path = self._other(at, stat.S_IFREG, stat.S_IFIFO)
        if path is not None:
            self.both(
                f"chmod {path} {mode:o}",
                lambda: self.union.chmod(path, mode),
                lambda: os.chmod(self.plain + path, mode),
            )

    @rule(at=ANY, mode=st.sampled_from(DIRECTORY_MODES))
    def chmod_directory(self, at: int, mode: int) -> None:
        """Change the mode of a directory."""
        path = self._directory(at)
        self.both(
            f"chmod {path} {mode:o}",
            lambda: self.union.chmod(path, mode),
            lambda: os.chmod(self.plain + path, mode),
        )

    @precondition(lambda self: _ROOT)
    @rule(at=ANY, uid=st.sampled_from([0, 1000]))
    def chown(self, at: int, uid: int) -> None:
        """Change the owner, of a symbolic link its own."""
        path = self._existing(at)

        def ours() -> None:
            node = self.union.node(path)
            mode = self.union.fs.attributes.of(node).mode
            if not stat.S_ISDIR(mode):  # the kernel asks for the bits to go (notify_change)
                self._clear_set_id(path, mode)
            self.union.fs.attributes.change(node.ino, Change(uid=uid), None)

        self.both(
            f"chown {path} {uid}", ours, lambda: os.chown(self.plain + path, uid, -1, follow_symlinks=False)
        )

    def _clear_set_id(self, path: str, mode: int) -> None:
        if mode & stat.S_ISUID and not stat.S_ISLNK(mode):
            self.union.chmod(path, stat.S_IMODE(mode) & ~stat.S_ISUID)

    @rule(at=ANY, time=st.integers(0, RECENT - 1))
    def utime(self, at: int, time: int) -> None:
        """Set the times, of a symbolic link its own."""
        path = self._existing(at)

        def ours() -> None:
            self.union.fs.attributes.change(
                self.union.node(path).ino, Change(atime_ns=time, mtime_ns=time), None
            )

        self.both(
            f"utime {path} {time}",
            ours,
            lambda: os.utime(self.plain + path, ns=(time, time), follow_symlinks=False),
        )

    @rule(at=ANY, name=st.sampled_from(["user.color", "user.overlay.opaque"]), value=st.binary(max_size=3))
    def setxattr(self, at: int, name: str, value: bytes) -> None:
        """Set an attribute, also one that is named like a mark."""
        path = self._other(at, stat.S_IFREG) if at % 2 else self._directory(at)
        if path is not None:
            self.both(
                f"setxattr {path} {name}",
                lambda: self.union.setxattr(path, name, value),
                lambda: os.setxattr(self.plain + path, name, value),
            )

    # -- operations on contents --------------------------------------------------------------------

    @rule(at=ANY, size=st.sampled_from([0, 1, 20_000, 80_000]))
    def truncate(self, at: int, size: int) -> None:
        """Change the size."""
        path = self._other(at, stat.S_IFREG)
        if path is not None:
            self.both(
                f"truncate {path} {size}",
                lambda: self.union.truncate(path, size),
                lambda: self._plain_truncate(path, size),
            )

    def _plain_truncate(self, path: str, size: int) -> None:
        at = self.plain + path
        os.truncate(at, size)
        self._lose_set_id(at)

    @staticmethod
    def _lose_set_id(at: str | int) -> None:
        """Do what the kernel does for a caller without CAP_FSETID; that the union's has it, it does not know."""
        mode = stat.S_IMODE(os.stat(at).st_mode)
        if mode & stat.S_ISUID:
            os.chmod(at, mode & ~stat.S_ISUID)

    @rule(at=ANY, flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC]))
    def open(self, at: int, flags: int) -> None:
        """Open a file and keep it open, whatever becomes of its name."""
        path = self._other(at, stat.S_IFREG)
        if path is None or len(self._handles) > 5:
            return
        opened: list[int] = []

        def ours() -> None:
            opened.append(self.union.open(path, flags))

        def theirs() -> None:
            opened.append(os.open(self.plain + path, flags))
            if flags & os.O_TRUNC:
                self._lose_set_id(opened[-1])

        if self.both(f"open {path} {flags:o}", ours, theirs):
            self._handles.append((opened[0], opened[1]))

    @precondition(lambda self: self._handles)
    @rule(at=ANY, data=st.binary(min_size=1, max_size=5), offset=st.sampled_from([0, 3, 17_000]))
    def write_handle(self, at: int, data: bytes, offset: int) -> None:
        """Write through an open file."""
        number, fd = self._handles[at % len(self._handles)]
        if self.union.fs.handles.file(number).flags & os.O_ACCMODE == os.O_RDONLY:
            return  # which the kernel does not ask for

        def theirs() -> int:
            done = os.pwrite(fd, data, offset)
            self._lose_set_id(fd)
            return done

        self.both(f"write at {offset}", lambda: self.union.fs.files.write(number, offset, data), theirs)

    @precondition(lambda self: self._handles)
    @rule(at=ANY, offset=st.sampled_from([0, 16_999]))
    def read_handle(self, at: int, offset: int) -> None:
        """Read through an open file, which may have been opened before the file was copied up."""
        number, fd = self._handles[at % len(self._handles)]
        self.both(
            f"read at {offset}",
            lambda: self.union.fs.files.read(number, offset, 20),
            lambda: os.pread(fd, 20, offset),
        )

    @precondition(lambda self: self._handles)
    @rule(at=ANY)
    def stat_handle(self, at: int) -> None:
        """Compare the attributes of an open file."""
        number, fd = self._handles[at % len(self._handles)]

        def ours() -> tuple[int, ...]:
            shown = self.union.fs.attributes.of(self.union.fs.handles.file(number).node)
            return shown.mode, shown.size, shown.nlink, shown.uid

        def theirs() -> tuple[int, ...]:
            info = os.fstat(fd)
            return info.st_mode, info.st_size, info.st_nlink, info.st_uid

        self.both("stat", ours, theirs)

    @precondition(lambda self: self._handles)
    @rule(at=ANY)
    def close(self, at: int) -> None:
        """Close an open file."""
        number, fd = self._handles.pop(at % len(self._handles))
        self.union.fs.handles.close_file(number)
        os.close(fd)
        self.union.end_request()

    @rule(at=ANY, data=st.binary(min_size=1, max_size=5))
    def write(self, at: int, data: bytes) -> None:
        """Write into a file."""
        path = self._other(at, stat.S_IFREG)
        if path is None:
            return

        def theirs() -> None:
            fd = os.open(self.plain + path, os.O_WRONLY)
            os.write(fd, data)
            self._lose_set_id(fd)
            os.close(fd)

        self.both(f"write {path}", lambda: self.union.write(path, data), theirs)

    # -- beginning anew ----------------------------------------------------------------------------

    @rule()
    def forget(self) -> None:
        """Let the kernel forget all that is not open."""
        self.union.forget_everything()

    @rule()
    def reopen(self) -> None:
        """Mount again: from here on everything is found on disk."""
        self._reopen()

    @precondition(lambda self: self._generations < self.max_generations)
    @rule()
    def freeze(self) -> None:
        """Make the layer that was written a lower one, below a new one.

        What only the index knows is the layer's no more: which names below lead to a copy, and how many of a file
        are deleted. Renaming a name makes it one of the copy.
        """
        self._generations += 1
        for path in self.walk()[1]:
            node = self.union.file(path)
            if node.indexed or node.ref.stat().st_nlink > 1:
                for old, new in ((path, f"{path}~"), (f"{path}~", path)):
                    self.union.rename(old, new)
                    os.rename(self.plain + old, self.plain + new)
        self._close_handles()
        self.union.freeze()
        self._compare_unlisted()
        self.compare()
        self.union.begin_layer()
        self._forget_numbers()
        self._compare_unlisted()
        self.compare()
        self.compare_numbers()


class AufsHistories(Histories):
    """The same with whiteouts as names."""

    form: ClassVar[WantedFormat] = WantedFormat(whiteouts=WhiteoutFormat.AUFS)


SHORT = settings(
    max_examples=12,
    stateful_step_count=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
LONG = settings(
    SHORT,
    max_examples=2000,
    stateful_step_count=500,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
)
FORMATS = pytest.mark.parametrize("machine", [Histories, AufsHistories], ids=["overlay", "aufs"])


@FORMATS
def test_a_union_and_a_plain_directory_have_the_same_history(machine: type[Histories]) -> None:
    run_state_machine_as_test(machine, settings=SHORT)


@pytest.mark.long
@FORMATS
def test_a_union_and_a_plain_directory_have_the_same_long_history(machine: type[Histories]) -> None:
    run_state_machine_as_test(machine, settings=LONG)
