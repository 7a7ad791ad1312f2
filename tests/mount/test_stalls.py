"""A stalled disk delays only requests that need it, because the direct server reads file data in worker threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.support import PATIENCE, Union, make_union, wait_until
from tests.support import kernel_caches

pytestmark = pytest.mark.fusermount

LARGE = os.urandom(3 << 20)


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[tuple[Union, int]]:
    """Yield a union over a mount whose server process has been stopped. All names have been looked up before."""
    with ExitStack() as stack:
        stack.enter_context(kernel_caches.needed())  # the server's main thread looks up names
        for name in ("disk", "union"):
            (tmp_path / name).mkdir()
        tree = {"small": b"small", "read": LARGE, "append": LARGE}
        options = "server=direct,open_requests=off"
        disk = stack.enter_context(make_union(str(tmp_path / "disk"), tree, options=options))
        union = stack.enter_context(Union(str(tmp_path / "union"), [disk.path], options=options))
        assert sorted(os.listdir(union.path)) == ["append", "read", "small"]
        for name in tree:  # the server's main thread reads metadata
            assert os.listxattr(f"{union.path}/{name}") == []
        with open(f"{union.path}/small", "rb") as file:
            assert file.read() == b"small"
        os.kill(disk.pid, signal.SIGSTOP)
        stack.callback(os.kill, disk.pid, signal.SIGCONT)
        yield union, disk.pid


def run(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", script, "sh", *arguments], stdout=subprocess.PIPE)


def test_a_read_and_a_copy_up_that_wait_for_the_disk_delay_no_other_request(
    stalled: tuple[Union, int],
) -> None:
    union, disk = stalled
    root = union.path
    with (
        run('exec cat "$1/read"', root) as reading,
        run('printf more >>"$1/append"', root) as appending,
    ):
        # In a process of its own. If it needs the disk after all, because the kernel has reclaimed something, it waits until the disk
        # goes on, and cannot be killed before.
        others = f"""
import os
os.mkdir({root!r} + "/new")
for number in range(100):
    with open({root!r} + f"/new/{{number}}", "w") as file:
        file.write(str(number))
assert len(os.listdir({root!r} + "/new")) == 100
assert open({root!r} + "/small").read() == "small"
"""
        with subprocess.Popen([sys.executable, "-c", others]) as other:
            try:
                assert other.wait(PATIENCE) == 0
                assert reading.poll() is None
                assert appending.poll() is None
            finally:
                os.kill(disk, signal.SIGCONT)
        assert reading.communicate(timeout=PATIENCE)[0] == LARGE
        assert appending.wait(PATIENCE) == 0
    with open(f"{root}/append", "rb") as file:
        assert file.read() == LARGE + b"more"
    wait_until(lambda: os.listdir(f"{union.work}/unionfs/tmp") == [], "nothing is left in the work directory")
