"""FUSE features that are negotiated beyond those of libfuse. Fewer requests and the applied umask show them."""

from __future__ import annotations

import os
import re
import signal
import stat

import pytest

from tests.mount.support import Union, make_union, wait_until
from tests.support.tree import Symlink

pytestmark = pytest.mark.fusermount


def requests(union: Union) -> dict[str, int]:
    """Return the server's number of requests of each kind."""
    union.may_complain = True  # the statistics go to the log, too
    path = f"{union.work}/unionfs/statistics"
    if os.path.exists(path):
        os.unlink(path)
    os.kill(union.pid, signal.SIGUSR1)
    wait_until(lambda: os.path.exists(path), "the statistics are written")
    with open(path, encoding="ascii") as file:
        return {kind: int(count) for kind, count in re.findall(r"([a-z-]+)=(\d+)", file.read())}


def test_the_server_writes_its_statistics_to_a_file(base: str) -> None:
    with make_union(base, {"f": b"x"}) as union:
        os.chmod(f"{union.path}/f", 0o600)
        found = requests(union)
    assert found["pid"] > 0
    assert found["copies"] == 1
    assert found["setattr"] == 1


def test_the_kernel_does_not_request_capabilities_before_each_write(base: str) -> None:
    with make_union(base, {}) as union:
        fd = os.open(f"{union.path}/f", os.O_WRONLY | os.O_CREAT)
        for _ in range(20):
            os.write(fd, b"x" * 100)
        os.close(fd)
        found = requests(union)
    assert found["write"] == 20
    assert found.get("getxattr", 0) <= 1


def test_targets_of_symbolic_links_are_read_once(base: str) -> None:
    with make_union(base, {"l": Symlink(b"f"), "f": b"x"}) as union:
        for _ in range(5):
            assert os.readlink(f"{union.path}/l") == "f"
            os.stat(f"{union.path}/l")
        assert requests(union)["readlink"] == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_umask_of_the_caller_is_applied(base: str, umask: int) -> None:
    with make_union(base, {}) as union:
        before = os.umask(umask)
        try:
            os.close(os.open(f"{union.path}/f", os.O_WRONLY | os.O_CREAT, 0o666))
            os.mkdir(f"{union.path}/d", 0o777)
            os.mkfifo(f"{union.path}/p", 0o666)
        finally:
            os.umask(before)
        modes = [stat.S_IMODE(os.lstat(f"{union.path}/{name}").st_mode) for name in "fdp"]
    assert modes == [0o666 & ~umask, 0o777 & ~umask, 0o666 & ~umask]
