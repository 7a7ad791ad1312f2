"""The skeleton, the generated layer of mount points: no mark hides its names, and programs can delete them."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tree import Dir, File, Node, Opaque, Tree, Whiteout, make_tree
from tests.unit.unionfs.support import Union
from unionfs.formats.whiteout import TRUSTED_MARKS, WhiteoutFormat
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import Layer
from unionfs.layer.fd_cache import FdCache
from unionfs.layer_index import build
from unionfs.layer_index.merged_directory import MergedDirectory

NAMES = ("a", "b", "c")
SKELETON: Tree = {"proc": {}, "opt": {"data": {"in": {}}, "file": b""}, "etc": {"name": b""}}
AUFS = {".wh..wh..opq": b""}
X_MARK = {"user.overlay.opaque": b"x"}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TICK_NS", 0)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Union]]:
    """Open unions, each in a separate directory."""
    unions: list[Union] = []

    def make(lowers: list[Any], upper: Any = None, **how: Any) -> Union:
        base = tmp_path / str(len(unions))
        base.mkdir()
        unions.append(Union(base, lowers, upper, policy=TRUSTED_MARKS, **how))
        return unions[-1]

    yield make
    for union in unions:
        union.close()


# -- in every format of marks --------------------------------------------------------------------------


class Marks:
    """A format of whiteouts and opaque directories."""

    def __init__(self, delete: Callable[[str], Tree], hide: Callable[[Tree], Node]) -> None:
        self.delete = delete
        self.hide = hide


FORMATS = {
    "aufs": Marks(lambda name: {f".wh.{name}": b""}, lambda entries: Dir({**AUFS, **entries})),
    "overlay": Marks(lambda name: {name: Whiteout()}, Opaque),
    "fuse-overlayfs": Marks(
        lambda name: {name: Whiteout()}, lambda entries: Opaque(entries, mark="user.fuseoverlayfs.opaque")
    ),
    "xwhiteouts": Marks(lambda name: {name: File(b"", xattrs={"user.overlay.whiteout": b""})}, Opaque),
    "redirects": Marks(
        lambda name: {f".wh.{name}": b""},
        lambda entries: Dir(entries, xattrs={"user.overlay.redirect": b"/b"}),
    ),
}
FORMS = pytest.mark.parametrize("marks", FORMATS.values(), ids=list(FORMATS))
#: Layers with redirects have no index.
INDEXED = pytest.mark.parametrize("indexed", [False, True], ids=["read", "indexed"])


def random_tree(generator: random.Random, marks: Marks, depth: int = 3) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for name in NAMES:
        kind = generator.random()
        below = random_tree(generator, marks, depth - 1) if depth else {}
        if kind < 0.2:
            found.update(marks.delete(name))
        elif kind < 0.35:
            found[name] = b"file"
        elif kind < 0.5:
            found[name] = marks.hide(below)
        elif kind < 0.8:
            found[name] = Dir(below, xattrs=X_MARK if marks is FORMATS["xwhiteouts"] else {})
    return found


def random_skeleton(generator: random.Random, depth: int = 3) -> dict[str, Node]:
    return {
        name: random_skeleton(generator, depth - 1) if depth and generator.random() < 0.7 else b""
        for name in NAMES
        if generator.random() < 0.6
    }


def kinds(union: Union) -> dict[str, bytes | None]:
    """Return what *union* shows: contents by path, None for a directory."""
    return {path: shown.data for path, shown in union.show().items()}


def laid_under(shown: dict[str, bytes | None], skeleton: Tree, at: str = "") -> None:
    """Add the names of *skeleton* to *shown*, unless they exist or an ancestor is not a directory."""
    for name, entry in skeleton.items():
        path = f"{at}/{os.fsdecode(name)}"
        directory = isinstance(entry, dict)
        shown.setdefault(path, None if directory else b"")
        if directory and shown[path] is None:
            assert isinstance(entry, dict)
            laid_under(shown, entry, path)


@FORMS
@INDEXED
def test_what_shows_is_what_the_layers_show_with_the_skeleton_laid_under_it(
    opened: Callable[..., Union], marks: Marks, indexed: bool
) -> None:
    generator = random.Random(7)
    for number in range(30):
        lowers = [random_tree(generator, marks) for _ in range(3)]
        if number % 3 == 0:  # in the root itself
            lowers[number % 2].update({".wh..wh..opq": b""})
        upper = random_tree(generator, marks) if number % 2 else None
        skeleton = random_skeleton(generator)
        expected = kinds(opened(lowers, upper))
        laid_under(expected, skeleton)
        union = opened(lowers, upper, skeleton=skeleton, indexed=indexed)
        if indexed and marks is not FORMATS["redirects"]:
            assert any(isinstance(part, MergedDirectory) for part in union.fs.inode_table.root.parts)
        assert kinds(union) == expected


# -- changes by programs -------------------------------------------------------------------------------

FORMAT = pytest.mark.parametrize("whiteouts", list(WhiteoutFormat))
LAYER: Tree = {"opt": {"of the layer": b"x", "data": {"old": b"x"}}, "etc": {"name": b"of the layer"}}


@FORMAT
def test_what_is_deleted_of_the_skeleton_is_gone_until_the_next_mount(
    opened: Callable[..., Union], whiteouts: WhiteoutFormat
) -> None:
    union = opened([{}], {}, skeleton=SKELETON, whiteouts=whiteouts)
    union.unlink("opt/file")
    union.rmdir("opt/data/in")
    union.rmdir("opt/data")
    union.fs.trim()
    assert (union.names("opt"), union.exists("opt/data")) == ([], False)
    union.create("opt/data", b"mine")
    union.rmdir("proc")
    union.mkdir("proc")
    union.create("proc/mine")
    union.fs.trim()
    assert (union.read("opt/data"), union.names("proc")) == (b"mine", ["mine"])
    union.reopen()
    assert (union.names("opt"), union.names("proc")) == (["data", "file"], ["mine"])
    assert union.read("opt/data") == b"mine"


@FORMAT
def test_what_covered_a_name_of_the_skeleton_leaves_nothing_in_its_place_when_it_is_deleted(
    opened: Callable[..., Union], whiteouts: WhiteoutFormat
) -> None:
    union = opened([LAYER], {}, skeleton=SKELETON, whiteouts=whiteouts)
    union.unlink("etc/name")
    assert union.names("etc") == []
    union.symlink("etc/name", "elsewhere")
    union.rename("etc/name", "etc/other")
    assert union.names("etc") == ["other"]
    union.reopen()
    assert union.names("etc") == ["name", "other"]
    assert union.read("etc/name") == b""


@FORMAT
@pytest.mark.parametrize("change", ["mkdir", "create", "chmod"])
def test_what_is_put_where_only_the_skeleton_shows_uncovers_nothing_that_was_deleted(
    opened: Callable[..., Union], whiteouts: WhiteoutFormat, change: str
) -> None:
    union = opened([LAYER], {}, whiteouts=whiteouts)
    union.unlink("opt/of the layer")
    union.unlink("opt/data/old")
    union.rmdir("opt/data")
    union.rmdir("opt")
    union.skeleton = union.upper.parent / "skeleton"
    make_tree(union.skeleton, SKELETON)
    union.reopen()
    if change == "chmod":
        union.chmod("opt/data", 0o700)
    elif change == "mkdir":
        union.mkdir("opt/data/new")
    else:
        union.create("opt/data/new", b"new")
    new = [] if change == "chmod" else ["new"]
    for _ in range(2):
        assert (union.names("opt"), union.names("opt/data")) == (["data", "file"], ["in", *new])
        union.reopen()
    shutil.rmtree(union.skeleton)
    union.skeleton = None
    union.reopen()
    assert (union.names("opt"), union.names("opt/data")) == (["data"], new)


def test_a_directory_of_which_the_skeleton_has_a_part_is_copied_and_not_moved(
    opened: Callable[..., Union],
) -> None:
    union = opened([LAYER], {"mine": {}}, skeleton=SKELETON)
    for old, new, flags in (("opt", "new", 0), ("mine", "opt", 2), ("opt", "mine", 2)):
        with pytest.raises(OSError) as caught:
            union.rename(old, new, flags)
        assert caught.value.errno == errno.EXDEV, (old, new, flags)
    union.rename("opt/file", "moved")
    union.rename("mine", "opt/data/in")
    assert union.names("opt/data/in") == []
    union.rename("opt/data/in", "mine")
    assert union.names() == ["etc", "mine", "moved", "opt", "proc"]
    assert union.names("opt/data") == ["old"]


@FORMAT
def test_random_changes_have_the_results_that_they_have_in_a_plain_directory(
    opened: Callable[..., Union], tmp_path: Path, whiteouts: WhiteoutFormat
) -> None:
    for seed in range(12):
        generator = random.Random(seed)
        lowers = [random_tree(generator, FORMATS["aufs"], 2) for _ in range(2)]
        upper = random_tree(generator, FORMATS["aufs"], 2)
        union = opened(lowers, upper, skeleton=random_skeleton(generator, 2), whiteouts=whiteouts)
        plain = tmp_path / f"plain{seed}"
        plain.mkdir()
        for path, data in sorted(kinds(union).items()):
            if path and data is None:
                (plain / path[1:]).mkdir()
            elif data is not None:
                (plain / path[1:]).write_bytes(data)
        for number in range(120):
            _change_both(generator, union, plain, str(number))
            union.fs.trim()
        assert kinds(union) == _plain_kinds(plain)


def _change_both(generator: random.Random, union: Union, plain: Path, text: str) -> None:
    path, other = ("/".join(generator.choices(NAMES, k=generator.randint(1, 3))) for _ in range(2))
    there, to = plain / path, plain / other
    if not (there.parent.is_dir() and to.parent.is_dir()):
        return  # the kernel sends no lookup in a non-directory

    def outcome(act: Callable[[], object]) -> int:
        try:
            act()
        except OSError as error:
            # If there are two errors, the kernel may report another one, because it checks some conditions before the request.
            return error.errno or 0
        return 0

    kind = generator.choice(("mkdir", "create", "remove", "remove", "rename"))
    if kind == "mkdir":
        assert bool(outcome(lambda: union.mkdir(path))) == bool(outcome(there.mkdir))
    elif kind == "create":
        data = text.encode()
        if not there.exists():
            failed = outcome(lambda: union.create(path, data))
            assert bool(failed) == bool(outcome(lambda: there.write_bytes(data)))
    elif kind == "remove":
        is_dir = there.is_dir()
        failed = outcome(lambda: (union.rmdir if is_dir else union.unlink)(path))
        assert bool(failed) == bool(outcome(there.rmdir if is_dir else there.unlink)), path
    elif path != other:
        failed = outcome(lambda: union.rename(path, other))
        if failed != errno.EXDEV:
            assert bool(failed) == bool(outcome(lambda: there.rename(to))), (path, other, failed)


def _plain_kinds(plain: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {"": None}
    for path in sorted(plain.rglob("*")):
        is_dir = stat.S_ISDIR(path.lstat().st_mode)
        found[f"/{path.relative_to(plain)}"] = None if is_dir else path.read_bytes()
    return found


# -- inode numbers -------------------------------------------------------------------------------------


def test_the_file_system_of_the_skeleton_changes_no_inode_number(tmp_path: Path) -> None:
    """The link index records numbers of layers, and outlasts the skeleton."""
    fds = FdCache(4)
    lower = Layer(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), fds)
    skeleton = Layer(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), fds, skeleton=True)
    try:
        skeleton.device = lower.device + 1  # as in a run directory on a file system of its own
        with_skeleton, without = InodeTable([lower, skeleton], None), InodeTable([lower], None)
        of_lower, of_skeleton = (lower.device, 5), (skeleton.device, 5)
        number = with_skeleton.numbers.number(of_skeleton)
        assert with_skeleton.numbers.number(of_lower) == without.numbers.number(of_lower)
        assert number != with_skeleton.numbers.number(of_lower)
        assert with_skeleton.numbers.lasts(with_skeleton.numbers.number(of_lower))
        assert not with_skeleton.numbers.lasts(number)
    finally:
        lower.close()
        skeleton.close()
