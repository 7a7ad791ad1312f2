"""fsx and fsstress of xfstests, in every configuration that the launcher uses.

$XFSTESTS is a built checkout of xfstests-dev. fsx compares the contents of one file with the expected results of random
operations. fsstress does random operations on trees without comparing, so the test compares the tree after a remount.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess

import pytest

from tests.mount.configurations import CONFIGURATIONS, Configuration
from tests.mount.support import scratch
from tests.support.tree import File, Tree, snapshot

pytestmark = [
    pytest.mark.long,
    pytest.mark.fusermount,
    pytest.mark.xfstests,
    pytest.mark.timeout(3600),
    pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys()),
    pytest.mark.parametrize("parent", ["", "/dev/shm"], ids=["disk", "tmpfs"]),
]

_LOWER: Tree = {"lower": File(os.urandom(200_000)), "d": {"f": b"lower"}}
_OPERATIONS = "20000"
#: fsx tries each operation once, and reports those that it omits. FUSE has no requests for these.
_NOT_PASSED_ON = (
    "COLLAPSE_RANGE",
    "INSERT_RANGE",
    "UNSHARE_RANGE",
    "WRITE_ZEROES",
    "clone",
    "dedupe",
    "exchange",
    # The kernel refuses RWF_DONTCACHE and RWF_ATOMIC on files of FUSE without a request: fs/fuse sets neither
    # FOP_DONTCACHE nor FMODE_CAN_ATOMIC_WRITE.
    "dontcache IO",
    "atomic writes",
)
#: With O_DIRECT, fsx must not map the file (see its usage), and must read and write whole sectors.
_MODES = {
    "mapped": [],
    "closing": ["-c", "10"],
    "direct": ["-Z", "-R", "-W", "-r", "4096", "-w", "4096"],
}


def program(name: str) -> str:
    """Return the path of a program of the suite."""
    return os.path.join(os.environ["XFSTESTS"], "ltp", name)


def run(*command: str) -> str:
    """Run *command*, which must succeed, and return its output."""
    faulthandler.cancel_dump_traceback_later()  # pytest would dump tracebacks after a minute
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-8000:]}"
    return done.stdout


@pytest.mark.parametrize("mode", _MODES)
def test_fsx_finds_no_difference(configuration: Configuration, parent: str, mode: str) -> None:
    with scratch(parent or None) as base, configuration.union(base, _LOWER) as union:
        for name in ("new", "lower"):
            done = run(
                program("fsx"), "-N", _OPERATIONS, "-S", "1", "-P", base, *_MODES[mode], f"{union.path}/{name}"
            )  # fmt: skip
            assert "completed A-OK" in done
            left_out = [line for line in done.splitlines() if "does not support" in line]
            if configuration.direct:
                known = (
                    (*_NOT_PASSED_ON, "ZERO_RANGE") if parent else _NOT_PASSED_ON
                )  # tmpfs does not support it
                assert [line for line in left_out if not any(word in line for word in known)] == []


def test_fsstress_leaves_a_tree_that_is_the_same_after_a_remount(
    configuration: Configuration, parent: str
) -> None:
    with scratch(parent or None) as base, configuration.union(base, _LOWER) as union:
        for seed in ("1", "2"):
            run(
                program("fsstress"),
                "-d",
                f"{union.path}/d",
                "-s",
                seed,
                "-n",
                "2000",
                "-p",
                "4",
                "-f",
                "sync=0",
            )
            before = snapshot(union.path)
            assert len(before) > 50
            union.remount()
            assert snapshot(union.path) == before
