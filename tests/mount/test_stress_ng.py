"""The file system stressors of stress-ng, which check what they read, in every configuration that the launcher uses."""

from __future__ import annotations

import faulthandler
import os
import subprocess

import pytest

from tests.mount.configurations import CONFIGURATIONS, Configuration

pytestmark = [
    pytest.mark.long,
    pytest.mark.fusermount,
    pytest.mark.stress_ng,
    pytest.mark.timeout(1800),
]

#: Of the class "filesystem" those that work in the directory that they are given. The others are about mounts, /proc or the machine.
_STRESSORS = """
    access acl chdir chmod chown copy-file dentry dir dirdeep dup fallocate fcntl fiemap file-ioctl filename flock fpunch fsize fstat
    getdent hdd inode-flags io iomix lease link locka lockf lockofd metamix mknod open pseek rename seek symlink sync-file touch unlink
    utime xattr
""".split()

#: Those that fail without fallocate(2), which pyfuse3 has no handler for.
_DIRECT = frozenset(("fallocate", "fpunch", "fsize"))


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_no_stressor_finds_a_fault(configuration: Configuration, base: str) -> None:
    faulthandler.cancel_dump_traceback_later()  # pytest's, which takes a minute for a sign of a hang
    os.chmod(base, 0o755)
    with configuration.union(base, {"kept": b"kept"}) as union:
        for stressor in _STRESSORS:
            if stressor in _DIRECT and not configuration.direct:
                continue
            done = subprocess.run(
                ["stress-ng", f"--{stressor}", "1", "--timeout", "1s", "--verify", "--temp-path", union.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{stressor}: {done.stdout[-4000:]}"
            assert "stress-ng: fail:" not in done.stdout, f"{stressor}: {done.stdout[-4000:]}"
        assert os.listdir(union.path) == ["kept"]
