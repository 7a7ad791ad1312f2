"""The file system stressors of stress-ng, which verify the data that they read, in every configuration of the launcher."""

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

#: The stressors of the class "filesystem" that work in their directory. The others test mounts, /proc or the machine.
_STRESSORS = """
    access acl chdir chmod chown copy-file dentry dir dirdeep dup fallocate fcntl fiemap file-ioctl filename flock fpunch fsize fstat
    getdent hdd inode-flags io iomix lease link locka lockf lockofd metamix mknod open pseek rename seek symlink sync-file touch unlink
    utime xattr
""".split()

#: Stressors that fail without fallocate(2), for which pyfuse3 has no handler.
_DIRECT = frozenset(("fallocate", "fpunch", "fsize"))


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_no_stressor_finds_a_fault(configuration: Configuration, base: str) -> None:
    faulthandler.cancel_dump_traceback_later()  # pytest would dump tracebacks after a minute
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
