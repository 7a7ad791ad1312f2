"""Building indexes: few descriptors, no leftovers, not too many files, and errors that change nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unionfs.layer_index.stacks import Layers, is_indexed, show
from unionfs import _libc
from unionfs.layer_index import build


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
