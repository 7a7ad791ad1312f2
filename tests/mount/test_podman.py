"""Rootless podman with runc and unionfs as its ``mount_program`` builds, commits and exports the same as its own driver."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.mount.support import PATIENCE, PROJECT, is_mounted, scratch, wait_until
from tests.support.requirements import require, why_no_whiteouts

pytestmark = [pytest.mark.podman, pytest.mark.rootfs]

#: Renames a directory of a lower layer, deletes in it, changes modes and owners of lower files, and makes links and
#: set-id programs. Each step makes a layer.
DOCKERFILE = """\
FROM localhost/base:1
RUN mv /usr/share/doc /usr/share/doc2 && echo layer1 > /etc/layer1 && ln -s layer1 /etc/link
RUN rm -rf /usr/share/doc2 && chmod -R g-w /etc && chown -R 33:33 /var/mail
RUN mkdir /home/bob && echo hi > /home/bob/x && chown -R 1000:1000 /home/bob \\
 && ln /home/bob/x /home/bob/y && chmod 4755 /home/bob/x && mkdir /usr/share/doc && mkfifo /home/bob/fifo
"""
#: No hard-linked file is changed, because podman's own driver, without an index, would break the links.
CHANGE = "mv /etc/apt /etc/apt2 && rm /etc/layer1 && echo new > /root/new && chmod 640 /usr/bin/dpkg && mv /srv /srv2"


@dataclass(frozen=True, slots=True)
class Podman:
    """Podman with a storage of its own; `end` removes it."""

    base: str
    options: tuple[str, ...]

    def __call__(self, *arguments: str) -> str:
        """Run podman; return its standard output."""
        command = [
            "podman", "--root", f"{self.base}/root", "--runroot", f"{self.base}/run", "--storage-driver", "overlay",
            *self.options, "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
        ]  # fmt: skip
        done = subprocess.run(
            [*command, *arguments],
            env=self.environment(),
            cwd=self.base,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Return an environment without the account's own podman settings and storage."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
        sbin = "/usr/local/sbin:/usr/sbin:/sbin"
        return {
            **kept,
            "PATH": f"{kept.get('PATH', os.defpath)}:{sbin}",
            "HOME": f"{self.base}/home",
            "XDG_RUNTIME_DIR": f"{self.base}/runtime",
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        }

    def end(self) -> None:
        """Remove everything, and end the process that keeps the user namespace alive."""
        self("system", "reset", "--force")
        try:
            with open(f"{self.base}/runtime/libpod/tmp/pause.pid", encoding="ascii") as file:
                pid = int(file.read())
        except FileNotFoundError:
            return
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "podman's pause process ends")


@pytest.fixture
def storage() -> Iterator[str]:
    """Yield a directory for the storages of podman, on which its own driver can mount kernel OverlayFS.

    Its path is short, because podman makes sockets in it. All ids of the account may enter it.
    """
    parents = ["/var/tmp", tempfile.gettempdir()]
    parent = next((path for path in parents if why_no_whiteouts(path) is None), None)
    if parent is None:
        require("whiteouts")
    with scratch(parent) as path:
        os.chmod(path, 0o755)
        yield path


def make_podman(base: str, *options: str) -> Podman:
    for name in ("home", "runtime"):
        os.makedirs(f"{base}/{name}", mode=0o700)
    return Podman(base, options)


def mount_program(base: str) -> str:
    """Write a program that records its arguments and executes the checkout's unionfs."""
    path = f"{base}/unionfs"
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            "#!/bin/sh\n"
            f'echo "$*" >> {shlex.quote(base)}/calls\n'
            f'PYTHONPATH={shlex.quote(PROJECT)} exec {shlex.quote(sys.executable)} -m unionfs "$@"\n'
        )
    os.chmod(path, 0o755)
    return path


def go_through(podman: Podman, rootfs: str) -> tuple[list[str], str]:
    """Import, build, run, diff, commit, and run the result; return the differences and the path of the exported tree."""
    podman("import", rootfs, "localhost/base:1")
    with open(f"{podman.base}/Dockerfile", "w", encoding="utf-8") as file:
        file.write(DOCKERFILE)
    podman(
        "build", "--network=none", "--isolation=rootless", "-t", "localhost/img:1", "-f", "Dockerfile", "."
    )
    # podman takes two times for equal if their seconds are equal and one has no fraction, and then compares no further.
    time.sleep(1.1)
    said = podman(
        "run", "--network=none", "--name", "c1", "localhost/img:1", "sh", "-c", f"cat /etc/link; {CHANGE}"
    )
    assert said == "layer1\n"
    differences = podman("diff", "c1").splitlines()
    podman("commit", "c1", "localhost/img:2")
    said = podman(
        "run", "--rm", "--network=none", "localhost/img:2", "sh", "-c", "cat /root/new; ls -d /etc/apt*; ls /"
    )
    assert said.splitlines()[:2] == ["new", "/etc/apt2"]
    assert "srv2" in said
    podman("export", "c1", "-o", f"{podman.base}/c1.tar")
    return sorted(differences), f"{podman.base}/c1.tar"


def contents(path: str) -> dict[str, tuple[object, ...]]:
    """Describe every member of a tar archive, hard links by their targets. Times differ between the runs and are omitted."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if member.islnk():
                found[member.name] = ("link", *found[member.linkname][1:])
                continue
            file = tar.extractfile(member) if member.isreg() else None
            digest = hashlib.sha256(file.read()).hexdigest() if file is not None else ""
            found[member.name] = (
                member.type, stat.S_IMODE(member.mode), member.uid, member.gid,
                member.linkname if member.issym() else "", digest,
            )  # fmt: skip
    return found


def test_podman_makes_the_same_of_an_image_with_unionfs_as_with_its_own_driver(
    storage: str, debian_rootfs: str
) -> None:
    results = []
    for name, options in (
        ("ours", ("--storage-opt", f"overlay.mount_program={mount_program(storage)}")),
        ("own", ()),
    ):
        podman = make_podman(f"{storage}/{name}", *options)
        try:
            differences, exported = go_through(podman, debian_rootfs)
            results.append((differences, contents(exported)))
        finally:
            podman.end()
    (our_diff, ours), (their_diff, theirs) = results
    # With a mount program, podman compares two mounted trees, and also reports the directories of changed files.
    assert set(our_diff) - set(their_diff) <= {"C /usr", "C /usr/bin"}
    assert set(their_diff) <= set(our_diff)
    assert "D /etc/layer1" in our_diff
    assert len(ours) > 1000
    assert ours == theirs
    with open(f"{storage}/calls", encoding="utf-8") as file:
        assert len(file.read().splitlines()) > 5
    wait_until(lambda: not is_mounted(f"{storage}/ours/root/overlay"), "nothing stays mounted", PATIENCE)
