"""Every change is atomic, whichever of its system calls fails, and before whichever call the server is killed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.unionfs.faults import Faults, failing_with
from tests.unit.unionfs.operations import (
    CLEARS_SET_ID,
    FILLS_IN_PLACE,
    FORMS,
    LONG_AGO,
    LOSES_A_LOWER_NAME,
    OPERATIONS,
    SPAN,
    Operation,
    Prepared,
)
from tests.unit.unionfs.support import Shown, Union

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion

#: More calls than any operation makes, so that the loops below end.
_MANY = 400
CASES = [(form, name) for form, operations in OPERATIONS.items() for name in operations]

State = dict[str, Shown]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use tmpfs if it supports user attributes (since Linux 6.6), because the tests create thousands of unions."""
    try:
        path = tempfile.mkdtemp(dir="/dev/shm")
    except OSError:
        yield tmp_path_factory.mktemp("unions")
        return
    try:
        os.setxattr(path, "user.test", b"")
        yield Path(path)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        yield tmp_path_factory.mktemp("unions")
    finally:
        shutil.rmtree(path)


Fresh = Callable[[], Union]


@pytest.fixture(scope="module")
def _states(memory: Path) -> dict[str, Prepared]:
    before = os.umask(0)
    try:
        return {name: Prepared(memory / name, form) for name, form in FORMS.items()}
    finally:
        os.umask(before)


@pytest.fixture
def fresh(_states: dict[str, Prepared], form: str) -> Iterator[Fresh]:
    """Return a function that opens a union in the prepared state, and closes the previous one."""
    opened: list[Union] = []

    def close() -> None:
        while opened:
            union = opened.pop()
            union.close()
            shutil.rmtree(union.upper.parent)

    def make() -> Union:
        close()
        opened.append(_states[form].fresh())
        return opened[-1]

    yield make
    close()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace syncs: the tests check that the call is made, and need not wait for a disk."""
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)


def _state(union: Union) -> State:
    """Return all objects of *union*, without the times of the test itself."""
    return {
        path: one
        if one.mtime_ns is not None and abs(one.mtime_ns - LONG_AGO) < SPAN
        else replace(one, mtime_ns=None)
        for path, one in union.show().items()
    }


def _difference(one: State, other: State) -> dict[str, tuple[str, str]]:
    """Return the differing attributes, because a whole state is too long to read."""
    found = {}
    for path in sorted(one.keys() | other.keys()):
        ours, theirs = one.get(path), other.get(path)
        if ours != theirs:
            fields = [
                name for name in Shown.__slots__ if getattr(ours, name, None) != getattr(theirs, name, None)
            ]
            values = [
                str({name: getattr(each, name) for name in fields})[:200] if each else "nothing"
                for each in (ours, theirs)
            ]
            found[path] = (values[0], values[1])
    return found


def _accepted(name: str, expected: State, shown: State) -> State:
    """Return *shown*, with the values of *expected* where the operation *name* permits a difference."""
    return {path: _accepted_one(name, expected.get(path), one) for path, one in shown.items()}


def _accepted_one(name: str, wanted: Shown | None, one: Shown) -> Shown:
    if wanted is None:
        return one
    if name in LOSES_A_LOWER_NAME and wanted.nlink is not None and one.nlink == wanted.nlink + 1:
        one = replace(one, nlink=wanted.nlink)
    if name in CLEARS_SET_ID and one.mode == wanted.mode & ~0o6000:
        one = replace(one, mode=wanted.mode)
    if name in FILLS_IN_PLACE and one.mtime_ns is None:
        one = replace(one, mtime_ns=wanted.mtime_ns)
    return one


def _check(name: str, expected: State, union: Union, when: str) -> None:
    """Fail unless *union* shows *expected*."""
    shown = _accepted(name, expected, _state(union))
    assert shown == expected, (when, _difference(expected, shown))


def _check_old_or_new(name: str, old: State, new: State, union: Union, when: str) -> None:
    shown = _state(union)
    states = [(each, _accepted(name, each, shown)) for each in (old, new)]
    differences = [_difference(expected, accepted) for expected, accepted in states]
    assert any(expected == accepted for expected, accepted in states), (when, *differences)


def _run(union: Union, operation: Operation, faults: Faults) -> OSError | None:
    """Run *operation* with *faults*, and return its error."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults.install(monkeypatch)
        try:
            operation(union)
        except OSError as error:
            return error
    return None


def _run_and_kill(run: Callable[[Faults], None], number: int) -> bool:
    """Call *run* in a process that ends before its call *number*. Return whether it reached this call."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            run(Faults(number, lambda: os._exit(1)))
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 1


#: The result of each operation on the prepared state, computed once for all tests.
_KNOWN: dict[tuple[str, str], tuple[State, State]] = {}


def _old_and_new(fresh: Fresh, form: str, name: str) -> tuple[State, State]:
    if (form, name) not in _KNOWN:
        union = fresh()
        old = _state(union)
        OPERATIONS[form][name](union)
        _KNOWN[form, name] = old, _state(union)
    return _KNOWN[form, name]


def _numbers(name: str, stride: int) -> list[int]:
    """Return every *stride*-th call number of the operation *name*, from a random start.

    Number 1 is added if short operations would end before the first number.
    """
    first = 1 + zlib.crc32(name.encode()) % stride
    return [*([1] if first > 3 else []), *range(first, _MANY, stride)]


def _every(
    stride: int, cases: Sequence[tuple[str, str]] = CASES, *, of_cases: int = 1
) -> pytest.MarkDecorator:
    """Let a test try every *stride*-th call of every *of_cases*-th case, or all of them with --long.

    For the accounts of scripts/test, whose layers differ only in their marks, half of those are enough.
    """
    stride *= 1 if os.geteuid() == 0 else 2
    sampled = [pytest.param(*case, stride, id="-".join(case)) for case in cases[::of_cases]]
    every = [pytest.param(*case, 1, id="-".join((*case, "every")), marks=pytest.mark.long) for case in cases]
    return pytest.mark.parametrize(("form", "name", "stride"), sampled + every)


@_every(4)
def test_whichever_step_finds_the_disk_full_the_change_is_done_or_not_done(
    fresh: Fresh, form: str, name: str, stride: int
) -> None:
    operation = OPERATIONS[form][name]
    old, new = _old_and_new(fresh, form, name)
    for number in _numbers(name, stride):
        union = fresh()
        _state(union)  # cached attributes of every object have to stay correct
        faults = Faults(number, failing_with(errno.ENOSPC))
        error = _run(union, operation, faults)
        if not faults.reached:
            assert error is None
            break
        call = f"{faults.call}: {error}"
        expected = new if error is None else old
        assert error is None or error.errno == errno.ENOSPC, call
        _check(name, expected, union, call)
        assert error is None or union.leftovers() == [], call
        union.reopen()
        _check(name, expected, union, f"{call}, mounted again")
        assert union.leftovers() == [], call
        if error is not None:
            operation(union)
            _check(name, new, union, f"{call}, mounted again and repeated")
    else:
        pytest.fail(f"more than {_MANY} calls")


@_every(5, of_cases=3)
def test_whichever_call_the_disk_fails_the_state_is_the_old_or_the_new_one_and_the_same_after_a_remount(
    fresh: Fresh, form: str, name: str, stride: int
) -> None:
    operation = OPERATIONS[form][name]
    old, new = _old_and_new(fresh, form, name)
    for number in _numbers(name, stride):
        union = fresh()
        _state(union)
        faults = Faults(number, failing_with(errno.EIO), reading=True)
        error = _run(union, operation, faults)
        if not faults.reached:
            break
        call = f"{faults.call}: {error}"
        assert error is None or error.errno == errno.EIO, call
        # After the step that cannot be undone an error can still come out of asking what has become of it.
        _check_old_or_new(name, old, new, union, call)
        shown = _state(union)
        assert error is None or union.leftovers() == [], call
        union.reopen()
        _check(name, shown, union, f"{call}, mounted again")
        assert union.leftovers() == [], call
    else:
        pytest.fail(f"more than {_MANY} calls")


@_every(4, of_cases=3)
def test_after_a_disk_that_stopped_working_the_next_mount_shows_the_old_or_the_new_state(
    fresh: Fresh, form: str, name: str, stride: int
) -> None:
    operation = OPERATIONS[form][name]
    old, new = _old_and_new(fresh, form, name)
    for number in _numbers(name, stride):
        union = fresh()
        faults = Faults(number, failing_with(errno.EIO), lasting=True)
        error = _run(union, operation, faults)
        if not faults.reached:
            break
        union.reopen()
        if error is None:
            _check(name, new, union, faults.call)
        else:
            _check_old_or_new(name, old, new, union, faults.call)
        assert union.leftovers() == []
    else:
        pytest.fail(f"more than {_MANY} calls")


@_every(6)
def test_at_whichever_step_the_server_is_killed_the_next_mount_shows_the_old_or_the_new_state(
    fresh: Fresh, form: str, name: str, stride: int
) -> None:
    operation = OPERATIONS[form][name]
    old, new = _old_and_new(fresh, form, name)
    for number in _numbers(name, stride):
        union = fresh()
        if not _run_and_kill(_operate(union, operation), number):
            break
        union.reopen()
        _check_old_or_new(name, old, new, union, f"call {number}")
        assert union.leftovers() == []
    else:
        pytest.fail(f"more than {_MANY} calls")


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_on_a_full_disk_can_be_mounted_as_before(
    fresh: Fresh, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = fresh()
    expected, format_before = _state(union), vars(union.parts.upper)["_format"]

    def no_room(_dirfd: int, _prefix: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("_try_mark", "_try_whiteouts"):
        monkeypatch.setattr(f"unionfs.upper.format.{name}", no_room)
    union.reopen()
    assert _state(union) == expected
    format_now = vars(union.parts.upper)["_format"]
    for name in ("whiteouts", "prefix", "marks", "redirect", "metacopy"):
        assert getattr(format_now, name) == getattr(format_before, name), name


def test_a_layer_first_mounted_on_a_full_disk_keeps_marks_that_its_root_can_see(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root of a user namespace may not set trusted.* attributes, and this error precedes ENOSPC."""
    really_mark, really_make = os.setxattr, os.mkdir

    def refuse_trusted(path: bytes, name: str, *others: Any, **more: Any) -> None:
        if name.startswith("trusted."):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        really_mark(path, name, *others, **more)

    def have_no_room(path: Any, *others: Any, **more: Any) -> None:
        if path == b"directory":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really_make(path, *others, **more)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setxattr", refuse_trusted)
    with monkeypatch.context() as full:
        full.setattr(os, "mkdir", have_no_room)
        union = make_union({"d": {"f": b"lower"}})
    union.reopen()
    assert vars(union.parts.upper)["_format"].prefix == "user.overlay."


#: Operations that add a copy to the index before it has its name.
INDEXES = [
    ("overlay", "copy a hard link up"),
    ("overlay", "change the mode of a large hard link"),
    ("overlay", "rename a large hard link"),
    ("override", "copy a symbolic link up"),
]


@_every(23, INDEXES)
def test_a_second_kill_at_whichever_step_of_the_next_mount_changes_nothing(
    fresh: Fresh, form: str, name: str, stride: int
) -> None:
    operation = OPERATIONS[form][name]
    old, new = _old_and_new(fresh, form, name)
    for number in _numbers(name, 1):
        for second in _numbers(f"{name} {number}", stride):
            union = fresh()
            if not _run_and_kill(_operate(union, operation), number):
                return
            union.fs.close()
            killed = _run_and_kill(_mount(union), second)
            union.fs = union._open()
            when = f"call {number}, then call {second} of the next mount"
            _check_old_or_new(name, old, new, union, when)
            assert union.leftovers() == [], when
            _lose_every_name(union)
            union.reopen()
            assert union.index() == [], when
            if not killed:
                break
    pytest.fail(f"more than {_MANY} calls")


def _lose_every_name(union: Union) -> None:
    """Unlink all non-directories. An entry of the index that remains refers to no object."""
    for path, shown in union.show().items():
        if not stat.S_ISDIR(shown.mode):
            union.unlink(path)


def _operate(union: Union, operation: Operation) -> Callable[[Faults], None]:
    def run(faults: Faults) -> None:
        assert _run(union, operation, faults) is None

    return run


def _mount(union: Union) -> Callable[[Faults], None]:
    def run(faults: Faults) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults.install(monkeypatch)
            union._open()

    return run
