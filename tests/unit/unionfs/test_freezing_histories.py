"""Random histories of a union whose writable layer is frozen at random, against a plain directory that knows nothing of it."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.fsapi.invariants import check_invariants
from tests.unit.unionfs.client import Client
from tests.unit.unionfs.freezing import FreezingClient
from tests.unit.unionfs.support import owner
from tests.unit.unionfs.test_histories import _AT_FDCWD, ANY, LONG, SHORT, Histories
from unionfs import _libc
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat
from unionfs.vfs.attributes import Change
from unionfs.vfs.file_ranges import RangeAllocation, RangeCopy


class FreezingHistories(Histories):
    """A union that is frozen while files are open, which are written on afterwards."""

    client: ClassVar[type[Client]] = FreezingClient
    max_generations: ClassVar[int] = 12
    frozen: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        #: Handles and descriptors of files without a name.
        self._unnamed: list[tuple[int, int]] = []

    @property
    def _client(self) -> FreezingClient:
        assert isinstance(self.union, FreezingClient)
        return self.union

    @precondition(lambda self: self._generations < self.max_generations)
    @rule(again=st.booleans())
    def freeze_running(self, again: bool) -> None:
        """Freeze the layer, once or twice, and compare: nothing has changed, not even an inode number."""
        self._generations += 1
        for _ in range(2 if again else 1):
            self._client.freeze_running()
            check_invariants(self.union.fs)
            FreezingHistories.frozen += 1
        self.compare()
        self.compare_numbers()

    @rule()
    def forget_and_compare(self) -> None:
        """Let the kernel forget everything: what is looked up anew has the same number."""
        self.forget_everything()
        self._compare_unlisted()
        self.compare_numbers()

    @precondition(lambda self: self._handles)
    @rule(at=ANY, size=st.sampled_from([0, 2, 30_000]))
    def truncate_handle(self, at: int, size: int) -> None:
        """Change the size through an open file."""
        number, fd = self._handles[at % len(self._handles)]
        handle = self.union.fs.handles.file(number)
        if handle.flags & os.O_ACCMODE == os.O_RDONLY:
            return

        def ours() -> None:
            self.union.fs.attributes.change(handle.inode.ino, Change(size=size), number)

        def theirs() -> None:
            os.ftruncate(fd, size)
            self._lose_set_id(fd)

        self.both(f"ftruncate {size}", ours, theirs)

    @precondition(lambda self: self._handles)
    @rule(at=ANY, offset=st.sampled_from([0, 25_000]))
    def allocate_handle(self, at: int, offset: int) -> None:
        """Allocate blocks through an open file."""
        number, fd = self._handles[at % len(self._handles)]
        if self.union.fs.handles.file(number).flags & os.O_ACCMODE == os.O_RDONLY:
            return

        def ours() -> None:
            change = RangeAllocation(self.union.fs, self.union.fs.files.writable_handle(number), 0, offset, 9)
            change.run()
            change.finish()

        def theirs() -> None:
            os.posix_fallocate(fd, offset, 9)
            self._lose_set_id(fd)

        self.both(f"fallocate {offset}", ours, theirs)

    @precondition(lambda self: len(self._handles) > 1)
    @rule(at=ANY, to=ANY)
    def copy_between_handles(self, at: int, to: int) -> None:
        """Copy a range from one open file to another."""
        source, target = self._handles[at % len(self._handles)], self._handles[to % len(self._handles)]
        handles = self.union.fs.handles
        if handles.file(target[0]).flags & os.O_ACCMODE == os.O_RDONLY or source == target:
            return
        if os.path.samestat(os.fstat(source[1]), os.fstat(target[1])):
            return  # overlapping ranges are an error of the kernel's

        def ours() -> int:
            try:
                copy = RangeCopy(
                    self.union.fs,
                    handles.file(source[0]),
                    0,
                    self.union.fs.files.writable_handle(target[0]),
                    1,
                    7,
                )
            except OSError:  # set-id bits: the kernel then reads and writes
                return self.union.fs.files.write(target[0], 1, self.union.fs.files.read(source[0], 0, 7))
            copy.run()
            copy.finish()
            return copy.done

        def theirs() -> int:
            done = os.pwrite(target[1], os.pread(source[1], 7, 0), 1)
            self._lose_set_id(target[1])
            return done

        self.both("copy_file_range", ours, theirs)

    @precondition(lambda self: self._handles)
    @rule(at=ANY, mode=st.sampled_from([0o600, 0o666]))
    def chmod_handle(self, at: int, mode: int) -> None:
        """Change the mode of an open file, which may need no copy of the contents yet."""
        number, fd = self._handles[at % len(self._handles)]
        inode = self.union.fs.handles.file(number).inode
        self.both(
            f"fchmod {mode:o}",
            lambda: self.union.fs.attributes.change(inode.ino, Change(mode=mode), None) and None,
            lambda: os.fchmod(fd, mode),
        )

    @precondition(lambda self: len(self._unnamed) < 3)
    @rule(at=ANY, data=st.binary(min_size=1, max_size=5))
    def open_unnamed(self, at: int, data: bytes) -> None:
        """Create a file without a name."""
        path = self._directory(at)
        opened: list[int] = []

        def ours() -> None:
            parent = self.union.directory(path)
            number, inode = self.union.fs.files.create_unnamed(parent, 0o644, os.O_RDWR, owner())
            inode.lookups = 1
            self.union._known[inode.ino] = inode
            opened.append(number)
            self.union.fs.files.write(number, 0, data)

        def theirs() -> None:
            opened.append(os.open(self.plain + (path or "/"), os.O_TMPFILE | os.O_RDWR, 0o644))
            os.write(opened[-1], data)

        if self.both(f"O_TMPFILE {path}", ours, theirs):
            self._handles.append((opened[0], opened[1]))
            self._unnamed.append(self._handles[-1])

    @precondition(lambda self: self._unnamed)
    @rule(at=ANY, to=ANY)
    def link_unnamed(self, at: int, to: int) -> None:
        """Give a file without a name one."""
        unnamed = self._unnamed.pop(at % len(self._unnamed))
        if unnamed not in self._handles:
            return  # closed
        number, fd = unnamed
        path = self._new(to)
        inode = self.union.fs.handles.file(number).inode

        def ours() -> None:
            parent, name = self.union._split(path)
            self.union.fs.names.link(inode, parent, name)

        def theirs() -> None:
            _libc.link_fd(fd, _AT_FDCWD, os.fsencode(self.plain + path))

        self.both(f"link O_TMPFILE {path}", ours, theirs)

    def _remount(self) -> None:
        """Open the frozen layers as lower ones; only now, inode numbers of what is in them may change."""
        self._unnamed.clear()
        super()._remount()
        if self._client.frozen:
            self._forget_numbers()

    def _close_handles(self) -> None:
        super()._close_handles()
        self._unnamed.clear()

    def finish(self) -> None:
        """Look at the frozen layers at the end."""
        self._client.check_frozen()


class AufsFreezingHistories(FreezingHistories):
    """The same with whiteouts as names."""

    form: ClassVar[WantedFormat] = WantedFormat(whiteouts=WhiteoutFormat.AUFS)


class OverrideFreezingHistories(FreezingHistories):
    """The same with owners in attributes."""

    form: ClassVar[WantedFormat] = WantedFormat(whiteouts=WhiteoutFormat.OVERLAY, override_stat=True)


MACHINES = pytest.mark.parametrize(
    "machine",
    [FreezingHistories, AufsFreezingHistories, OverrideFreezingHistories],
    ids=["overlay", "aufs", "override"],
)


@MACHINES
def test_no_program_notices_that_the_layer_is_frozen_and_the_frozen_layer_never_changes(
    machine: type[FreezingHistories],
) -> None:
    before = FreezingHistories.frozen
    run_state_machine_as_test(machine, settings=SHORT)
    assert FreezingHistories.frozen > before


@pytest.mark.long
@MACHINES
def test_no_program_notices_in_a_long_history_that_the_layer_is_frozen(
    machine: type[FreezingHistories],
) -> None:
    run_state_machine_as_test(machine, settings=LONG)
