"""A stack with an index shows the same as without."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.tree import Dir, Fifo, File, Opaque, Socket, Symlink, Whiteout, make_tree
from tests.unit.unionfs.layer_index.stacks import ABOVE, AUFS, OPEN_DIR, RICH, Layers, is_indexed, seen, show
from tests.unit.unionfs.support import with_index
from unionfs import _libc
from unionfs.assemble import open_stack
from unionfs.formats.whiteout import ALL_MARKS, NO_MARKS, TRUSTED_MARKS, MarkPolicy
from unionfs.inode.inode import FileInode
from unionfs.layer_index.merged_directory import IndexedRef, MergedDirectory


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
    # Some layers have an index, with others between them that have none.
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
    at = os.open(layers.paths[1], OPEN_DIR)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        down = os.open("d" * 250, OPEN_DIR, dir_fd=at)
        os.close(at)
        at = down
    with open(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=at), "wb") as file:
        file.write(b"deep")
    os.close(at)
    fs = layers.open()
    assert is_indexed(fs)
    assert [content for _, content, _ in seen(fs).values()][-1] == b"deep"
    fs.close()


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
    # Indexes of all layers, of those above and of those below. A failed build is not repeated at once.
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


def test_copying_up_from_an_index_takes_what_the_file_is_now(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b"old"})
    fs = layers.open(writable=True)
    inode = fs.inode_table.lookup(fs.inode_table.root, b"f")
    assert isinstance(inode, FileInode)
    assert isinstance(inode.ref, IndexedRef)
    (layers.paths[0] / "f").write_bytes(b"newer")
    number = fs.files.open(inode.ino, os.O_RDWR)
    assert fs.files.read(number, 0, 10) == b"newer"
    fs.close()


def test_flags_that_only_the_kernel_knows_open_a_file_all_the_same(tmp_path: Path) -> None:
    for_exec = 0x20  # __FMODE_EXEC (include/linux/fs.h): execve(2) opens files with it
    fs = Layers(tmp_path, {"f": b"data"}).open()
    number = fs.files.open(
        fs.inode_table.lookup(fs.inode_table.root, b"f").ino, os.O_RDONLY | os.O_LARGEFILE | for_exec
    )
    assert fs.files.read(number, 0, 10) == b"data"
    fs.close()
