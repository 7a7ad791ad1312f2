"""The index of lower layers shows what the layers show, costs no system call on them, and is never believed when it should
not be.
"""

from __future__ import annotations

import os
import random
import stat
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.calls import calls_of
from tests.support.tree import Dir, Fifo, File, HardLink, Opaque, Socket, Symlink, Whiteout, make_tree
from tests.unit.unionfs.support import with_index
from unionfs import _libc
from unionfs.assemble import LayerSource, StackSource, build_indexes, open_stack
from unionfs.formats.whiteout import ALL_MARKS, NO_MARKS, TRUSTED_MARKS, MarkPolicy
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.layer_index import build
from unionfs.layer_index.format import HEADER, MAGIC, ROW
from unionfs.layer_index.merged_directory import IndexedRef, MergedDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.vfs.filesystem import UnionFs

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
AUFS = MarkPolicy(overlay=False, aufs=True)
Seen = dict[str, tuple[Any, ...]]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TICK_NS", 0)


class Layers:
    """Lower layers on disk, opened with an index of them or without."""

    def __init__(self, base: Path, *trees: Any, policy: MarkPolicy = ALL_MARKS) -> None:
        """Write *trees*, top first, below *base*."""
        self.base = base
        self.paths = [base / f"lower{number}" for number in range(len(trees))]
        for path, tree in zip(self.paths, trees, strict=True):
            make_tree(path, tree)
        (base / "upper").mkdir()
        (base / "work").mkdir()
        self.policies = [policy] * len(trees)
        self.unchanging = True
        #: Which layers are to be in an index; None for all.
        self.indexed: Sequence[bool] | None = None

    def source(self, *, writable: bool = False) -> StackSource:
        """Open the directories."""
        return StackSource(
            lowers=tuple(
                LayerSource(fd=os.open(path, _OPEN_DIR), policy=policy, unchanging=self.unchanging)
                for path, policy in zip(self.paths, self.policies, strict=True)
            ),
            upper_fd=os.open(self.base / "upper", _OPEN_DIR) if writable else None,
            work_fd=os.open(self.base / "work", _OPEN_DIR) if writable else None,
        )

    def open(self, *, indexed: bool = True, writable: bool = False, build: bool = True) -> UnionFs:
        """Open the stack, with an index that is made if it is missing and *build* says so."""
        source = self.source(writable=writable)
        if indexed:
            (self.base / "indexes").mkdir(mode=0o700, exist_ok=True)
            wanted = self.indexed or [True] * len(source.lowers)
            lowers = zip(source.lowers, wanted, strict=True)
            source = replace(
                source,
                lowers=tuple(replace(lower, indexed=want) for lower, want in lowers),
                index_fd=os.open(self.base / "indexes", _OPEN_DIR),
            )
            try:
                if build:
                    build_indexes(source, wait=True)
            except OSError:
                open_stack(source).close()
                raise
        return open_stack(source)

    def files(self) -> list[Path]:
        """List the indexes that there are."""
        return sorted((self.base / "indexes").glob("*.index"))


def seen(fs: UnionFs, *, data: bool = True) -> Seen:
    """Return everything that *fs* shows, by path, in the order of its listings. Times of access change with reading."""
    found: Seen = {}
    pending: list[tuple[str, int]] = [("", 1)]
    while pending:
        path, ino = pending.pop(0)
        node = fs.inode_table.node(ino)
        node.lookups += 1
        shown = fs.attributes.of(node)._replace(atime_ns=0)
        content: Any = None
        if isinstance(node, DirectoryInode):
            number = fs.directories.open(ino)
            names = []
            for name, child, after in fs.directories.entries(number, 0):
                if after > 2:
                    child.lookups += 1
                    names.append(name)
                    pending.append((f"{path}/{os.fsdecode(name)}", child.ino))
            fs.handles.close_directory(number)
            content = names
        elif stat.S_ISLNK(shown.mode):
            content = fs.files.readlink(ino)
        elif stat.S_ISREG(shown.mode) and data:
            number = fs.files.open(ino, os.O_RDONLY)
            content = fs.files.read(number, 0, shown.size)
            fs.handles.close_file(number)
        xattrs = tuple((name, fs.xattrs.get(ino, name)) for name in fs.xattrs.list(ino))
        found[path] = (shown, content, xattrs)
        fs.trim()
    return found


def show(layers: Layers, **how: Any) -> Seen:
    """Open *layers*, look at all of it and close it."""
    fs = layers.open(**how)
    try:
        return seen(fs)
    finally:
        fs.close()


def is_indexed(fs: UnionFs) -> bool:
    """Tell whether *fs* believes an index of the whole of its lower layers."""
    root = fs.inode_table.root.parts[-1]
    return isinstance(root, MergedDirectory) and root._stack.trusted


# -- it shows the same -------------------------------------------------------------------------------------------------

RICH = {
    "file": File(b"data", mode=0o4751, xattrs={"user.one": b"1"}),
    "link": Symlink(target=b"nowhere"),
    "long": Symlink(target=b"x" * 300),
    "pipe": Fifo(mode=0o640),
    "socket": Socket(mode=0o604),
    "d": Dir({"a": b"1", "deep": {"er": {"f": b"2"}}}, mode=0o1750, xattrs={"user.two": b"2"}),
    "both": {"low": b"l"},
    "gone": b"gone",
    "hidden": {"x": b"x"},
    "as dir": {"y": b""},
    "as file": b"",
}
ABOVE = {
    "gone": Whiteout(),
    "both": {"high": b"h", "low": b"L"},
    "hidden": Opaque({"new": b"n"}),
    ".wh.pipe": b"",
    "d": {".wh..wh..opq": b"", "only": b"o"},
    "as dir": b"file",
    "as file": {"z": b""},
    "twice": File(b"2"),
    "again": HardLink("twice"),
    b"\xff\xfe\n": b"odd",
}


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("policy", [ALL_MARKS, TRUSTED_MARKS, AUFS], ids=["all", "trusted", "aufs"])
def test_a_stack_shows_the_same_with_an_index_and_without(
    tmp_path: Path, writable: bool, policy: MarkPolicy
) -> None:
    layers = Layers(tmp_path, ABOVE, RICH, {"both": {"lowest": b""}, "bottom": b""}, policy=policy)
    plain = show(layers, indexed=False, writable=writable)
    fs = layers.open(writable=writable)
    assert is_indexed(fs)
    assert seen(fs) == plain
    fs.close()


def _random_tree(rng: random.Random, depth: int) -> Any:
    tree: dict[str, Any] = {}
    for name in rng.sample("abcdefgh", rng.randrange(7)):
        kind = rng.randrange(12)
        if kind < 5 and depth:
            entries = _random_tree(rng, depth - 1)
            mode = rng.choice([0o755, 0o700, 0o2775])
            tree[name] = (
                Opaque(entries, mark=rng.choice(["user.overlay.opaque", "user.fuseoverlayfs.opaque"]))
                if rng.random() < 0.2
                else Dir({**entries, **({".wh..wh..opq": b""} if rng.random() < 0.1 else {})}, mode=mode)
            )
        elif kind < 8:
            xattrs = {"user.x": b"1"} if rng.random() < 0.3 else {}
            tree[name] = File(bytes(rng.randrange(50)), mode=rng.choice([0o644, 0o4755]), xattrs=xattrs)
        elif kind == 8:
            tree[name] = Whiteout()
        elif kind == 9:
            tree[f".wh.{name}"] = b""
        elif kind == 10:
            tree[name] = rng.choice([Symlink(target=b"t" * rng.randrange(1, 400)), Fifo(), Socket()])
        else:
            tree[name] = b"plain"
    return tree


@pytest.mark.parametrize("seed", range(12))
def test_random_stacks_show_the_same_with_an_index_and_without(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    trees = [_random_tree(rng, 3) for _ in range(rng.randrange(1, 7))]
    layers = Layers(tmp_path, *trees, policy=rng.choice([ALL_MARKS, TRUSTED_MARKS, AUFS]))
    make_tree(tmp_path / "upper", _random_tree(rng, 3))
    plain = show(layers, indexed=False, writable=True)
    assert show(layers, indexed=True, writable=True) == plain
    # Some layers in indexes of their own, between others that are in none.
    layers.indexed = [rng.random() < 0.6 for _ in trees]
    assert show(layers, indexed=True, writable=True) == plain
    layers.unchanging = False
    assert show(layers, indexed=True, writable=True) == plain


def test_an_opaque_root_hides_what_is_below_the_stack_whatever_the_topmost_layer_is(tmp_path: Path) -> None:
    layers = Layers(
        tmp_path, {"top": b""}, {".wh..wh..opq": b"", "f": b""}, {"hidden": b""}, {"hidden, too": b""}
    )
    layers.policies = [NO_MARKS, ALL_MARKS, ALL_MARKS, ALL_MARKS]
    plain = show(layers, indexed=False)
    assert list(plain) == ["", "/top", "/f"]
    layers.indexed = [True, True, True, False]
    assert show(layers) == plain


def test_directories_under_a_very_long_path_are_reached(tmp_path: Path) -> None:
    tree: Any = {"f": b"deep"}
    for _ in range(20):
        tree = {"d" * 250: tree}
    layers = Layers(tmp_path, {}, {})
    at = os.open(layers.paths[1], _OPEN_DIR)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        down = os.open("d" * 250, _OPEN_DIR, dir_fd=at)
        os.close(at)
        at = down
    with open(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=at), "wb") as file:
        file.write(b"deep")
    os.close(at)
    fs = layers.open()
    assert is_indexed(fs)
    assert [content for _, content, _ in seen(fs).values()][-1] == b"deep"
    fs.close()


# -- it costs nothing --------------------------------------------------------------------------------------------------


class _Counted:
    """Counts system calls about files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for module, names in (
            (
                os,
                ("stat", "fstat", "lstat", "open", "scandir", "listdir", "readlink", "listxattr", "getxattr"),
            ),
            (_libc, ("openat2", "stat_cached", "birth_time_ns")),
        ):
            for name in names:
                monkeypatch.setattr(module, name, self._counting(name, getattr(module, name)))

    def _counting(self, name: str, really: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.calls.append(name)
            return really(*args, **more)

        return call


def test_lookups_and_listings_make_no_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Layers(tmp_path, {"d": {"f": b"1", "l": Symlink(target=b"t")}}, {"d": {"g": b"", "e": {}}})
    fs = layers.open(writable=True)
    counted = _Counted(monkeypatch)
    seen(fs, data=False)
    # What is left is about the writable layer.
    upper = [
        name for name in counted.calls if name not in ("scandir", "open", "openat2", "fstat", "listxattr")
    ]
    assert upper == []
    assert counted.calls.count("scandir") <= 1
    monkeypatch.undo()
    fs.close()


def test_a_file_deep_in_a_layer_is_opened_by_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers(tmp_path, {}, {"a": {"b": {"c": {"f": b"data"}}}})
    fs = layers.open()
    node: Any = fs.inode_table.root
    for name in (b"a", b"b", b"c", b"f"):
        node = fs.inode_table.lookup(node, name)
    assert isinstance(node, FileInode)
    counted = _Counted(monkeypatch)
    number = fs.files.open(node.ino, os.O_RDONLY)
    assert counted.calls == ["openat2", "fstat"]
    monkeypatch.undo()
    assert fs.files.read(number, 0, 10) == b"data"
    fs.close()


def test_many_layers_cost_what_one_does(tmp_path: Path) -> None:
    def calls(count: int) -> int:
        base = tmp_path / str(count)
        base.mkdir()
        trees: list[dict[str, Any]] = [{"d": {}} for _ in range(count)]
        for number in range(100):
            trees[number % count]["d"][f"f{number}"] = b""
        fs = Layers(base, *trees).open()
        assert is_indexed(fs)
        made = calls_of(lambda: seen(fs, data=False))
        fs.close()
        return made

    assert calls(50) <= calls(1) * 1.1


def test_a_file_is_mapped_and_its_directories_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {f"d{number}": {"f": b""} for number in range(50)})
    fs = layers.open()
    root = fs.inode_table.root.parts[0]
    assert isinstance(root, MergedDirectory)
    assert root._rows is None
    node = fs.inode_table.lookup(fs.inode_table.root, b"d7")
    assert isinstance(node, DirectoryInode)
    child = node.parts[0]
    assert isinstance(child, MergedDirectory)
    assert child._rows is None
    fs.close()


def test_a_changed_layer_shows_as_it_is_and_its_index_is_made_anew(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"d": {"old": b""}, "e": {"f": b""}}, {"d": {"low": b""}, "e": {}})
    layers.unchanging = False
    assert "/d/old" in show(layers)
    (made,) = layers.files()
    (layers.paths[0] / "d" / "new").write_bytes(b"new")
    (layers.paths[0] / "d" / "old").unlink()
    (layers.paths[1] / "e" / "below").write_bytes(b"")
    fs = layers.open(build=False)
    found = seen(fs)
    assert not is_indexed(fs)
    fs.close()
    assert found == show(layers, indexed=False)
    assert not made.exists()
    fs = layers.open()
    assert is_indexed(fs)
    assert seen(fs) == found
    fs.close()


def test_a_layer_whose_root_changed_has_no_index(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b""})
    assert show(layers)
    (layers.paths[0] / "g").write_bytes(b"")
    fs = layers.open(build=False)
    assert not is_indexed(fs)
    assert "/g" in seen(fs)
    fs.close()


def test_a_changed_file_is_found_out_when_it_is_opened(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b"old", "d": {"g": b"old"}})
    fs = layers.open()
    node = fs.inode_table.lookup(fs.inode_table.root, b"f")
    (layers.paths[0] / "f").write_bytes(b"longer than before")
    (layers.paths[0] / "d" / "g").write_bytes(b"longer, too")
    fs.handles.close_file(fs.files.open(node.ino, os.O_RDONLY))
    assert not is_indexed(fs)
    assert fs.attributes.of(node).size == len(b"longer than before")
    found = seen(fs)
    assert found["/d/g"][1] == b"longer, too"
    fs.close()
    assert layers.files() == []


@pytest.mark.parametrize("change", ["mode", "owner", "link", "fifo", "directory", "others write there"])
def test_a_file_that_somebody_else_may_have_written_is_not_believed(tmp_path: Path, change: str) -> None:
    layers = Layers(tmp_path, {"f": b"1"})
    plain = show(layers)
    (made,) = layers.files()
    if change == "mode":
        made.chmod(0o620)
    elif change == "owner":
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(made, 1234, -1)
    elif change == "link":
        made.rename(tmp_path / "moved")
        made.symlink_to(tmp_path / "moved")
    elif change == "fifo":
        made.unlink()
        os.mkfifo(made)
    elif change == "directory":
        made.unlink()
        made.mkdir()
    else:
        made.parent.chmod(0o777)
    fs = layers.open(build=False)
    assert not is_indexed(fs)
    assert seen(fs) == plain
    fs.close()


def test_an_index_is_of_its_layers_in_their_order_alone(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b"1"}, {"f": b"2"})
    show(layers)
    layers.paths.reverse()
    fs = layers.open(build=False)
    assert not is_indexed(fs)
    assert seen(fs)["/f"][1] == b"2"
    fs.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_index_shows_what_the_layers_show(tmp_path: Path, seed: int) -> None:
    layers = Layers(tmp_path, ABOVE, RICH)
    plain = show(layers)
    (made,) = layers.files()
    whole = made.read_bytes()
    rng = random.Random(seed)
    for _ in range(25):
        damaged = bytearray(whole)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.randrange(1, 4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        made.write_bytes(damaged)
        made.chmod(0o600)
        assert show(layers, build=False) == plain


@pytest.mark.parametrize("seed", range(3))
def test_whatever_an_index_with_right_checksums_says_there_are_answers_and_errors_only(
    tmp_path: Path, seed: int
) -> None:
    layers = Layers(tmp_path, ABOVE, RICH)
    show(layers)
    (made,) = layers.files()
    whole = made.read_bytes()
    rng = random.Random(seed)
    for _ in range(40):
        made.write_bytes(_forge(whole, rng))
        made.chmod(0o600)
        fs = layers.open(build=False)
        try:
            _ask_everything(fs)
        finally:
            fs.close()
        if not made.exists():
            made.write_bytes(whole)


def _forge(whole: bytes, rng: random.Random) -> bytes:
    """Change anything, and make the checksums right again."""
    magic, version, _, length, key_length, table_at, pages, refused = HEADER.unpack_from(whole)
    assert magic == MAGIC
    content = bytearray(whole)
    entry = struct.Struct("<QIIIII")
    for _ in range(rng.randrange(1, 4)):
        number = rng.randrange(pages)
        at = table_at + number * entry.size
        fields = list(entry.unpack_from(content, at))
        if rng.random() < 0.3:
            fields[rng.randrange(5)] = rng.choice([0, 1, 2, 100, 1 << 31, fields[1] - 1])
        elif fields[2]:
            place = fields[0] + rng.randrange(max(1, min(fields[1], length - fields[0])))
            content[min(place, length - 1)] = rng.randrange(256)
            if rng.random() < 0.5 and fields[0] + fields[2] * ROW.size <= length:
                row = fields[0] + rng.randrange(fields[2]) * ROW.size
                field = rng.choice([72, 76, 78])
                struct.pack_into("<H", content, row + field, rng.randrange(1 << 16))
        start, size = fields[0], fields[1]
        fields[5] = zlib.crc32(bytes(content[start : start + size]))
        entry.pack_into(content, at, *(field & 0xFFFFFFFF for field in fields))
    key = bytes(content[HEADER.size : HEADER.size + key_length])
    head = HEADER.pack(magic, version, 0, length, key_length, table_at, pages, refused)
    checksum = zlib.crc32(bytes(content[table_at:]), zlib.crc32(key, zlib.crc32(head)))
    return HEADER.pack(magic, version, checksum, length, key_length, table_at, pages, refused) + bytes(
        content[HEADER.size :]
    )


def _ask_everything(fs: UnionFs) -> None:
    pending = [1]
    while pending:
        ino = pending.pop()
        for ask in (_list, _describe, _read):
            with suppress(OSError):
                pending += ask(fs, ino)
        fs.trim()
        assert len(fs.inode_table) < 10_000


def _list(fs: UnionFs, ino: int) -> list[int]:
    if not isinstance(fs.inode_table.node(ino), DirectoryInode):
        return []
    found = []
    number = fs.directories.open(ino)
    for _, child, after in fs.directories.entries(number, 0):
        if after > 2:
            child.lookups += 1
            if child.lookups == 1:
                found.append(child.ino)
    return found


def _describe(fs: UnionFs, ino: int) -> list[int]:
    fs.attributes.of(fs.inode_table.node(ino))
    for name in fs.xattrs.list(ino):
        fs.xattrs.get(ino, name)
    return []


def _read(fs: UnionFs, ino: int) -> list[int]:
    node = fs.inode_table.node(ino)
    if isinstance(node, FileInode):
        if stat.S_ISLNK(node.kind):
            fs.files.readlink(ino)
        elif stat.S_ISREG(node.kind):
            fs.files.read(fs.files.open(ino, os.O_RDONLY), 0, 100)
    return []


@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
def test_a_layer_with_marks_that_lead_elsewhere_parts_the_others(tmp_path: Path, mark: str) -> None:
    tree = {"moved": Dir({}, xattrs={"user.overlay.redirect": b"/d"})}
    if mark == "metacopy":
        tree = {"f": File(b"", size=1, xattrs={"user.overlay.metacopy": b""})}  # type: ignore[dict-item]
    bottom = {"d": {"x": b"x"}, "f": b"f"}
    layers = Layers(tmp_path, {"a": b""}, {"b": b""}, tree, {"c": b""}, bottom, policy=TRUSTED_MARKS)
    plain = show(layers, indexed=False)
    fs = layers.open()
    assert [type(part) is MergedDirectory for part in fs.inode_table.root.parts] == [True, False, True]
    assert seen(fs) == plain
    fs.close()
    # Of all, of those above and of those below; nothing is tried again at once.
    assert len(layers.files()) == 3
    before = [made.stat().st_mtime_ns for made in layers.files()]
    show(layers)
    assert [made.stat().st_mtime_ns for made in layers.files()] == before


def test_a_hidden_directory_is_in_no_index(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"state": {"secret": b""}, "f": b""})
    info = (layers.paths[0] / "state").stat()
    source = replace(layers.source(), hidden=((info.st_dev, info.st_ino),))
    fs = open_stack(with_index(source, tmp_path, indexed=True))
    assert not is_indexed(fs)
    assert list(seen(fs)) == ["", "/state", "/f"] or list(seen(fs)) == ["", "/f", "/state"]
    fs.close()


@pytest.mark.root
def test_a_layer_with_something_mounted_in_it_has_no_index(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"m": {"below": b""}, "f": b""})
    fs = layers.open()
    assert is_indexed(fs)
    fs.close()
    target = os.fsencode(layers.paths[0] / "m")
    _libc.mount(b"tmpfs", target, b"tmpfs", 0, b"")
    try:
        fs = layers.open()
        assert not is_indexed(fs)
        assert "/m/below" not in seen(fs)
        fs.close()
    finally:
        _libc.umount2(target, 0)


def test_an_index_of_a_directory_of_many_directories_is_made_with_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers(tmp_path, {f"{number}": {"f": b""} for number in range(300)})
    most = 0
    really = _libc.openat2

    def opening(*args: Any) -> int:
        nonlocal most
        fd = really(*args)
        most = max(most, fd)
        return fd

    monkeypatch.setattr(_libc, "openat2", opening)
    fs = layers.open()
    assert is_indexed(fs)
    assert 0 < most < 150
    fs.close()


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b""})
    show(layers)
    (tmp_path / "indexes" / ".new-0123456789abcdef").write_bytes(b"half")
    for made in layers.files():
        made.unlink()
    show(layers)
    assert sorted(os.listdir(tmp_path / "indexes")) == sorted(["lock", layers.files()[0].name])


def test_the_oldest_of_too_many_indexes_go_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_MOST_FILES", 3)
    layers = Layers(tmp_path, {"f": b""})
    (tmp_path / "indexes").mkdir(mode=0o700)
    indexes, others = [f"{number:040x}.index" for number in range(5)], ["letter", "some.index", ".new-letter"]
    for age, name in enumerate(others + indexes):
        (tmp_path / "indexes" / name).write_bytes(b"")
        os.utime(tmp_path / "indexes" / name, (age, age))
    show(layers)
    made = next(path.name for path in layers.files() if path.name not in others + indexes)
    assert sorted(os.listdir(tmp_path / "indexes")) == sorted([*others, *indexes[3:], made, "lock"])


def test_a_layer_that_changed_just_now_is_not_indexed_before_the_clock_has_moved_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_TICK_NS", 10**18)
    pauses: list[float] = []
    monkeypatch.setattr(build.time, "sleep", pauses.append)
    layers = Layers(tmp_path, {"f": b""})
    layers.unchanging = False
    fs = layers.open()
    assert not is_indexed(fs)
    assert pauses == [2e9, 2e9]
    assert os.listdir(tmp_path / "indexes") == ["lock"]
    fs.close()


def test_a_store_that_cannot_be_written_is_an_error_that_leaves_the_layers_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "no space left")

    layers = Layers(tmp_path, {"f": b""})
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="no space"):
        layers.open()
    assert os.listdir(tmp_path / "indexes") == ["lock"]


def test_copying_up_from_an_index_takes_what_the_file_is_now(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b"old"})
    fs = layers.open(writable=True)
    node = fs.inode_table.lookup(fs.inode_table.root, b"f")
    assert isinstance(node, FileInode)
    assert isinstance(node.ref, IndexedRef)
    (layers.paths[0] / "f").write_bytes(b"newer")
    number = fs.files.open(node.ino, os.O_RDWR)
    assert fs.files.read(number, 0, 10) == b"newer"
    fs.close()


def test_flags_that_only_the_kernel_knows_open_a_file_all_the_same(tmp_path: Path) -> None:
    for_exec = 0x20  # __FMODE_EXEC (include/linux/fs.h) comes with what execve(2) opens
    fs = Layers(tmp_path, {"f": b"data"}).open()
    number = fs.files.open(
        fs.inode_table.lookup(fs.inode_table.root, b"f").ino, os.O_RDONLY | os.O_LARGEFILE | for_exec
    )
    assert fs.files.read(number, 0, 10) == b"data"
    fs.close()
