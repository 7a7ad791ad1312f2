"""mount(8) and fstab(5) mount a union like any other file system of type fuse."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from tests.mount.support import PATIENCE, PROJECT
from tests.support.tree import make_tree

pytestmark = [pytest.mark.root, pytest.mark.fusermount]


#: The directory where mount(8) finds programs, for every PATH of the caller.
INSTALLED = "/usr/local/bin"


@pytest.fixture(autouse=True)
def _layers(base: str) -> None:
    make_tree(f"{base}/lower", {"f": b"lower"})
    for name in ("upper", "work", "mnt", "bin"):
        os.mkdir(f"{base}/{name}")
    with open(f"{base}/bin/unionfs", "w", encoding="utf-8") as file:
        file.write(
            f'#!/bin/sh\nPYTHONPATH={shlex.quote(PROJECT)} exec {shlex.quote(sys.executable)} -m unionfs "$@"\n'
        )
    os.chmod(f"{base}/bin/unionfs", 0o755)


def run(base: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell *script*, with *base* as $1, in a mount namespace of its own in which our command is installed."""
    prepared = f"set -e; mount --bind {base}/bin {INSTALLED}; cd {base}; {script}"
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", prepared],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def options(base: str) -> str:
    return f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"


USE = """
findmnt --noheadings --output FSTYPE,SOURCE,OPTIONS mnt
cat mnt/f
chmod 600 mnt/f
stat --format ' %a' upper/f
stat --file-system --format '%b %S' mnt
umount mnt
"""


def test_mount_mounts_a_union_under_its_type(base: str) -> None:
    done = run(base, f"mount -t fuse.unionfs a-name mnt -o {options(base)}; {USE}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:2] == ["fuse.unionfs", "a-name"]
    assert "lower 600\n" in done.stdout


def test_mount_uses_a_line_of_fstab(base: str) -> None:
    with open(f"{base}/fstab", "w", encoding="utf-8") as file:
        file.write(
            f"layers {base}/mnt fuse.unionfs {options(base)},noauto,nosuid,x-systemd.automount,size=1m 0 0\n"
        )
    done = run(base, f"mount --fstab fstab {base}/mnt; {USE}")
    assert (done.returncode, done.stderr) == (0, "")
    kind, source, shown = done.stdout.split()[:3]
    assert (kind, source) == ("fuse.unionfs", "layers")
    assert "nosuid" in shown.split(",")
    blocks, unit = done.stdout.split()[-2:]
    assert int(blocks) * int(unit) == 1 << 20


def test_a_mount_that_fails_has_an_error_status(base: str) -> None:
    done = run(base, "mount -t fuse.unionfs none mnt -o lowerdir=/nowhere")
    assert done.returncode != 0
    assert "lowerdir /nowhere: No such file or directory" in done.stderr
