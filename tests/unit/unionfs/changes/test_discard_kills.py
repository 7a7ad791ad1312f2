"""A process that fails or is killed while it discards changes leaves each object old or changed, and the same command resumes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import File, HardLink, Node, Symlink, make_tree
from tests.unit.unionfs.changes.discarding import discard_from
from tests.unit.unionfs.changes.trees import compare, source_of
from tests.unit.unionfs.faults import Faults, failing_with
from tests.unit.unionfs.freezing import EarlierClient
from tests.unit.unionfs.operations import FORMS, copy_tree
from tests.unit.unionfs.support import Shown, Union
from tests.unit.unionfs.test_atomicity import memory  # noqa: F401 - a fixture
from unionfs.changes.discard import discard
from unionfs.changes.places import Places
from unionfs.vfs.rename_plan import RENAME_EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG_AGO = 10**18
#: More calls than any case makes.
_MANY = 600

LOWER: dict[str, Node] = {
    "d/a": File(b"a", mode=0o640, mtime_ns=LONG_AGO),
    "d/b": File(b"b" * 20_000, mtime_ns=LONG_AGO),
    "d/s/x": File(b"x", mtime_ns=LONG_AGO),
    "d/s/y": File(b"y", mtime_ns=LONG_AGO),
    "e/k": File(b"k", mtime_ns=LONG_AGO),
    "f/m": File(b"m", mtime_ns=LONG_AGO),
    "f/n/o": File(b"o", mtime_ns=LONG_AGO),
    "link": Symlink(b"d/a"),
    "l/one": File(b"links", mtime_ns=LONG_AGO),
    "l/two": HardLink("l/one"),
    "three": HardLink("l/one"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A history, and what is discarded of it."""

    change: Callable[[Union], None]
    paths: tuple[str, ...]
    #: Paths at which nothing may be for a moment, because two objects change places there.
    gaps: frozenset[str] = frozenset()
    #: What follows if the layer is frozen after the history.
    then: Callable[[Union], None] = lambda _: None


def _change_directory(union: Union) -> None:
    union.write("d/a", b"A")
    union.chmod("d/b", 0o600)
    union.unlink("d/s/x")
    union.create("d/new", b"new")
    union.chmod("d", 0o700)


def _move_directory(union: Union) -> None:
    _change_directory(union)
    union.create("d/s/new", b"new")
    union.write("d/s/y", b"Y")
    union.rename("d", "moved")
    union.rename("e/k", "moved/k")


def _move_over(union: Union) -> None:
    union.unlink("f/m")
    union.unlink("f/n/o")
    union.rmdir("f/n")
    union.rmdir("f")
    union.rename("d", "f")
    union.rename("e/k", "link")


def _remove_directory(union: Union) -> None:
    union.rename("d/a", "kept")
    for name in ("d/b", "d/s/x", "d/s/y"):
        union.unlink(name)
    for name in ("d/s", "d"):
        union.rmdir(name)


def _make_directory_again(union: Union) -> None:
    _remove_directory(union)
    union.mkdir("d")
    union.create("d/b", b"B")


def _replace_by_file(union: Union) -> None:
    _remove_directory(union)
    union.create("d", b"file")
    union.unlink("link")
    union.mkdir("link")
    union.create("link/in", b"in")


def _change_links(union: Union) -> None:
    union.write("l/one", b"LINKS")
    union.link("l/two", "more")


def _move_links(union: Union) -> None:
    _change_links(union)
    union.rename("l/two", "e/two")
    union.rename("three", "e/three")


def _delete_link(union: Union) -> None:
    _change_links(union)
    union.unlink("three")


def _exchange(union: Union) -> None:
    union.rename("d", "f", RENAME_EXCHANGE)
    union.rename("l/one", "e/k", RENAME_EXCHANGE)


def _nest(union: Union) -> None:
    union.rename("d", "t")
    union.mkdir("d")
    union.rename("t", "d/d")
    union.rename("link", "d/link")


def _change_directory_again(union: Union) -> None:
    union.write("d/a", b"Aa")
    union.unlink("d/b")
    union.create("d/s/x", b"X")
    union.rename("d/new", "d/s/newer")


def _move_directory_again(union: Union) -> None:
    union.write("moved/a", b"Aa")
    union.unlink("moved/s/new")
    union.rename("moved/s", "f/s")
    union.rename("moved", "again")


def _change_links_again(union: Union) -> None:
    union.write("three", b"THREE")
    union.unlink("l/one")


CASES = {
    "a directory": Case(_change_directory, ("/d",), then=_change_directory_again),
    "single objects": Case(_change_directory, ("/d/a", "/d/b", "/d/s/x", "/d/new")),
    "a moved directory by its new path": Case(_move_directory, ("/moved",)),
    "a moved directory by its old path": Case(_move_directory, ("/d",), then=_move_directory_again),
    "a directory that replaced another": Case(_move_over, ("/d", "/e"), frozenset(("/f", "/link"))),
    "one file of a deleted directory": Case(_remove_directory, ("/d/s/y",)),
    "a deleted directory from which something moved": Case(_remove_directory, ("/d",)),
    "one file of a directory made again": Case(_make_directory_again, ("/d/s/x", "/d/b")),
    "a directory made again": Case(_make_directory_again, ("/d",)),
    "objects of other types": Case(_replace_by_file, ("/d", "/link")),
    "one name of a hard link": Case(_change_links, ("/l/two",), then=_change_links_again),
    "a moved name of a hard link": Case(_move_links, ("/e/two",)),
    "a name of a hard link of which others moved": Case(_move_links, ("/l/one",)),
    "a deleted name of a hard link": Case(_delete_link, ("/three",)),
    "exchanged objects": Case(_exchange, ("/d", "/e")),
    "a directory inside its replacement": Case(_nest, ("/d", "/link")),
    "everything": Case(_move_directory, ("/",), then=_move_directory_again),
}

State = dict[str, Shown]


class FrozenClient(EarlierClient):
    """A client whose second writable layer can be copied together with its work directory."""

    def new_layer(self) -> tuple[Path, Path]:
        """Make the directories of the second layer."""
        upper, work = self.base / "second" / "upper", self.base / "second" / "work"
        upper.mkdir(parents=True, mode=0o700)
        work.mkdir()
        return upper, work

    def on_copy(self, base: Path) -> FrozenClient:
        """Return a client of the same lower layers and a copy of the writable one below *base*."""
        copy_tree(self.upper.parent, base)
        client = copy(self)
        client.upper, client.work = base / "upper", base / "work"
        client.fs = client._open()
        return client


class Prepared:
    """The layers after each history, in one format, of which any number of unions can be opened."""

    def __init__(self, base: Path, form: str, *, frozen: bool) -> None:
        """Make unions below *base*. *frozen*: the layer is frozen after the history."""
        self._base, self._form, self._frozen = base, FORMS[form], frozen
        self.lower = base / "lower"
        make_tree(self.lower, LOWER)
        self._serial = 0
        self._templates: dict[Case, FrozenClient] = {}

    def fresh(self, case: Case) -> Union:
        self._serial += 1
        base = self._base / str(self._serial)
        if self._frozen:
            return self._frozen_template(case).on_copy(base)
        template = self._base / case.change.__name__
        if not template.exists():
            for name in ("upper", "work"):
                (template / name).mkdir(parents=True)
            union = Union.over(template, [self.lower], self._form)
            case.change(union)
            union.close()
        copy_tree(template, base)
        return Union.over(base, [self.lower], self._form)

    def _frozen_template(self, case: Case) -> FrozenClient:
        if case not in self._templates:
            base = self._base / f"template{len(self._templates)}"
            base.mkdir()
            client = FrozenClient(base, [LOWER], self._form)
            case.change(client)
            client.freeze_running()
            case.then(client)
            client.close()
            self._templates[case] = client
        return self._templates[case]


@pytest.fixture(scope="module")
def _prepared(memory: Path) -> dict[tuple[str, bool], Prepared]:  # noqa: F811 - the fixture
    return {
        (form, frozen): Prepared(memory / f"discard-{form}-{frozen}", form, frozen=frozen)
        for form in FORMS
        for frozen in (False, True)
    }


@pytest.fixture(params=[False, True], ids=["", "frozen"])
def frozen(request: pytest.FixtureRequest) -> bool:
    """Return whether an earlier layer has the changes."""
    return bool(request.param)


@pytest.fixture
def fresh(
    _prepared: dict[tuple[str, bool], Prepared], form: str, name: str, frozen: bool
) -> Iterator[Callable[[], Union]]:
    """Return a function that opens another union after the history of the case."""
    opened: list[Union] = []

    def close() -> None:
        while opened:
            opened[-1].close()
            shutil.rmtree(opened.pop().upper.parent)

    def make() -> Union:
        close()
        opened.append(_prepared[form, frozen].fresh(CASES[name]))
        return opened[-1]

    yield make
    close()


def _state(union: Union) -> State:
    """Return all objects; times only if a layer had them."""
    shown = union.show(nlink=False)
    return {
        path: one if one.mtime_ns == LONG_AGO else replace(one, mtime_ns=None) for path, one in shown.items()
    }


def _run_and_kill(union: Union, paths: Sequence[str], number: int) -> bool:
    """Discard in a process that ends before its call *number*. Return whether it reached this call."""
    union.close()
    child = os.fork()
    if child == 0:
        status = 2
        try:
            with pytest.MonkeyPatch.context() as monkeypatch:
                Faults(number, lambda: os._exit(1)).install(monkeypatch)
                discard(source_of(union), list(map(os.fsencode, paths)))
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    union.fs = union._open()
    assert status in (0, 1)
    return status == 1


def _is_old_or_new(
    path: str, one: Shown | None, before: State, after: State, home: str, gaps: frozenset[str]
) -> bool:
    """Return whether *one*, at *path*, is what was there *before*, or is there *after*.

    An object that has moved from *home* is restored first, and then moved back.
    """
    old, new, restored = before.get(path), after.get(path), after.get(home)
    if one in (old, new, restored):
        return True
    if one is None:
        return any(f"{path}/".startswith(f"{gap}/") for gap in gaps)
    new = new or restored
    if old is None or new is None or not stat.S_ISDIR(one.mode & old.mode & new.mode):
        return False
    # The attributes of a directory change one after the other.
    return all(
        getattr(one, field.name) in (getattr(old, field.name), getattr(new, field.name))
        for field in fields(one)
    )


def _home(places: Places, path: str) -> str:
    return "/" + os.fsdecode(places.old_path(os.fsencode(path.strip("/"))))


def _calls(union: Union, case: Case) -> list[str]:
    """Return the names of the calls that discarding makes."""
    counting = Faults(_MANY, lambda: None)
    union.close()
    with pytest.MonkeyPatch.context() as monkeypatch:
        counting.install(monkeypatch)
        discard(source_of(union), list(map(os.fsencode, case.paths)))
    union.fs = union._open()
    assert len(counting.names) < _MANY
    return counting.names


def _some_or_every(count: int) -> pytest.MarkDecorator:
    """Let a test fail *count* of the calls of each case, or all of them with --long."""
    every = pytest.param(_MANY, id="every", marks=pytest.mark.long)
    return pytest.mark.parametrize("count", [pytest.param(count, id="some"), every])


def _numbers(name: str, calls: Sequence[str], count: int) -> range:
    stride = max(1, len(calls) // count)
    return range(1 + zlib.crc32(name.encode()) % stride, len(calls) + 1, stride)


@_some_or_every(3)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", FORMS)
def test_whenever_it_is_killed_each_object_is_old_or_changed_and_the_same_command_resumes(
    fresh: Callable[[], Union], form: str, name: str, count: int
) -> None:
    case = CASES[name]
    union = fresh()
    before, places = _state(union), Places(compare(union))
    calls = _calls(union, case)
    after = _state(union)
    assert before != after
    for number in _numbers(name, calls, count):
        union = fresh()
        assert _run_and_kill(union, case.paths, number)
        when = f"call {number}, {calls[number - 1]}"
        state = _state(union)
        wrong = [
            path
            for path in sorted(before.keys() | after.keys() | state.keys())
            if not _is_old_or_new(path, state.get(path), before, after, _home(places, path), case.gaps)
        ]
        assert wrong == [], (when, [(before.get(path), state.get(path), after.get(path)) for path in wrong])
        assert union.leftovers() == []
        discard_from(union, *case.paths)
        assert _state(union) == after, when
        assert union.leftovers() == []


@_some_or_every(1)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", FORMS)
def test_after_an_error_the_layer_can_be_mounted_and_the_same_command_resumes(
    fresh: Callable[[], Union], form: str, name: str, count: int
) -> None:
    case = CASES[name]
    union = fresh()
    calls = _calls(union, case)
    after = _state(union)
    for number in _numbers(name, calls, count):
        union = fresh()
        union.close()
        with pytest.MonkeyPatch.context() as monkeypatch, suppress(OSError):
            Faults(number, failing_with(errno.ENOSPC)).install(monkeypatch)
            discard(source_of(union), list(map(os.fsencode, case.paths)))
        union.fs = union._open()
        assert union.leftovers() == []
        discard_from(union, *case.paths)
        assert _state(union) == after, f"call {number}, {calls[number - 1]}"
