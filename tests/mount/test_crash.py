"""Real mounts whose server is killed at any instant, and full file systems: no completed change is lost, and no other
change is made.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.mount.support import Union, make_union
from tests.mount.workload import LOWER, run, step
from tests.support.tree import Entry, File, HardLink, Node, make_tree, snapshot

pytestmark = pytest.mark.fusermount

WORKLOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "workload.py")
MIB = 1 << 20

State = dict[bytes, Entry]


# -- kills ---------------------------------------------------------------------------------------------


def _work_until_killed(union: Union, seed: int, first: int, seconds: float) -> int:
    """Run the workload, and kill the server after *seconds*; return the number of the first step without a result."""
    client = subprocess.Popen(
        [sys.executable, WORKLOAD, union.path, str(seed), str(first)], stdout=subprocess.PIPE
    )
    try:
        assert client.stdout is not None
        acknowledged = client.stdout.readline()  # the time starts with the first step
        time.sleep(seconds)
        assert union.process is not None
        union.process.kill()
        rest, _ = client.communicate(timeout=60)
    finally:
        client.kill()
        client.wait()
        union.kill()
    return int((acknowledged + rest).split()[-1]) + 1


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("options", ["", "whiteouts=aufs", "xattr_permissions=2"])
def test_everything_that_returned_before_a_kill_is_there_and_nothing_else(
    base: str, options: str, kills: int
) -> None:
    lower: dict[str, Node] = {**LOWER, "d/linked": b"linked", "e/linked": HardLink("d/linked")}
    union = make_union(base, lower, options=options)
    model = os.path.join(base, "model")
    make_tree(model, lower)
    seed, at = kills, 0
    generator = random.Random(seed)
    for _ in range(kills):
        union.mount()
        done = _work_until_killed(union, seed, at, generator.uniform(0, 0.25))
        for number in range(at, done):
            run(model, step(seed, number))
        old = snapshot(model)
        run(model, step(seed, done))
        new = snapshot(model)
        with union:
            assert os.listdir(f"{union.work}/unionfs/tmp") == []
            shown = snapshot(union.path)
            assert shown in (old, new), (step(seed, done), _difference(shown, old))
            # Continue from either state, as a program that repeats the step.
            run(union.path, step(seed, done))
            assert snapshot(union.path) == _repeated(model, seed, done, was_done=shown == new)
        at = done + 1


def _repeated(model: str, seed: int, number: int, *, was_done: bool) -> State:
    """Return the state after repeating the step *number* if it *was_done*, or doing it if not."""
    if was_done:
        run(model, step(seed, number))
    return snapshot(model)


def _difference(one: State, other: State) -> dict[bytes, tuple[Entry | None, Entry | None]]:
    paths = one.keys() | other.keys()
    return {path: (one.get(path), other.get(path)) for path in paths if one.get(path) != other.get(path)}


# -- a full disk -------------------------------------------------------------------------------


@contextmanager
def _small_disk(base: str, kind: str) -> Iterator[str]:
    """Mount a file system of a few MiB and few inodes; yield its path."""
    path = os.path.join(base, "disk")
    os.mkdir(path)
    if kind == "tmpfs":
        source = ["-t", "tmpfs", "-o", "size=3m,nr_inodes=150", "small"]
    else:
        image = os.path.join(base, "image")
        with open(image, "wb") as file:
            file.truncate(4 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-N", "150", "-m", "0", image], check=True, capture_output=True)
        source = ["-o", "loop", image]
    subprocess.run(["mount", *source, path], check=True, capture_output=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True, timeout=60)


def _fill_blocks(union: Union) -> None:
    """Write until the disk is full."""
    with open(os.path.join(union.path, "ballast"), "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with pytest.raises(OSError, match="No space left") as caught:
                while True:
                    file.write(b"b" * size)
            assert caught.value.errno == errno.ENOSPC


def _fill_inodes(union: Union) -> None:
    """Make files until there are no free inodes."""
    os.mkdir(os.path.join(union.path, "ballasts"))
    with pytest.raises(OSError, match="No space left") as caught:
        for number in range(1000):
            os.close(os.open(os.path.join(union.path, "ballasts", str(number)), os.O_WRONLY | os.O_CREAT))
    assert caught.value.errno == errno.ENOSPC


def _append(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        assert os.write(fd, b"a" * 20_000) == 20_000
    finally:
        os.close(fd)


def _write_all(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        assert file.write(data) == len(data)


#: Operations that need blocks, and operations that need an inode.
NEEDS_BLOCKS: dict[str, Callable[[str], None]] = {
    "append to a lower file": lambda root: _append(f"{root}/large"),
    "append to an upper file": lambda root: _append(f"{root}/upper"),
    "append to a hard link": lambda root: _append(f"{root}/d/linked"),
}
NEEDS_INODES: dict[str, Callable[[str], None]] = {
    "make a file": lambda root: os.close(os.open(f"{root}/made", os.O_CREAT | os.O_WRONLY)),
    "make a directory": lambda root: os.mkdir(f"{root}/directory"),
    "make a symbolic link": lambda root: os.symlink("target", f"{root}/link"),
    "change the mode of a lower file": lambda root: os.chmod(f"{root}/d/f", 0o600),
    "change the mode of a lower directory": lambda root: os.chmod(f"{root}/d/sub", 0o700),
    "rename a lower file": lambda root: os.rename(f"{root}/d/g", f"{root}/moved"),
    "rename a lower directory": lambda root: os.rename(f"{root}/e/inner", f"{root}/inner"),
    "unlink a lower file": lambda root: os.unlink(f"{root}/d/h"),
    "remove a lower directory": lambda root: os.rmdir(f"{root}/empty"),
}


@pytest.mark.root
@pytest.mark.parametrize("needs", ["blocks", "inodes"])
@pytest.mark.parametrize("kind", ["tmpfs", pytest.param("ext4", marks=pytest.mark.ext4)])
def test_a_full_disk_is_an_error_that_loses_nothing_and_work_goes_on_when_there_is_room(
    base: str, kind: str, needs: str
) -> None:
    operations, fill = (NEEDS_BLOCKS, _fill_blocks) if needs == "blocks" else (NEEDS_INODES, _fill_inodes)
    lower: dict[str, Node] = {
        "large": File(b"large" * 40_000, mtime_ns=10**18),
        "d/f": b"f",
        "d/g": b"g",
        "d/h": b"h",
        "d/linked": b"linked" * 20_000,
        "d/again": HardLink("d/linked"),
        "d/sub": {},
        "e/inner/f": b"f",
        "empty": {},
    }
    make_tree(f"{base}/lower", lower)
    model = f"{base}/model"
    make_tree(model, lower)
    with _small_disk(base, kind) as disk:
        union = Union(disk, [f"{base}/lower"])
        with union:
            for root in (union.path, model):
                _write_all(f"{root}/upper", b"u" * 8192)  # leaves no space in its last block
            fill(union)

            def look() -> State:
                # A write that fails with ENOSPC has changed the time of an upper file, as on every file system.
                return snapshot(union.path, nlink=True, mtime=needs == "inodes")

            full = look()
            for name, operation in operations.items():
                with pytest.raises(OSError) as caught:
                    operation(union.path)
                assert caught.value.errno == errno.ENOSPC, name
                assert look() == full, name
            union.remount()
            assert look() == full
            subprocess.run(["rm", "-r", *_ballast(union)], check=True)
            for operation in operations.values():
                operation(union.path)
                operation(model)
            assert snapshot(union.path, nlink=True) == snapshot(model, nlink=True)
            union.remount()
            assert snapshot(union.path, nlink=True) == snapshot(model, nlink=True)
            assert os.listdir(f"{union.work}/unionfs/tmp") == []


def _ballast(union: Union) -> list[str]:
    return [f"{union.path}/{name}" for name in os.listdir(union.path) if name.startswith("ballast")]


@pytest.mark.root
def test_the_last_inode_is_used_for_the_request_and_not_for_a_preallocated_file(base: str) -> None:
    make_tree(f"{base}/lower", {f"f{number}": b"" for number in range(2)})
    with (
        _small_disk(base, "tmpfs") as disk,
        Union(disk, [f"{base}/lower"], options="server=direct") as union,
    ):
        for number in range(2):  # from then on a preallocated file exists
            os.chmod(f"{union.path}/f{number}", 0o600)
        _fill_inodes(union)
        assert os.statvfs(disk).f_ffree == 0
        assert os.listdir(f"{union.work}/unionfs/tmp") == []
