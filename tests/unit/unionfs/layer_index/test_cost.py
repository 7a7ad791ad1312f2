"""With an index, lookups and listings make no system call on the layers, however many there are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import calls_of
from tests.support.tree import Symlink
from tests.unit.unionfs.layer_index.stacks import Layers, is_indexed, seen
from unionfs import _libc
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.layer_index.merged_directory import MergedDirectory


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
    # The remaining calls are about the writable layer.
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
    inode: Any = fs.inode_table.root
    for name in (b"a", b"b", b"c", b"f"):
        inode = fs.inode_table.lookup(inode, name)
    assert isinstance(inode, FileInode)
    counted = _Counted(monkeypatch)
    number = fs.files.open(inode.ino, os.O_RDONLY)
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
    inode = fs.inode_table.lookup(fs.inode_table.root, b"d7")
    assert isinstance(inode, DirectoryInode)
    child = inode.parts[0]
    assert isinstance(child, MergedDirectory)
    assert child._rows is None
    fs.close()
