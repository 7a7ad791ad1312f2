"""Sandboxes while the kernel reclaims dentries and inodes. procfs then makes new inodes for the same paths."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.kernel import filters
from tests.e2e.archive import RootArchive
from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher
from tests.support import kernel_caches

#: Only the machine's root may drop caches, and everything on the machine is slower meanwhile.
pytestmark = pytest.mark.root

_DROP_CACHES = "/proc/sys/vm/drop_caches"
#: Seconds between two reclaims, each of which takes some milliseconds.
_PAUSE = 0.02
_STARTS = 4


def reclaim_once() -> None:
    """Drop unused dentries and inodes (Documentation/admin-guide/sysctl/vm.rst)."""
    try:
        Path(_DROP_CACHES).write_text("2")
    except OSError as error:
        pytest.skip(f"{_DROP_CACHES}: {error.strerror}: run as root of the machine itself")


@pytest.fixture
def reclaiming() -> Iterator[None]:
    """Let a thread drop the caches again and again."""
    ended = threading.Event()

    def reclaim() -> None:
        while not ended.wait(_PAUSE):
            reclaim_once()

    with kernel_caches.dropped():
        reclaim_once()
        thread = threading.Thread(target=reclaim)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def spec(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return an environment file whose root is an archive served by *request.param*, with /proc of the host below no layer."""
    volume = '[[volumes]]\ntype = "bind"\nsource = "/usr"\ntarget = "/usr"\nread_only = true\n'
    image = RootArchive(tmp_path / "root.tar")
    for number in range(40):
        image.add(f"data/tree/d{number}/file", b"of the layer\n" * 100)
    return f'[root]\nlayers = ["{image.layer()}"]\nserver = "{request.param}"\n{volume}'


both_servers = pytest.mark.parametrize("spec", ["direct", "pyfuse3"], indirect=True)


@both_servers
@pytest.mark.usefixtures("reclaiming")
def test_every_sandbox_starts_while_the_kernel_reclaims(launcher: Launcher, spec: str) -> None:
    """The index of the layer is made and used meanwhile."""
    for _ in range(_STARTS):
        done = launcher.shell("cat /data/file", spec)
        assert (done.status, done.out) == (0, "of the layer\n"), done.err
    assert len(list(launcher.state.glob("images/archives/*/index/*.index"))) == 1


@both_servers
@pytest.mark.usefixtures("reclaiming")
def test_a_running_sandbox_serves_and_ends_while_the_kernel_reclaims(launcher: Launcher, spec: str) -> None:
    """The sandbox walks, writes, copies up, kills a client, mounts and unmounts."""
    script = """
set -e
for round in 1 2 3; do
    test $(find /data/tree -type f | wc -l) -eq 40
    for number in 1 2 3 4 5; do
        echo "changed $round" >> /data/tree/d$number/file
        chmod 600 /data/tree/d$((number + 5))/file
        mv /data/tree/d$((number + 10))/file /data/tree/d$((number + 10))/file.$round
        mv /data/tree/d$((number + 10))/file.$round /data/tree/d$((number + 10))/file
    done
    mkdir /data/new$round
    exec 3<>/data/new$round/open
    rm /data/new$round/open
    echo "without a name" >&3
    exec 3>&-
    rmdir /data/new$round
    cat /data/tree/d2*/file /data/tree/d3*/file > /data/copy & writer=$!
    kill -9 $writer
    wait $writer || true
done
tail -n 1 /data/tree/d1/file
"""
    done = launcher.shell(script, spec)
    assert (done.status, done.out) == (0, "changed 3\n"), done.err


@pytest.mark.skipif(filters.landlock_version() < 4, reason="needs version 4 of Landlock (Linux 6.7)")
def test_paths_that_the_rules_allow_below_proc_stay_allowed_when_the_kernel_reclaims(
    launcher: Launcher,
) -> None:
    rules = '[security.landlock]\nread = ["/usr", "/etc", "/proc/meminfo", "/proc/sys/kernel"]\nexecute = ["/usr"]\n'
    script = "head -n 1 /proc/meminfo; cat /proc/sys/kernel/ostype"
    arguments = launcher.arguments(HOST_ROOT + rules, ["sh", "-c", f"{script}; read go; {script}"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, text=True, env=launcher.environ, **pipes) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        first = [running.stdout.readline() for _ in range(2)]
        with kernel_caches.dropped():
            for _ in range(4):
                reclaim_once()
        out, err = running.communicate("go\n", timeout=PATIENCE)
    assert out.splitlines(keepends=True) == first, err
