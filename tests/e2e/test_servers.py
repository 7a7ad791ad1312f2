"""Sandboxes work with both servers: the direct server by default, and pyfuse3 where the file names it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, Launcher, children, first_line

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

PYFUSE3 = HOST_ROOT + 'server = "pyfuse3"\n'
SERVERS = pytest.mark.parametrize("spec", [HOST_ROOT, PYFUSE3], ids=["direct", "pyfuse3"])


def server_of(supervisor: int) -> int:
    return next(pid for pid, line in children(supervisor).items() if "--serve-fd" in line)


@pytest.mark.parametrize(("spec", "named"), [(HOST_ROOT, "direct"), (PYFUSE3, "pyfuse3")])
def test_the_direct_server_serves_unless_the_file_names_the_other(
    launcher: Launcher, spec: str, named: str
) -> None:
    done = launcher.up(spec, ["true"], options=["--debug"])
    assert done.status == 0
    assert f"+ served by {named}" in done.err.splitlines()


def test_a_kernel_that_is_too_old_for_the_direct_server_is_an_error_that_names_the_other(
    launcher: Launcher, tmp_path: Path
) -> None:
    """Here a sitecustomize module, which `python -P -m unionfs` imports, reports an older kernel to the server."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif '--serve-fd' in sys.orig_argv:\n"
        "    from unionfs.fuse import protocol\n    protocol.LEAST_MINOR = 1000\n"
    )
    old = {"PYTHONPATH": str(tmp_path)}
    done = launcher.up(HOST_ROOT, ["true"], environ=old)
    assert done.status == 125
    assert "does not support: use server=pyfuse3" in done.err
    assert launcher.up(PYFUSE3, ["true"], environ=old).status == 0


@SERVERS
def test_files_are_changed_in_the_writable_layer_only(launcher: Launcher, spec: str) -> None:
    before = Path("/etc/passwd").read_bytes()
    script = (
        "cp /etc/passwd /tmp/old && echo x:x:1:1:::  >> /etc/passwd && rm /etc/hostname && mv /etc/passwd /etc/p "
        "&& test ! -e /etc/hostname && tail -n 1 /etc/p && ln /etc/p /etc/q && stat -c %h /etc/q && ls /usr | wc -l"
    )
    said = launcher.shell(script, spec).facts_text().split()
    assert said[:2] == ["x:x:1:1:::", "2"]
    assert int(said[2]) == len(os.listdir("/usr"))
    assert Path("/etc/passwd").read_bytes() == before


@SERVERS
def test_the_size_of_the_writable_layer_is_enforced(launcher: Launcher, spec: str) -> None:
    script = "dd if=/dev/zero of=/etc/f bs=64k count=100 2>&1 | grep -o 'No space'; stat -c %s /etc/f"
    said = launcher.shell(script, spec + 'size = "1M"\n').out.split()
    assert said[:2] == ["No", "space"]
    assert 900_000 < int(said[2]) <= 1 << 20


@SERVERS
def test_a_signal_stops_the_sandbox(launcher: Launcher, spec: str) -> None:
    with launcher.start(spec, ["sh", "-c", "trap 'exit 7' TERM; echo ready; sleep 100 & wait"]) as supervisor:
        assert first_line(supervisor) == "ready"
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(10) == 7
    assert launcher.runs() == []


@SERVERS
def test_the_end_of_the_server_ends_the_sandbox(launcher: Launcher, spec: str) -> None:
    with launcher.start(spec, ["sh", "-c", "echo ready; exec sleep 1000"]) as supervisor:
        assert first_line(supervisor) == "ready"
        os.kill(server_of(supervisor.pid), signal.SIGKILL)
        _, err = supervisor.communicate(timeout=10)
        assert supervisor.returncode == 125
    assert "the file system's server: it ended unexpectedly" in err
    assert launcher.runs() == []


@pytest.mark.rootfs
def test_over_an_archive_files_are_opened_without_a_request(launcher: Launcher, debian_rootfs: str) -> None:
    spec = f'[root]\nlayers = ["tar:{debian_rootfs}"]\n'
    script = (
        "cat /etc/debian_version /usr/bin/* > /dev/null && echo a >> /etc/passwd && exec 3< /etc/passwd && rm /etc/passwd "
        "&& tail -n 1 <&3 && mkdir /etc/d && : > /etc/d/f && ls /etc/d && rm -r /etc/d && test ! -e /etc/d"
    )
    assert launcher.shell(script, spec).facts_text().split() == ["a", "f"]
