"""Every change is done or not done: whichever of its system calls fails, and at whichever the server is killed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import File, HardLink, Node, Symlink
from tests.unit.unionfs.faults import Faults, disk_full
from tests.unit.unionfs.support import Shown, Union
from unionfs.rename_plan import RENAME_EXCHANGE
from unionfs.whiteout import WhiteoutFormat

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion

#: More calls than any operation makes: the loops below have to end by themselves.
_MANY = 100
#: A modification time, and a span around it that is long before now.
_LONG_AGO = 10**18
_SPAN = 10**9

LOWER: dict[str, Node] = {
    "d/f": File(b"lower", mode=0o4755, mtime_ns=_LONG_AGO, xattrs={"user.a": b"1"}),
    "d/big": File(b"x" * 5000, size=50_000, mode=0o640, mtime_ns=_LONG_AGO + 7),
    "d/name": b"linked",
    "d/other": HardLink("d/name"),
    "d/link": Symlink(target=b"f"),
    "d/sub": {},
    "c/one": b"copied",
    "c/two": HardLink("c/one"),
    "c/link": Symlink(target=b"one"),
    "empty": {},
    "below": b"below",
    "gone": b"deleted",
    "gonedir/f": b"deleted",
    "marked/f": b"deleted",
}
UPPER: dict[str, Node] = {"upper": b"upper", "new/f": b"new"}


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Work in memory if it keeps user attributes (tmpfs since Linux 6.6): thousands of unions are made here."""
    try:
        memory = tempfile.mkdtemp(dir="/dev/shm")
    except OSError:
        yield tmp_path
        return
    try:
        os.setxattr(memory, "user.test", b"")
        yield Path(memory)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        yield tmp_path
    finally:
        shutil.rmtree(memory)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the call is made is tested here, and not how long a disk takes."""
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)


def _prepare(make_union: MakeUnion, whiteouts: WhiteoutFormat) -> Union:
    """Make a union in which some lower names have been deleted and some objects copied up."""
    union = make_union(LOWER, upper=UPPER, whiteouts=whiteouts)
    for name in ("gone", "gonedir/f", "marked/f"):
        union.unlink(name)
    union.rmdir("gonedir")
    union.write("c/one", b"COPIED")
    union.setxattr("c", "user.copied", b"")
    union.link("c/link", "upperlink")
    union.unlink("upperlink")
    return union


def _open_for_writing(union: Union, path: str) -> None:
    union.fs.handles.close_file(union.open(path, os.O_WRONLY))


#: Operations that write no mark and remove none: one format is enough.
WITHOUT_MARKS: Mapping[str, Callable[[Union], None]] = {
    "copy a file up by opening it": lambda union: _open_for_writing(union, "d/f"),
    "copy a file with holes up": lambda union: _open_for_writing(union, "d/big"),
    "copy a hard link up": lambda union: _open_for_writing(union, "d/name"),
    "copy a symbolic link up": lambda union: union.link("d/link", "linked"),
    "change the mode of a directory": lambda union: union.chmod("d/sub", 0o700),
    "set an attribute": lambda union: union.setxattr("d/f", "user.b", b"2"),
    "make a file": lambda union: union.create("d/sub/file"),
    "make a directory": lambda union: union.mkdir("d/sub/dir"),
    "make a symbolic link": lambda union: union.symlink("d/sub/link", "target"),
    "make a FIFO": lambda union: union.mknod("fifo", stat.S_IFIFO | 0o600),
}
WITH_MARKS: Mapping[str, Callable[[Union], None]] = {
    "make a file where one was deleted": lambda union: union.create("gone"),
    "make a directory where one was deleted": lambda union: union.mkdir("gonedir"),
    "link a lower file": lambda union: union.link("below", "again"),
    "unlink a lower file": lambda union: union.unlink("d/f"),
    "unlink an upper file": lambda union: union.unlink("upper"),
    "unlink one of two lower names": lambda union: union.unlink("d/name"),
    "unlink the linked name of a copy": lambda union: union.unlink("c/one"),
    "unlink the lower name of a copy": lambda union: union.unlink("c/two"),
    "unlink a copied symbolic link": lambda union: union.unlink("c/link"),
    "link a copy to where a file was deleted": lambda union: union.link("c/two", "gone"),
    "rename the lower name of a copy": lambda union: union.rename("c/two", "new/two"),
    "rename over the lower name of a copy": lambda union: union.rename("upper", "c/two"),
    "remove an empty lower directory": lambda union: union.rmdir("empty"),
    "remove a directory with marks": lambda union: union.rmdir("marked"),
    "rename a lower file": lambda union: union.rename("below", "new/below"),
    "rename an upper file": lambda union: union.rename("upper", "d/upper"),
    "rename over a lower file": lambda union: union.rename("upper", "below"),
    "rename to where a file was deleted": lambda union: union.rename("upper", "gone"),
    "rename a directory over an empty lower one": lambda union: union.rename("new", "empty"),
    "rename a directory over one with marks": lambda union: union.rename("new", "marked"),
    "rename a directory to where one was deleted": lambda union: union.rename("new", "gonedir"),
    "exchange an upper and a lower file": lambda union: union.rename("upper", "below", RENAME_EXCHANGE),
    "exchange a file and a directory": lambda union: union.rename("upper", "new", RENAME_EXCHANGE),
}
OPERATIONS = {**WITHOUT_MARKS, **WITH_MARKS}
CASES = [
    *((WhiteoutFormat.OVERLAY, name) for name in WITHOUT_MARKS),
    *((form, name) for form in WhiteoutFormat for name in WITH_MARKS),
]
#: Operations that take a name from an object which has more in lower layers: the count of those is written
#: after the name has gone. If that fails it stays too high, which costs an entry in the index. Too low, it would
#: let the copy go while names lead to it.
LOSES_A_LOWER_NAME = {
    "unlink one of two lower names",
    "unlink the lower name of a copy",
    "rename over the lower name of a copy",
    "rename the lower name of a copy",
}


def _state(union: Union) -> dict[str, Shown]:
    """Return what *union* shows, but for times that are those of the test itself."""
    return {
        path: one
        if one.mtime_ns is not None and abs(one.mtime_ns - _LONG_AGO) < _SPAN
        else replace(one, mtime_ns=None)
        for path, one in union.show().items()
    }


def _difference(
    one: dict[str, Shown], other: dict[str, Shown]
) -> dict[str, tuple[Shown | None, Shown | None]]:
    """Return what differs: a whole state is too long to read."""
    paths = sorted(one.keys() | other.keys())
    return {path: (one.get(path), other.get(path)) for path in paths if one.get(path) != other.get(path)}


def _differs(name: str, expected: dict[str, Shown], shown: dict[str, Shown]) -> bool:
    """Tell whether *shown* is another state than *expected* after the operation *name*."""
    if name in LOSES_A_LOWER_NAME:
        shown = {path: _with_links_of(expected.get(path), one) for path, one in shown.items()}
    return shown != expected


def _with_links_of(expected: Shown | None, shown: Shown) -> Shown:
    if expected is None or expected.nlink is None or shown.nlink != expected.nlink + 1:
        return shown
    return replace(shown, nlink=expected.nlink)


def _run(union: Union, operation: Callable[[Union], None], faults: Faults) -> OSError | None:
    """Run *operation* under *faults*; returns the error that came out of it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults.install(monkeypatch)
        try:
            operation(union)
        except OSError as error:
            return error
    return None


def _run_and_kill(union: Union, operation: Callable[[Union], None], number: int) -> bool:
    """Run *operation* in a process that ends before its call *number*; tells whether it came so far."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            _run(union, operation, Faults(number, lambda: os._exit(1)))
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 1


@pytest.mark.parametrize(("whiteouts", "name"), CASES)
def test_whichever_step_finds_the_disk_full_the_change_is_done_or_not_done(
    make_union: MakeUnion, whiteouts: WhiteoutFormat, name: str
) -> None:
    operation = OPERATIONS[name]
    done = _prepare(make_union, whiteouts)
    operation(done)
    new = _state(done)
    for number in range(1, _MANY):
        union = _prepare(make_union, whiteouts)
        old = _state(union)
        faults = Faults(number, disk_full)
        error = _run(union, operation, faults)
        if not faults.reached:
            assert error is None
            break
        call = f"call {number}, {faults.names[number - 1]}"
        expected = new if error is None else old
        assert error is None or error.errno == errno.ENOSPC, call
        shown = _state(union)
        assert not _differs(name, expected, shown), (call, _difference(expected, shown))
        assert error is None or union.leftovers() == [], call
        union.reopen()
        shown = _state(union)
        assert not _differs(name, expected, shown), (call, "mounted again", _difference(expected, shown))
        assert union.leftovers() == [], call
    else:
        pytest.fail(f"more than {_MANY} calls")


@pytest.mark.parametrize(("whiteouts", "name"), CASES)
def test_at_whichever_step_the_server_is_killed_the_next_mount_shows_the_old_or_the_new_state(
    make_union: MakeUnion, whiteouts: WhiteoutFormat, name: str
) -> None:
    operation = OPERATIONS[name]
    done = _prepare(make_union, whiteouts)
    old = _state(done)
    operation(done)
    new = _state(done)
    for number in range(1, _MANY):
        union = _prepare(make_union, whiteouts)
        if not _run_and_kill(union, operation, number):
            break
        union.reopen()
        shown = _state(union)
        differences = _difference(old, shown), _difference(new, shown)
        assert not _differs(name, old, shown) or not _differs(name, new, shown), (number, *differences)
        assert union.leftovers() == []
    else:
        pytest.fail(f"more than {_MANY} calls")
