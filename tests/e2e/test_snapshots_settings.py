"""Snapshots of sandboxes with memory limits, read-only roots, crossed mounts, direct binds and named volumes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.archive import Archive
from tests.e2e.support import PATIENCE, Launcher, first_line, sandbox
from tests.e2e.test_changes import layer, over, rows
from tests.e2e.test_snapshots import PERSISTENT, make, text

__all__ = ["layer"]  # a fixture
pytestmark = [pytest.mark.fuse, pytest.mark.userns]


@pytest.mark.cgroup
def test_a_sandbox_that_uses_all_its_memory_goes_on_after_a_snapshot(launcher: Launcher, layer: Path) -> None:
    """The file cache of the program counts, and the server freezes the layer outside of the limit."""
    go = launcher.directory / "go"
    go.mkdir()
    script = """
    head -c 60M /dev/zero > /data/zeros; echo ready
    while [ ! -e /go/now ]; do sleep 0.02; done
    wc -c < /data/zeros; echo 2 > /data/two; head -c 60M /dev/zero > /data/zeros; echo done; sleep 60
    """
    more = f'[limits]\nmemory = "32M"\n[[volumes]]\ntype = "bind"\nsource = "{go}"\ntarget = "/go"\n'
    with launcher.start(over(layer, PERSISTENT) + more, ["sh", "-c", script]) as supervisor:
        assert first_line(supervisor) == "ready"
        make(launcher, "one")
        (go / "now").touch()
        assert first_line(supervisor) == str(60 << 20)
        assert first_line(supervisor) == "done"
        supervisor.terminate()
        supervisor.wait()
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == {("A", "/data/zeros", None)}


def test_a_read_only_root_has_no_snapshots(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer, 'writable = "none"\n'))
    with launcher.start(spec, ["sh", "-c", "echo ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        for argument in ("box", spec):
            for verb in (["snapshot", argument, "one"], ["fork", argument, "copy"], ["diff", argument]):
                refused = sandbox(launcher, *verb)
                assert (refused.status, refused.out) == (125, "")
                assert "sandbox: sandbox box-" in refused.err
                assert 'has no writable layer\n      hint: set root.writable = "persistent"' in refused.err


#: Mounts a tmpfs in the layer $1, writes a file to it, and runs the rest.
_WITH_A_MOUNT = (
    'mount -t tmpfs none "$1"; echo mounted > "$1/file"; echo second > "$1/second"; shift; exec "$@"'
)


def test_crossed_mounts_are_part_of_snapshots(launcher: Launcher, layer: Path) -> None:
    (layer / "data" / "mount").mkdir()
    spec = launcher.write(
        f'[sandbox]\nname = "box"\n[root]\nlayers = ["dir:/", {{ dir = "{layer}", cross = ["/data/mount"] }}]\n{PERSISTENT}'
    )
    commands: list[list[str]] = [
        ["up", spec, "--", "sh", "-c", "cd /data/mount; echo 1 >> file; echo new > new"],
        ["snapshot", "box", "one"],
        ["up", spec, "--", "sh", "-c", "cd /data/mount; echo 2 >> file; rm second; mv new moved"],
        ["diff", "box"],
        ["discard", "box", "/data/mount/file"],
        ["diff", "box"],
        ["rollback", "box", "one"],
        ["up", spec, "--", "sh", "-c", "cd /data/mount; cat file second new"],
    ]
    script = " && ".join(
        " ".join([sys.executable, "-m", "sandbox", *map(shlex.quote, words)]) for words in commands
    )
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"),
            *("sh", "-c", _WITH_A_MOUNT, "sh", str(layer / "data" / "mount"), "sh", "-c", script),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("C /data/mount/file (12 B)", "A /data/mount/moved (4 B)", "D /data/mount/second (7 B)"),
        *("A /data/mount/moved (4 B)", "D /data/mount/second (7 B)"),
        *("mounted", "1", "second", "new"),
    ]


def test_a_direct_bind_stays_as_it_is_beside_snapshots(launcher: Launcher, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "app.tar")
    archive.add("app")
    archive.add("app/file", b"of the archive\n")
    spec = launcher.write(
        f'[sandbox]\nname = "box"\n[root]\nlayers = ["dir:/", "{archive.layer()}"]\nnative = ["/app"]\n{PERSISTENT}'
    )
    with launcher.start(spec, ["sh", "-c", "echo 1 > /opt/one; echo ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        make(launcher, "one")
        supervisor.terminate()
        supervisor.wait()
    assert text(launcher, spec, "echo 2 > /opt/two; rm /opt/one; cat /app/file") == "of the archive\n"
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == {("A", "/opt/one", None)}
    assert sandbox(launcher, "fork", "box", "copy").status == 0
    done = launcher.shell("cat /opt/one /app/file", spec, options=["--set", "sandbox.name=copy"])
    assert done.out == "1\nof the archive\n", done.err


def test_a_named_volume_is_no_part_of_a_snapshot_and_shared_with_a_fork(
    launcher: Launcher, layer: Path
) -> None:
    volume = '[[volumes]]\ntype = "named"\nsource = "kept"\ntarget = "/data/kept"\n'
    spec = launcher.write(over(layer, PERSISTENT) + volume)
    with launcher.start(
        spec, ["sh", "-c", "cd /data; echo 1 > kept/file; echo 1 > one; echo ready; sleep 60"]
    ) as supervisor:
        assert first_line(supervisor) == "ready"
        make(launcher, "one")
        assert sandbox(launcher, "fork", "box", "copy").status == 0
        supervisor.terminate()
        supervisor.wait()
    assert text(launcher, spec, "cd /data; echo 2 >> kept/file; echo 2 >> one; cat kept/file") == "1\n2\n"
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == {("A", "/data/one", None)}
    assert text(launcher, spec, "cat /data/kept/file /data/one") == "1\n2\n1\n"
    done = launcher.shell("cat /data/kept/file /data/one", spec, options=["--set", "sandbox.name=copy"])
    assert done.out == "1\n2\n1\n", done.err
