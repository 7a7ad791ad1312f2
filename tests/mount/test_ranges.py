"""Ranges of files besides those of test_file_operations.py: offsets outside of a file, shared blocks, a stalled disk."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.support import PATIENCE, SERVER, Union, make_union
from tests.mount.test_file_operations import content, outcome
from tests.support import kernel_caches
from tests.support.tree import File, make_tree

pytestmark = [
    pytest.mark.fusermount,
    pytest.mark.skipif(SERVER == "pyfuse3", reason="pyfuse3 has no handlers for these requests"),
]

MIB = 1 << 20
_LARGE = os.urandom(3 * MIB)


@pytest.mark.parametrize("whence", [os.SEEK_DATA, os.SEEK_HOLE])
@pytest.mark.parametrize("offset", [-1, -(1 << 63), (1 << 63) - 1])
def test_a_seek_from_an_offset_outside_of_a_file_fails_as_in_a_plain_file(
    base: str, offset: int, whence: int
) -> None:
    sparse = {"sparse": File(b"begin" + bytes(200_000) + b"end")}
    make_tree(f"{base}/plain", sparse)
    seen = []
    with make_union(base, sparse) as union:
        for root in (union.path, f"{base}/plain"):
            fd = os.open(f"{root}/sparse", os.O_RDONLY)
            seen.append(outcome(functools.partial(os.lseek, fd, offset, whence)))
            os.close(fd)
    assert seen[0] == seen[1]


@pytest.mark.root
@pytest.mark.long
@pytest.mark.xfs
@pytest.mark.parametrize("size", [20 * MIB, 200 * MIB])  # more than one request
def test_a_copied_range_takes_no_blocks_where_the_file_system_can_share_them(base: str, size: int) -> None:
    disk = f"{base}/disk"
    os.mkdir(disk)
    with open(f"{base}/image", "wb") as image:
        image.truncate(1 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", f"{base}/image"], check=True)
    subprocess.run(["mount", "-o", "loop", f"{base}/image", disk], check=True)
    try:
        with make_union(disk, {"large": os.urandom(size)}) as union:
            before = os.statvfs(disk).f_bfree
            for source, target in (("large", "copy"), ("copy", "again")):
                with (
                    open(f"{union.path}/{source}", "rb") as read,
                    open(f"{union.path}/{target}", "wb") as written,
                ):
                    done = 0
                    while copied := os.copy_file_range(read.fileno(), written.fileno(), size):
                        done += copied
                    assert done == size
            os.chmod(f"{union.path}/large", 0o600)
            with open(f"{union.path}/large", "r+b") as file:  # a copy-up
                file.write(b"first")
            os.sync()
            taken = (before - os.statvfs(disk).f_bfree) * os.statvfs(disk).f_frsize
            assert taken < 2 * MIB
            assert (
                content(f"{union.path}/again")
                == content(f"{union.path}/copy")
                == content(f"{disk}/lower0/large")
            )
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_copy_of_a_range_that_waits_for_the_disk_delays_no_other_request(tmp_path: Path) -> None:
    options = "server=direct,open_requests=off"
    for name in ("disk", "union"):
        (tmp_path / name).mkdir()
    with ExitStack() as mounts:
        mounts.enter_context(kernel_caches.needed())
        disk = mounts.enter_context(make_union(str(tmp_path / "disk"), {"large": _LARGE}, options=options))
        union = mounts.enter_context(Union(str(tmp_path / "union"), [disk.path], options=options))
        root = union.path
        with open(f"{root}/target", "wb"):
            pass
        os.stat(f"{root}/large")
        os.listxattr(f"{root}/large")
        with open(f"{root}/large", "rb") as file:
            file.read(10)
        os.kill(disk.pid, signal.SIGSTOP)
        copying = subprocess.Popen(["cp", f"{root}/large", f"{root}/target"])
        try:
            others = f"""
import os, time
time.sleep(0.3)
for number in range(20):
    os.mkdir({root!r} + f"/new{{number}}")
"""
            subprocess.run([sys.executable, "-c", others], check=True, timeout=PATIENCE)
            assert copying.poll() is None
        finally:
            os.kill(disk.pid, signal.SIGCONT)
        assert copying.wait(PATIENCE) == 0
        assert content(f"{root}/target") == _LARGE
        assert os.stat(f"{root}/target").st_size == 3 * MIB
