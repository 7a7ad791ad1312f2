"""Mounts that end while they start, mounts below a symbolic link, and mounts below another mount."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.mount.support import (
    PATIENCE,
    SERVER,
    Union,
    environment,
    is_mounted,
    make_union,
    unmount,
    wait_until,
)
from tests.support.tree import Tree

pytestmark = pytest.mark.fusermount

_SIGNALLED = """
import os, signal, sys
from unionfs import cli
from unionfs import mount
real = mount.mount
def mount_and_signal(*arguments):
    mounted = real(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
    return mounted
mount.mount = mount_and_signal
sys.exit(cli.main(sys.argv[1:]))
"""


# In the background, the mount may become ready just before its end.
@pytest.mark.parametrize(("arguments", "statuses"), [(["-f"], {0}), ([], {0, 1})])
def test_a_signal_right_after_the_mount_leaves_no_dead_mount(
    base: str, arguments: list[str], statuses: set[int]
) -> None:
    union = make_union(base, {"f": b""})
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, *arguments, "-o", union.options, union.path],
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode == 0 and not arguments:  # the parent does not wait for the end in that case
        with suppress(AssertionError):
            wait_until(lambda: not is_mounted(union.path), "it ends")
    left = is_mounted(union.path)
    if left:
        unmount(union.path, lazy=True)
    assert not left
    assert done.returncode in statuses


def test_the_target_of_a_symbolic_link_is_unmounted_at_the_end(base: str) -> None:
    os.mkdir(f"{base}/real")
    os.symlink("real", f"{base}/mnt")
    union = make_union(base, {"f": b""}).mount()
    assert union.terminate() == 0
    left = is_mounted(f"{base}/real")
    if left:
        unmount(f"{base}/real", lazy=True)
    assert not left


@pytest.mark.root
def test_the_end_of_a_server_leaves_a_mount_over_its_own_alone(base: str) -> None:
    union = make_union(base, {"first": b""}).mount()
    os.mkdir(f"{base}/other")
    os.makedirs(f"{base}/second/found")
    over = Union(f"{base}/other", [f"{base}/second"], writable=False)
    over.path = union.path
    try:
        over.mount()
        assert union.terminate() == 0
        assert os.listdir(union.path) == ["found"]
        over.unmount()
    finally:
        over.kill()
        while is_mounted(union.path):
            unmount(union.path, lazy=True)


_MANY_OPEN = """
import os, sys
for number in range(900):
    os.open(sys.argv[1] + ("/d%d" % (number % 20) if number % 2 else "/d0/f"), os.O_RDONLY)
print("open", flush=True)
sys.stdin.read()
"""
#: libfuse itself writes this to standard error at the instant that the test provokes.
_SAID_BY_LIBFUSE = "fuse: reading device: Software caused connection abort\n"


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=pytest.mark.long)])
def test_an_unmount_while_a_thousand_files_and_streams_are_closed_logs_nothing(
    base: str, rounds: int
) -> None:
    """The kernel then ends the connection while the server reads requests (ECONNABORTED)."""
    lower: Tree = {f"d{number}": {"f": b"content"} for number in range(20)}
    union = make_union(base, lower)
    for _ in range(rounds):
        union.mount()
        clients = [
            subprocess.Popen(
                [sys.executable, "-c", _MANY_OPEN, union.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        try:
            for client in clients:
                assert client.stdout is not None
                assert client.stdout.readline() == b"open\n"
            unmount(union.path, lazy=True)
        finally:
            for client in clients:
                client.communicate(timeout=PATIENCE)
        assert union.process is not None
        assert union.process.wait(PATIENCE) == 0
        union.process = None
        said = union.log()
        assert (said.replace(_SAID_BY_LIBFUSE, "") if SERVER == "pyfuse3" else said) == ""


_MOUNTS_AND_UNMOUNTS = """
import os, sys
from unionfs import mount
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
mounted = mount.mount(sys.argv[1], ["default_permissions"])
assert mounted.device is not None
mounted.unmount()
print(mount._device_on(sys.argv[1]))
"""


@pytest.mark.root
@pytest.mark.overlay
def test_an_ordinary_user_unmounts_without_mtab(base: str) -> None:
    """fusermount3 needs /etc/mtab, which minimal root file systems lack."""
    for name in ("mnt", "tmpfs"):
        os.mkdir(f"{base}/{name}")
    os.chown(f"{base}/mnt", 65534, 65534)
    os.chmod(base, 0o755)
    hide = (
        f"mount -t tmpfs tmpfs {base}/tmpfs && cd {base}/tmpfs && mkdir upper work"
        " && mount -t overlay -o lowerdir=/etc,upperdir=upper,workdir=work overlay /etc && rm -f /etc/mtab"
    )
    hidden = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{hide}; exec "$@"', "sh"]
    done = subprocess.run(
        [*hidden, sys.executable, "-c", _MOUNTS_AND_UNMOUNTS, f"{base}/mnt"],
        env=environment(),
        timeout=PATIENCE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("None\n", "")
