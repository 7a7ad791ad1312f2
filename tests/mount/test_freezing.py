"""The writable layer of a mount is frozen while programs write: they notice nothing, and the frozen layer never changes."""

from __future__ import annotations

import mmap
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mount.support import PATIENCE, PROJECT, environment, unmount
from tests.support.tree import File, Symlink, make_tree
from tests.unit.unionfs.freezing import Picture, picture

pytestmark = pytest.mark.fusermount

LARGE = bytes(range(256)) * 8192


@dataclass
class Mount:
    """A mount whose layer can be frozen."""

    base: Path
    process: subprocess.Popen[str]
    layers: list[Path]
    frozen: dict[Path, Picture] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.base / "mnt"

    def freeze(self) -> float:
        """Freeze the layer; return the seconds that it took."""
        number = len(self.layers)
        upper, work = self.base / f"upper{number}", self.base / f"work{number}"
        upper.mkdir()
        work.mkdir()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{upper} {work}\n")
        self.process.stdin.flush()
        seconds = float(self.process.stdout.readline())
        self.frozen[self.layers[-1]] = picture(self.layers[-1])
        self.layers.append(upper)
        return seconds

    def check(self) -> None:
        """Check that no frozen layer has changed since."""
        for path, before in self.frozen.items():
            assert picture(path) == before, path


@pytest.fixture(params=["direct", "unopened", "pyfuse3"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mount]:
    """Yield a mount over one lower layer."""
    make_tree(tmp_path / "lower", {"a": b"lower", "big": File(LARGE), "s": Symlink(b"a"), "d": {"x": b"x"}})
    for name in ("mnt", "upper0", "work0"):
        (tmp_path / name).mkdir()
    paths = [str(tmp_path / name) for name in ("mnt", "lower", "upper0", "work0")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.mount.freezing_server", request.param, *paths],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    made = Mount(tmp_path, process, [tmp_path / "upper0"])
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield made
        finally:
            unmount(paths[0])
            assert process.wait(PATIENCE) == 0
    made.check()


def test_a_thread_that_writes_while_the_layer_is_frozen_loses_nothing(mounted: Mount) -> None:
    stop, written, failed = threading.Event(), [0], []

    def write(fd: int) -> None:
        try:
            while not stop.is_set():
                os.write(fd, b"%09d\n" % written[0])
                written[0] += 1
        except OSError as error:
            failed.append(error)

    with ExitStack() as closing:
        fd = os.open(mounted.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        closing.callback(os.close, fd)
        inode = os.fstat(fd).st_ino
        thread = threading.Thread(target=write, args=(fd,))
        thread.start()
        try:
            for _ in range(5):
                mounted.freeze()
                before = written[0]
                while written[0] < before + 20 and not failed:
                    stop.wait(0.001)
        finally:
            stop.set()
            thread.join()
        assert failed == []
        assert (os.fstat(fd).st_ino, os.stat(mounted.path / "log").st_ino) == (inode, inode)
    assert (mounted.path / "log").read_bytes() == b"".join(b"%09d\n" % each for each in range(written[0]))
    assert len({(layer / "log").stat().st_size for layer in mounted.layers}) > 1


def test_a_mapped_file_is_written_back_to_a_copy(mounted: Mount) -> None:
    path = mounted.path / "big"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:3] = b"one"
        mapped.flush()
        mounted.freeze()
        mapped[:3] = b"two"
        mapped[4096:4099] = b"two"
        mapped.flush()
        assert path.read_bytes() == b"two" + LARGE[3:4096] + b"two" + LARGE[4099:]
        mounted.freeze()
        mapped[:3] = b"end"
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    assert path.read_bytes()[:4] == b"end" + LARGE[3:4]
    assert [(layer / "big").read_bytes()[:3] for layer in mounted.layers] == [b"one", b"two", b"end"]


def _size(info: os.stat_result) -> int:
    """Return the size of a file. That of a directory is its file system's matter; on tmpfs it depends on the entries."""
    return 0 if stat.S_ISDIR(info.st_mode) else info.st_size


def test_programs_see_the_same_tree_and_go_on_with_what_they_have_open(mounted: Mount) -> None:
    root = mounted.path
    (root / "new").write_bytes(b"new")
    (root / "a").write_bytes(b"written")
    os.rename(root / "d", root / "moved")
    os.unlink(root / "s")
    with ExitStack() as closing:
        unlinked = os.open(root / "gone", os.O_RDWR | os.O_CREAT, 0o644)
        closing.callback(os.close, unlinked)
        os.unlink(root / "gone")
        directory = os.open(root / "moved", os.O_RDONLY | os.O_DIRECTORY)
        closing.callback(os.close, directory)

        def shown() -> dict[str, tuple[int, ...]]:
            return {
                name: (info.st_ino, info.st_mode, info.st_nlink, _size(info), info.st_mtime_ns)
                for name in ("", *sorted(os.listdir(root)), "moved/x")
                for info in [os.lstat(root / name)]
            }

        before = shown()
        mounted.freeze()
        assert shown() == before
        assert sorted(before) == ["", "a", "big", "moved", "moved/x", "new"]
        os.pwrite(unlinked, b"data", 0)
        assert os.fstat(unlinked).st_nlink == 0
        assert os.listdir(directory) == ["x"]
        os.close(os.open("y", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=directory))
        mounted.freeze()
        assert os.pread(unlinked, 9, 0) == b"data"
        os.rename(root / "moved", root / "d")
        assert sorted(os.listdir(root / "d")) == ["x", "y"]
        (root / "new").unlink()
    assert sorted(os.listdir(root)) == ["a", "big", "d"]
