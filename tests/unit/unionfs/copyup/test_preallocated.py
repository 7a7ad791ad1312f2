"""Successive copy-ups use a preallocated file. The result on disk and in the mount is the same as without it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import File, HardLink
from tests.unit.unionfs.faults import Faults, failing_with
from unionfs.copyup import background_copy
from unionfs.fuse.direct.async_io import AsyncIo
from unionfs.fuse.direct.descriptor_by_inode import DescriptorsByInode
from unionfs.vfs.attributes import Change

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union
    from unionfs.copyup.preallocated import PreallocatedFile

LONG_AGO = 10**18
LOWER = {
    **{f"f{number}": File(b"%d" % number, mode=0o644, mtime_ns=LONG_AGO) for number in range(4)},
    "private": File(b"p", mode=0o400, mtime_ns=LONG_AGO),
    "set-id": File(b"s", mode=0o4755, mtime_ns=LONG_AGO, xattrs={"user.a": b"1"}),
    "one": File(b"linked", mtime_ns=LONG_AGO),
    "two": HardLink("one"),
    "large": File(os.urandom(5000), mtime_ns=LONG_AGO),
}


@pytest.fixture
def union(make_union: MakeUnion) -> Union:
    return prepared(make_union)


def prepared(make_union: MakeUnion) -> Union:
    union = make_union(LOWER)
    union.fs.prepare_copies()
    return union


def ready(union: Union) -> PreallocatedFile | None:
    return union.parts.copy_up._preallocated_files._ready


def chmod(union: Union, *names: str, mode: int = 0o600) -> None:
    """Change modes, one per request."""
    for name in names:
        union.chmod(name, mode)
        union.fs.trim()


def on_disk(union: Union) -> list[str]:
    return os.listdir(union.work / "unionfs" / "tmp")


@pytest.fixture
def warm(union: Union) -> Union:
    """Return a union with a preallocated file, because two files have been copied."""
    chmod(union, "f0", "f1")
    assert ready(union) is not None
    return union


def test_one_copy_makes_nothing_for_a_next_one_that_may_never_come(union: Union) -> None:
    chmod(union, "f0")
    assert ready(union) is None
    assert on_disk(union) == []
    for _ in range(20):
        union.fs.trim()
    chmod(union, "f1")
    assert ready(union) is None


def test_whoever_answers_when_all_is_done_prepares_nothing(make_union: MakeUnion) -> None:
    union = make_union(LOWER)
    chmod(union, "f0", "f1", "f2")
    assert (ready(union), on_disk(union)) == (None, [])


def test_the_third_copy_takes_what_the_second_made(warm: Union) -> None:
    file = ready(warm)
    assert file is not None
    assert on_disk(warm) == [os.fsdecode(file.name)]
    inode = file.made.st_ino
    warm.chmod("f2", 0o600)
    assert (warm.upper / "f2").stat().st_ino == inode
    assert (ready(warm), on_disk(warm)) == (None, [])
    warm.fs.trim()
    assert ready(warm) is not None


@pytest.mark.parametrize("name", ["f2", "private", "set-id", "one"])
def test_a_copy_is_the_same_with_and_without(warm: Union, make_union: MakeUnion, name: str) -> None:
    other = prepared(make_union)
    for union in (warm, other):
        union.chmod(name, 0o640)
    assert ready(warm) is None
    assert ready(other) is None
    assert warm.show()["/" + name] == other.show()["/" + name]
    disk = [(union.upper / name).stat() for union in (warm, other)]
    assert (
        len({(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_size) for info in disk}) == 1
    )


def test_who_reads_the_file_goes_on_with_the_copy(warm: Union) -> None:
    handle = warm.open("f2", os.O_RDONLY)
    warm.write("f2", b"new")
    assert warm.fs.files.read(handle, 0, 9) == b"new"


@pytest.mark.parametrize("how", ["O_TRUNC", "truncate(2)"])
def test_a_file_that_is_emptied_was_changed_then_and_not_when_its_copy_was_made(
    warm: Union, how: str
) -> None:
    preallocated = ready(warm)
    assert preallocated is not None
    os.utime(preallocated.fd, ns=(LONG_AGO + 1, LONG_AGO + 1))
    if how == "O_TRUNC":
        warm.open("f2", os.O_WRONLY | os.O_TRUNC)
    else:
        warm.truncate("f2", 0)
    assert warm.stat("f2").mtime_ns > LONG_AGO + 1
    assert ready(warm) is preallocated


def test_what_cannot_be_made_is_not_missed(union: Union, monkeypatch: pytest.MonkeyPatch) -> None:
    chmod(union, "f0")
    really = os.open

    def full(path: bytes, flags: int, *arguments: object, **more: object) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(path, flags, *arguments, **more)  # type: ignore[arg-type]

    union.chmod("f1", 0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        union.fs.trim()
    assert ready(union) is None
    chmod(union, "f2")
    assert union.read("f2") == b"2"


def test_one_that_cannot_be_looked_at_is_removed(union: Union, monkeypatch: pytest.MonkeyPatch) -> None:
    chmod(union, "f0")
    union.chmod("f1", 0o600)
    before = len(os.listdir("/proc/self/fd"))

    def broken(_fd: int) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("unionfs.copyup.preallocated.os.fstat", broken)
        union.fs.trim()
    assert ready(union) is None
    assert on_disk(union) == []
    assert len(os.listdir("/proc/self/fd")) <= before, "the copy's own is closed, too"


def test_the_end_of_the_mount_removes_it(warm: Union) -> None:
    warm.reopen()
    assert on_disk(warm) == []
    assert warm.read("f1") == b"1"


def test_where_there_is_no_room_it_takes_none(warm: Union) -> None:
    before = len(os.listdir("/proc/self/fd"))
    warm.fs.make_room()
    assert (ready(warm), on_disk(warm)) == (None, [])
    assert len(os.listdir("/proc/self/fd")) == before - 1
    warm.fs.make_room()
    warm.chmod("f2", 0o600)
    assert warm.read("f2") == b"2"


def test_where_there_is_no_descriptor_left_it_gives_its_own_back(
    warm: Union, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, opened = DescriptorsByInode(warm.fs), warm.fs.files.open

    def cramped(ino: int, flags: int) -> int:
        if ready(warm) is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(ino, flags)

    monkeypatch.setattr(warm.fs.files, "open", cramped)
    assert warm.fs.files.read(files.reading(warm.inode("f3").ino), 0, 9) == b"3"


def test_a_large_file_that_was_copied_ahead_needs_none(warm: Union, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_copy, "LARGE", 5000)
    later = AsyncIo(warm.fs, lambda *_: None, lambda: None)
    content = warm.read("large")
    assert ready(warm) is not None
    copies = warm.parts.copy_up.background
    assert copies is not None
    with pytest.raises(background_copy.CopyPending):
        warm.write("large", b"x")
    work = copies.begin(warm.inode("large").ino)
    assert work is not None
    work()
    warm.write("large", b"x", 0)
    warm.fs.trim()
    assert warm.read("large") == b"x" + content[1:]
    assert len(on_disk(warm)) <= 1, "what is ready for the next"
    later.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["f2", "set-id", "one"])
def test_whichever_call_of_a_copy_fails_it_is_made_or_not(
    make_union: MakeUnion, name: str, number: int
) -> None:
    open_before, each = len(os.listdir("/proc/self/fd")), 0
    for at in range(1, 40):
        union = prepared(make_union)
        chmod(union, "f0", "f1")
        assert ready(union) is not None
        old = union.show()["/" + name]
        faults = Faults(at, failing_with(number), reading=number == errno.EIO)
        error = None
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults.install(monkeypatch)
            try:
                union.chmod(name, 0o640)
            except OSError as raised:
                error = raised
            union.fs.trim()
        shown = union.show()["/" + name]
        if not faults.reached:
            assert error is None
            assert shown.mode & 0o7777 == 0o640
            break
        expected = old.mode if error is not None else shown.mode & ~0o7777 | 0o640
        # After the rename into place, reading the attributes of the copy can still fail.
        assert shown.mode == expected or (number == errno.EIO and shown.mode & 0o7777 == 0o640), faults.call
        assert (shown.data, shown.mtime_ns) == (old.data, old.mtime_ns), faults.call
        preallocated = ready(union)
        assert on_disk(union) == ([os.fsdecode(preallocated.name)] if preallocated else []), faults.call
        union.reopen()
        assert union.show()["/" + name] == shown, faults.call
        assert on_disk(union) == []
        now = len(os.listdir("/proc/self/fd"))
        assert each in (0, now - open_before), faults.call
        open_before, each = now, now - open_before
    else:
        pytest.fail("more calls than a copy makes")


def test_what_is_called_before_the_answer_is_what_has_to_be(warm: Union) -> None:
    """The calls before the reply are those for the properties of the copy. Invisible work is done after the reply."""
    counted = Faults(1000, failing_with(errno.EIO), reading=True)
    inode = warm.inode("f2")
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted.install(monkeypatch)
        warm.fs.attributes.change(inode.ino, Change(mode=0o600), None)
        warm.fs.attributes.of(inode)
        before = counted.names[:]
        warm.fs.trim()
    after = counted.names[len(before) :]
    # The calls that copy contents depend on the file system, and those that list attributes on the mount.
    others = ("ioctl", "copy_file_range", "pread", "pwrite", "fdatasync", "listxattr", "getxattr")
    there = [name for name in before if name not in others]
    assert there == ["open", "fstat", "setxattr", "utime", "fstat", "rename", "stat"]
    assert after == ["write", "utime", "open", "fstat"]
