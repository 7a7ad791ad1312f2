"""The cost of a request does not grow with the size of the directory. The cost of a walk grows linearly with the tree.

The tests do not measure time. They count called functions (Python and C, with system calls) and executed lines, because a
loop may call nothing. They measure allocated memory, because copying a list executes one line only.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple

import pyfuse3
import pytest
from pyfuse3 import FUSEError

from tests.fsapi.direct import DirectOperations
from tests.support.calls import calls_of
from tests.unit.unionfs.support import Union
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.fuse.libfuse.handlers import UnionOperations
from unionfs.types import ROOT_INO
from unionfs.upper.format import WantedFormat

SMALL, LARGE = 10, 10_000
#: Allowed difference of counts: a relative one, and a number of random calls, such as callbacks of weak references.
SHARE, CHANCE = 0.1, 10
#: Bytes. A list of the names of a large directory has ten thousand pointers.
MEMORY = 40_000

SERVERS = ("pyfuse3", "direct", "unopened")


class Cost(NamedTuple):
    """The cost of one request."""

    calls: int
    lines: int
    memory: int


class Client:
    """Sends requests to a union as the kernel does, one after the other."""

    def __init__(self, union: Union, server: str) -> None:
        """Serve *union*."""
        self.union = union
        self.room = 3
        self.told: list[Any] = []
        #: Entries of the last listing, with "." and "..", whose lookup counts do not increase.
        self.listed = 0
        self.operations: Any = (
            UnionOperations(union.fs, masks=True)
            if server == "pyfuse3"
            else DirectOperations(union.fs, unopened=server == "unopened")
        )
        self.context = SimpleNamespace(uid=os.getuid(), gid=os.getgid(), pid=1, umask=0o22)

    def tell(self, entry: Any) -> None:
        """Record the entries of a listing, for `DirectOperations`."""
        self.listed += 1
        if entry.st_ino:
            self.told.append(entry)

    def reply(self, _token: object, _name: bytes, entry: Any, after: int) -> bool:
        """Replace pyfuse3.readdir_reply."""
        if not self.room:
            return False
        self.room -= 1
        self.listed += 1
        if after > 2:
            self.told.append(entry)
        return True

    def ask(self, name: str, *arguments: Any, context: bool = True) -> Any:
        """Call the handler *name*, which never waits, and return its reply."""
        coroutine = getattr(self.operations, name)(*arguments, *([self.context] if context else []))
        try:
            coroutine.send(None)
        except StopIteration as end:
            self.union.fs.trim()
            return end.value
        except FUSEError as error:
            assert error.errno == errno.ENOENT  # noqa: PT017 - what is looked up may not be there
            return None
        raise AssertionError("a handler waits")

    def inode(self, parent: int, name: bytes) -> int:
        """Look up *name*."""
        return int(self.ask("lookup", parent, name).st_ino)

    def make(self, parent: int, name: bytes) -> None:
        """Create a file and close it."""
        opened, _ = self.ask("create", parent, name, 0o644, os.O_RDWR)
        self.ask("release", opened.fh, context=False)


def measured(request: Callable[[], object], *, memory: bool) -> Cost:
    """Return the cost of *request*: either the memory, or the counts, because counting changes the memory."""
    calls = lines = 0
    if memory:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            request()
            return Cost(0, 0, tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def run(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return run

    profiler, tracer = sys.getprofile(), sys.gettrace()
    sys.setprofile(called)
    sys.settrace(run)
    try:
        request()
    finally:
        sys.settrace(tracer)
        sys.setprofile(profiler)
    return Cost(calls, lines, 0)


def requests(client: Client, at: int, other: int, number: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield one request of each kind in the directory *at*. *number* makes the names differ from those of earlier requests."""
    ask = client.ask
    there = iter([b"there%d" % each for each in range(number * 3, number * 3 + 3)])
    new = b"new%d" % number

    yield "look up what is there", lambda: ask("lookup", at, b"there0")
    yield "look up what is not there", lambda: ask("lookup", at, b"absent%d" % number)
    yield "ask for its attributes", lambda: ask("getattr", at)
    yield "create", lambda: client.make(at, new)
    yield "mkdir", lambda: ask("mkdir", at, new + b"d", 0o755)
    yield "symlink", lambda: ask("symlink", at, new + b"s", b"target")
    yield "mknod", lambda: ask("mknod", at, new + b"p", stat.S_IFIFO | 0o600, 0)
    inode = client.inode(at, new)
    yield "link", lambda: ask("link", inode, at, new + b"l")
    yield "rename in it", lambda: ask("rename", at, new, at, new + b"r", 0)
    yield "unlink what is new", lambda: ask("unlink", at, new + b"l")
    yield "rmdir", lambda: ask("rmdir", at, new + b"d")
    name = next(there)
    yield "rename what is there", lambda: ask("rename", at, name, at, new + b"t", 0)
    name = next(there)
    yield "rename over what is there", lambda: ask("rename", at, new + b"t", at, name, 0)
    yield "rename out of it", lambda: ask("rename", at, name, other, new, 0)
    yield "rename into it", lambda: ask("rename", other, new, at, name, 0)
    yield "unlink what is there", lambda: ask("unlink", at, name)
    changed = client.inode(at, next(there))
    mode = SimpleNamespace(st_mode=0o600, st_uid=0, st_gid=0, st_size=0, st_atime_ns=0, st_mtime_ns=0)
    only = SimpleNamespace(
        **{f"update_{each}": each == "mode" for each in "mode uid gid size atime mtime".split()}
    )
    yield "chmod", lambda: ask("setattr", changed, mode, only, None)


def costs(client: Client, at: int, other: int) -> dict[str, Cost]:
    """Return the cost of each kind of request when it is not the first of its kind."""
    found: dict[str, Cost] = {}
    for number in range(3):
        for kind, request in requests(client, at, other, number):
            if number == 0:
                request()
                continue
            cost = measured(request, memory=number == 2)
            found[kind] = Cost(*map(sum, zip(found.get(kind, Cost(0, 0, 0)), cost, strict=True)))
    return found


def fill(directory: Path, count: int) -> None:
    """Create *count* files in *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
    for number in range(count):
        os.close(os.open(f"there{number}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
    os.close(fd)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Layers with a directory of few files and one of very many."""
    made = {}
    for count in (SMALL, LARGE):
        made[count] = tmp_path_factory.mktemp(f"layer{count}")
        fill(made[count] / "big", count)
    return made


@pytest.fixture
def client(
    tmp_path: Path, layers: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Client]]:
    """Return a client of a union whose directory `big` has this number of files in the given layers."""
    opened: list[Union] = []

    def make(server: str, where: str, count: int, whiteouts: WhiteoutFormat | None = None) -> Client:
        base = tmp_path / str(len(opened))
        for name in ("upper", "work", "empty"):
            (base / name).mkdir(parents=True)
        (base / "upper" / "other").mkdir()
        if where in ("upper", "both"):
            fill(base / "upper" / "big", count)
        lowers = [layers[count] if where in ("lower", "both") else base / "empty"]
        union = Union.over(base, lowers, WantedFormat(whiteouts=whiteouts))
        opened.append(union)
        made = Client(union, server)
        monkeypatch.setattr(pyfuse3, "readdir_reply", made.reply)
        return made

    yield make
    for union in opened:
        union.close()


def assert_alike(small: dict[str, Cost], large: dict[str, Cost]) -> None:
    """Fail with a list of the requests that cost more in the larger directory."""
    assert small.keys() == large.keys()
    worse = [
        f"{kind}: {small[kind]} of {SMALL}, {large[kind]} of {LARGE}"
        for kind in small
        if any(
            abs(two - one) > max(CHANCE, SHARE * one)
            for one, two in zip(small[kind][:2], large[kind][:2], strict=True)
        )
        or large[kind].memory - small[kind].memory > MEMORY
    ]
    assert worse == []


@pytest.mark.parametrize("where", ["lower", "upper", "both"])
@pytest.mark.parametrize(
    ("server", "whiteouts"),
    [*((server, WhiteoutFormat.OVERLAY) for server in SERVERS), ("direct", WhiteoutFormat.AUFS)],
)
def test_a_request_costs_the_same_in_a_directory_of_ten_and_of_ten_thousand_files(
    client: Callable[..., Client], server: str, whiteouts: WhiteoutFormat, where: str
) -> None:
    found = {}
    for count in (SMALL, LARGE):
        made = client(server, where, count, whiteouts)
        found[count] = costs(made, made.inode(ROOT_INO, b"big"), made.inode(ROOT_INO, b"other"))
    assert len(found[SMALL]) > 15
    assert_alike(found[SMALL], found[LARGE])


@pytest.mark.parametrize("server", SERVERS)
def test_renaming_a_directory_costs_the_same_whatever_is_in_it(
    client: Callable[..., Client], server: str
) -> None:
    def found(count: int) -> dict[str, Cost]:
        made = client(server, "both", count)
        other = made.inode(ROOT_INO, b"other")
        made.inode(ROOT_INO, b"big")

        def rename(old: bytes, to: int, new: bytes) -> Callable[[], object]:
            return lambda: made.ask("rename", ROOT_INO, old, to, new, 0)

        # The first lookup records the place in the layer.
        return {
            "first": measured(rename(b"big", ROOT_INO, b"big2"), memory=False),
            "second": measured(rename(b"big2", ROOT_INO, b"big3"), memory=False),
            "third": measured(rename(b"big3", ROOT_INO, b"big4"), memory=True),
            "away": measured(rename(b"big4", other, b"big"), memory=False),
        }

    assert_alike(found(SMALL), found(LARGE))


@pytest.mark.parametrize("server", SERVERS)
def test_reading_on_in_a_listing_costs_the_same_however_long_it_is_and_whatever_went_meanwhile(
    client: Callable[..., Client], server: str
) -> None:
    def found(count: int) -> dict[str, Cost]:
        made = client(server, "both", count)
        at = made.inode(ROOT_INO, b"big")
        stream = made.ask("opendir", at)

        def read(start: int) -> None:
            made.room = 3
            made.ask("readdir", stream, start, made, context=False)

        read(0)
        read(5)
        made.ask("unlink", at, b"there9")
        made.make(at, b"new")
        first = measured(lambda: read(5), memory=False)
        made.ask("unlink", at, b"there8")
        return {"first": first, "second": measured(lambda: read(5), memory=True)}

    assert_alike(found(SMALL), found(LARGE))


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("changes", [False, True])
def test_an_open_stream_takes_no_memory_by_entry_whether_or_not_its_directory_changes(
    client: Callable[..., Client], server: str, changes: bool
) -> None:
    made = client(server, "both", LARGE)
    at = made.inode(ROOT_INO, b"big")
    streams: list[Any] = []

    def open_more(count: int) -> int:
        """Open *count* more streams and begin to read each. Return the allocated bytes."""
        for _ in range(count):
            streams.append(made.ask("opendir", at))
            made.room = 3
            made.ask("readdir", streams[-1], 0, made, context=False)
            if changes:
                made.make(at, b"new")
                made.ask("unlink", at, b"new")
        made.told.clear()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = open_more(2)
        grown = open_more(10) - before
    finally:
        tracemalloc.stop()
    assert grown < MEMORY  # a list of its own for each would take 800,000 bytes
    made.room, made.listed = 100, 0
    made.ask("readdir", streams[0], 2, made, context=False)
    assert made.listed >= 100
    for stream in streams:
        made.ask("releasedir", stream, context=False)


def walk(client: Client) -> int:
    """List everything below the root and forget each entry, as a kernel without memory would. Return the number of entries."""
    seen = 0
    pending = [ROOT_INO]
    while pending:
        at = pending.pop()
        stream = client.ask("opendir", at)
        start = 0
        while True:
            client.told, client.room, client.listed = [], 100, 0
            client.ask("readdir", stream, start, client, context=False)
            if not client.listed:
                break
            start += client.listed
            seen += len(client.told)
            directories = [entry.st_ino for entry in client.told if stat.S_ISDIR(entry.st_mode)]
            others = [(entry.st_ino, 1) for entry in client.told if not stat.S_ISDIR(entry.st_mode)]
            pending += directories
            if others:
                client.ask("forget", others, context=False)
        client.ask("releasedir", stream, context=False)
        if at != ROOT_INO:
            client.ask("forget", [(at, 1)], context=False)
    return seen


def forest(directory: Path, directories: int, files: int) -> Path:
    """Create directories with files in *directory*, and return *directory*."""
    for number in range(directories):
        fill(directory / f"directory{number}", files)
    return directory


def calls_per_entry(base: Path, layer: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the number of function calls per entry that a walk of *layer* takes."""
    for name in ("upper", "work"):
        (base / name).mkdir(parents=True)
    union = Union.over(base, [layer], WantedFormat())
    try:
        client = Client(union, server)
        monkeypatch.setattr(pyfuse3, "readdir_reply", client.reply)
        seen = 0

        def walked() -> None:
            nonlocal seen
            seen = walk(client)

        count = calls_of(walked)  # without counting lines, which would take minutes
        assert seen == sum(len(names) + len(others) for _, names, others in os.walk(layer))
        assert len(union.fs.inode_table) == 1
        return count / seen
    finally:
        union.close()


@pytest.mark.parametrize("server", SERVERS)
def test_a_walk_costs_by_entry_what_it_costs_in_a_tree_of_a_twentieth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    small, many, wide = (
        calls_per_entry(
            tmp_path / str(number), forest(tmp_path / f"layer{number}", *shape), server, monkeypatch
        )
        for number, shape in enumerate(((5, 100), (100, 100), (1, 10_000)))
    )
    assert abs(many - small) <= SHARE * small
    assert wide <= (1 + SHARE) * small


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A layer of a million files. It is removed at the end, because pytest keeps temporary directories of three runs."""
    layer = forest(tmp_path_factory.mktemp("million"), 10_000, 100)
    yield layer
    shutil.rmtree(layer)


@pytest.mark.long
@pytest.mark.parametrize("server", SERVERS)
def test_a_walk_of_a_million_files_costs_by_entry_what_one_of_a_thousand_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, million: Path, server: str
) -> None:
    small = calls_per_entry(tmp_path / "small", forest(tmp_path / "layer", 10, 100), server, monkeypatch)
    many = calls_per_entry(tmp_path / "many", million, server, monkeypatch)
    assert abs(many - small) <= SHARE * small
