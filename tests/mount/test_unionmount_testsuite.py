"""unionmount-testsuite, the tests of kernel OverlayFS, on a mount made by mount(8).

$UNIONMOUNT_TESTSUITE is a checkout of https://github.com/amir73il/unionmount-testsuite. The suite writes, checks which
layer has the change, and continues after a remount and over its former writable layers. One run takes some minutes. It
runs in every configuration that the launcher uses.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.configurations import CONFIGURATIONS, Configuration
from tests.mount.support import PROJECT

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.fusermount,
    pytest.mark.unionmount_testsuite,
    pytest.mark.timeout(3600),
]

#: Runs the suite where open(2) sends no request. The suite expects the copy in the writable layer between an open for
#: writing and the first change, but the server can copy only at the change. So each open for writing also sets the size
#: to its present value.
_CHANGE_AT_OPEN = """
import os, runpy, sys

def open_and_change(path, flags, *arguments, opened=os.open, **options):
    descriptor = opened(path, flags, *arguments, **options)
    if flags & (os.O_WRONLY | os.O_RDWR):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size)
    return descriptor

os.open = open_and_change
sys.argv[0] = "./run"
runpy.run_path("run", run_name="__main__")
"""
#: A complete run has 3,502 operations. A much lower number means that its output was not parsed.
_AT_LEAST = 3000


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_the_kernels_suite_passes_with_consecutive_writable_layers(
    base: str, configuration: Configuration
) -> None:
    os.chmod(base, 0o755)  # the suite also opens files as the user bin
    tools, layers, indexes = Path(base, "tools"), Path(base, "layers"), Path(base, "indexes")
    tools.mkdir()
    layers.mkdir()
    indexes.mkdir(mode=0o700)
    # mount -t fuse.NAME runs NAME SOURCE MOUNTPOINT -o OPTIONS, and searches only the usual directories.
    command = tools / "unionfs-under-test"
    command.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={PROJECT} exec {sys.executable} -m unionfs "$@"\n')
    command.chmod(0o755)
    # Without `site`, Python does not import our package `tests` in place of the suite's.
    informed = "open_requests=off" not in configuration.options.split(",")
    run = ["./run"] if informed else [sys.executable, "-S", "-c", _CHANGE_AT_OPEN]
    suite = [*run, "--ov=2", f"--fuse={command.name}", "--verify"]
    faulthandler.cancel_dump_traceback_later()  # pytest would dump tracebacks after a minute
    done = subprocess.run(
        # In any case, the mounts end with the namespace, and the servers end with the mounts.
        [*"unshare --mount sh -c".split(), 'mount --bind "$0" /usr/local/sbin && exec "$@"', tools, *suite],
        cwd=os.environ["UNIONMOUNT_TESTSUITE"],
        env={
            **os.environ,
            "PYTHONPATH": "",  # Python must import the suite's tests, not ours
            "UNIONMOUNT_BASEDIR": str(layers),
            "UNIONMOUNT_MNTOPTIONS": configuration.all_options(str(indexes)) or "rw",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.count("\n ./run --") >= _AT_LEAST
