"""Podman for tests: rootless, with a storage of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


class Podman:
    """Rootless podman with a storage in one directory. `end` removes what is in the storage."""

    def __init__(self, base: Path, *, driver: str = "vfs", pull_options: str = "") -> None:
        """Use the driver *driver*, and *pull_options*, lines of the table of that name in storage.conf."""
        self._base = base
        self._driver = driver
        for name in ("home", "runtime"):
            (base / name).mkdir(mode=0o700)
        (base / "storage.conf").write_text(
            f'[storage]\ndriver = "{driver}"\n[storage.options.pull_options]\n{pull_options}\n'
        )
        #: What the last call has written to standard error.
        self.err = ""

    def __call__(self, *arguments: str | Path) -> str:
        """Run podman; return its standard output."""
        done = subprocess.run(
            ["podman", "--root", self._base / "root", "--runroot", self._base / "run", "--storage-driver", self._driver,
             "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file", *arguments],
            env={
                "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
                "HOME": str(self._base / "home"),
                "CONTAINERS_STORAGE_CONF": str(self._base / "storage.conf"),
                "XDG_RUNTIME_DIR": str(self._base / "runtime"),
                "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"podman {' '.join(map(str, arguments))}: {done.stderr}"
        self.err = done.stderr
        return done.stdout

    def end(self) -> None:
        """Remove everything, and end the process that keeps the user namespace alive."""
        self("system", "reset", "--force")
        try:
            pid = int((self._base / "runtime/libpod/tmp/pause.pid").read_text())
        except FileNotFoundError:
            return
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def podman() -> Iterator[Podman]:
    """Return podman with an empty storage. Use it with `pytest.mark.podman`."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp"))
    found = Podman(base)
    try:
        yield found
    finally:
        found.end()
        shutil.rmtree(base)


def listed(archive: Path) -> dict[bytes, tuple[int, bytes]]:
    """Return mode and content, or target, of each member of the tar that `podman export` writes."""
    found = {}
    with tarfile.open(archive, errors="surrogateescape") as tar:
        for member in tar:
            name = os.fsencode(member.name)
            if member.isreg():
                found[name] = (member.mode, tar.extractfile(member).read())  # type: ignore[union-attr]
            elif member.islnk():
                found[name] = found[os.fsencode(member.linkname)]
            elif member.issym():
                found[name] = (0o777, os.fsencode(member.linkname))
            else:
                found[name] = (member.mode, b"")
    return found
