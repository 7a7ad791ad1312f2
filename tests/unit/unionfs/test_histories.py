"""Random histories of a union, in this process and without a mount, against a plain directory with the same tree.

These do what tests/mount/test_differential.py does, but are fast enough for long histories and many layers. The
upper layer of one generation becomes the topmost lower layer of the next.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.layers import RECENT
from tests.unit.unionfs.compared_union import ComparedUnion, outcome
from unionfs import _libc
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat
from unionfs.vfs.attributes import Change

_AT_FDCWD = -100
_ROOT = os.geteuid() == 0
MODES = [0o600, 0o644, 0o755, 0o4755, 0o000, 0o444] if _ROOT else [0o600, 0o644, 0o755, 0o700]
DIRECTORY_MODES = [0o700, 0o755, 0o1777, 0o2775] if _ROOT else [0o700, 0o755, 0o1777]
RENAME_FLAGS = [0, 0, 0, 0, _libc.RENAME_NOREPLACE, _libc.RENAME_EXCHANGE, _libc.RENAME_EXCHANGE]

ANY = st.integers(0, 1 << 16)


class Histories(ComparedUnion):
    """Random operations on one union and one plain directory."""

    max_generations: ClassVar[int] = 5

    def __init__(self) -> None:
        super().__init__()
        self._generations = 0

    # -- operations on names -----------------------------------------------------------------------

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
            inode = self.union.inode(path)
            mode = self.union.fs.attributes.of(inode).mode
            if not stat.S_ISDIR(mode):  # the kernel asks for the bits to go (notify_change)
                self._clear_set_id(path, mode)
            self.union.fs.attributes.change(inode.ino, Change(uid=uid), None)

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
                self.union.inode(path).ino, Change(atime_ns=time, mtime_ns=time), None
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
            shown = self.union.fs.attributes.of(self.union.fs.handles.file(number).inode)
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
        self.forget_everything()

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
            inode = self.union.file(path)
            if inode.indexed or inode.ref.stat().st_nlink > 1:
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
