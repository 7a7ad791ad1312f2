"""Inodes, descriptors and memory are bounded over long use."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.mount.support import PATIENCE, Union, make_union, wait_until
from tests.support.tree import Tree

pytestmark = pytest.mark.fusermount

KIB, MIB = 1 << 10, 1 << 20
#: From this release on, the kernel drops unused inodes on request (FUSE_NOTIFY_PRUNE).
PRUNES = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 18)
prunes = pytest.mark.skipif(not PRUNES, reason="the kernel has no FUSE_NOTIFY_PRUNE: Linux 6.18")

#: Runs the server, whose command line follows, with another limit on inodes.
_LIMITED = """
import runpy, sys
from unionfs.fuse import notify
notify.LIMIT = {limit}
sys.argv = sys.argv[3:]
runpy.run_module("unionfs", run_name="__main__", alter_sys=True)
"""


def limited(limit: int) -> list[str]:
    return [sys.executable, "-c", _LIMITED.format(limit=limit)]


def resident_bytes(union: Union) -> int:
    with open(f"/proc/{union.pid}/status", encoding="ascii") as file:
        found = re.search(r"VmRSS:\s+(\d+) kB", file.read())
    assert found is not None
    return int(found[1]) * KIB


def descriptors(union: Union) -> int:
    return len(os.listdir(f"/proc/{union.pid}/fd"))


def inodes(union: Union) -> int:
    """Return the number of inodes in the server's statistics."""
    union.may_complain = True
    seen = len(union.log())
    os.kill(union.pid, signal.SIGUSR1)
    wait_until(lambda: "pid=" in union.log()[seen:], "the server writes its statistics")
    found = re.search(r"inodes=(\d+)", union.log()[seen:])
    assert found is not None
    return int(found[1])


def walk(root: str) -> int:
    return sum(len(names) + len(files) for _, names, files in os.walk(root))


def forest(directories: int, files: int) -> Tree:
    return {f"d{i:04}": {f"f{j:04}": b"%d.%d" % (i, j) for j in range(files)} for i in range(directories)}


# -- FUSE_NOTIFY_PRUNE ---------------------------------------------------------------------


@prunes
def test_inodes_beyond_the_limit_are_forgotten_except_those_in_use(base: str) -> None:
    """Inodes that are open, working directories or mount points are in use, and are not dropped."""
    with make_union(base, forest(40, 100), wrapper=limited(400)) as union:
        first = f"{union.path}/d0000"
        with open(f"{first}/f0001", "rb") as held:
            worker = subprocess.Popen(["sleep", "60"], cwd=f"{union.path}/d0001")
            try:
                if os.geteuid() == 0:
                    for name in ("f0002", "f0003"):
                        subprocess.run(
                            ["mount", "--bind", f"{base}/lower0/d0005/{name}", f"{first}/{name}"], check=True
                        )
                    subprocess.run(["mount", "--bind", f"{base}/lower0", f"{union.path}/d0002"], check=True)
                for _ in range(3):
                    walk(union.path)
                wait_until(lambda: inodes(union) < 600, "the kernel has forgotten the rest")
                assert os.readlink(f"/proc/{worker.pid}/cwd") == f"{union.path}/d0001"
                assert held.read() == b"0.1"
                assert os.fstat(held.fileno()).st_ino == os.stat(f"{first}/f0001").st_ino
                if os.geteuid() == 0:
                    with open(f"{first}/f0002", "rb") as file:
                        assert file.read() == b"5.2"
                    assert os.path.ismount(f"{union.path}/d0002")
            finally:
                worker.kill()
                worker.wait()
                if os.geteuid() == 0:
                    for name in ("d0000/f0002", "d0000/f0003", "d0002"):
                        subprocess.run(["umount", f"{union.path}/{name}"], check=False)
        for i in range(40):
            with open(f"{union.path}/d{i:04}/f0099", "rb") as file:
                assert file.read() == b"%d.99" % i


@prunes
@pytest.mark.once
def test_inodes_are_forgotten_although_another_fuse_device_is_open(base: str) -> None:
    """A server may inherit the descriptor of another mount, with a lower number than its own."""
    opened_before = "import os\nother = os.open('/dev/fuse', os.O_RDWR)\n"
    with make_union(
        base, forest(20, 100), wrapper=[*limited(400)[:-1], opened_before + limited(400)[-1]]
    ) as union:
        walk(union.path)
        wait_until(lambda: inodes(union) < 600, "the kernel has forgotten the rest")


@prunes
@pytest.mark.once
def test_a_mount_whose_inodes_are_forgotten_at_once_behaves_as_any_other(base: str) -> None:
    """Two processes write, move and delete files while the server requests that the kernel drop them."""
    script = """
import os, random, sys
root, seed = sys.argv[1:]
random.seed(seed)
model = {}
for step in range(1500):
    name = f"{root}/d{random.randrange(4):04}/{seed}{random.randrange(30)}"
    other = f"{root}/d{random.randrange(4):04}/{seed}{random.randrange(30)}"
    match random.randrange(5):
        case 0 | 1:
            data = os.urandom(random.randrange(50))
            with open(name, "wb") as file:
                file.write(data)
            model[name] = data
        case 2 if name in model:
            os.rename(name, other)
            model[other] = model.pop(name)
        case 3 if name in model:
            os.unlink(name)
            del model[name]
        case 4 if name in model and other not in model:
            os.link(name, other)
            os.unlink(name)
            model[other] = model.pop(name)
    os.listdir(os.path.dirname(other))
    if other in model:
        with open(other, "rb") as file:
            assert file.read() == model[other]
        number = os.stat(other).st_ino
        assert [e.inode() for e in os.scandir(os.path.dirname(other)) if e.path == other] == [number]
    else:
        assert not os.path.exists(other)
"""
    with make_union(base, forest(4, 30), wrapper=limited(16)) as union:
        workers = [subprocess.Popen([sys.executable, "-c", script, union.path, seed]) for seed in "ab"]
        assert [worker.wait(PATIENCE) for worker in workers] == [0, 0]
        for i in range(4):
            with open(f"{union.path}/d{i:04}/f0007", "rb") as file:
                assert file.read() == b"%d.7" % i
        wait_until(lambda: inodes(union) < 120, "the kernel has forgotten most")


# -- memory and descriptors ----------------------------------------------------------------------------


@pytest.mark.once
def test_a_walk_over_sixteen_thousand_files_takes_little_memory_and_few_descriptors(base: str) -> None:
    with make_union(base, forest(160, 100)) as union:
        before = resident_bytes(union)
        assert walk(union.path) == 160 * 101
        for i in range(0, 160, 10):
            for j in range(100):
                os.stat(f"{union.path}/d{i:04}/f{j:04}")
        assert resident_bytes(union) - before < 20 * MIB
        assert resident_bytes(union) < 60 * MIB
        assert descriptors(union) < 160 + 64


@pytest.mark.long
@prunes
def test_a_walk_over_three_hundred_thousand_files_is_bounded(base: str) -> None:
    with make_union(base, forest(300, 1000)) as union:
        for _ in range(2):
            assert walk(union.path) == 300 * 1001
        wait_until(lambda: inodes(union) < 150_000, "the kernel has forgotten the rest")
        assert resident_bytes(union) < 220 * MIB


@pytest.mark.long
def test_memory_and_descriptors_are_bounded_over_a_million_operations(base: str) -> None:
    """Create, write, read, rename, link and remove, each some hundred thousand times."""

    def churn(first: int, count: int) -> None:
        for number in range(first, first + count):
            path = f"{union.path}/d{number % 7:04}/n{number}"
            with open(path, "wb", buffering=0) as file:
                file.write(b"%d" % number)
            os.rename(path, path + "r")
            os.link(path + "r", path)
            with open(path, "rb", buffering=0) as file:
                assert file.read() == b"%d" % number
            os.chmod(path, 0o600)
            os.unlink(path)
            os.mkdir(path)
            os.rmdir(path)
            os.unlink(path + "r")

    with make_union(base, forest(7, 20)) as union:
        churn(0, 5000)
        memory, files = resident_bytes(union), descriptors(union)
        count = 0
        # At least twelve requests for each round.
        while count * 12 < 1_000_000:
            churn(5000 + count, 5000)
            count += 5000
        assert resident_bytes(union) - memory < 8 * MIB
        wait_until(lambda: descriptors(union) <= files + 5, "the descriptors are closed")
        wait_until(lambda: inodes(union) < 1000, "the kernel has forgotten what is gone")
