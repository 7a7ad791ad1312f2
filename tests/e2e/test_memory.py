"""Memory of the launcher and the server of a sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.support import Launcher, children

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

DIRECTORIES, FILES = 160, 99
#: Measured are 39 MB: 22 of the server, and 9 and 8 of the others, which share much.
BOUND = 60_000_000


def shared_out(pid: int) -> int:
    """Return the proportional set size of *pid* in bytes: shared pages are divided by the number of sharers."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not tell")


@pytest.mark.root  # only root may read the memory maps of the server and of process 1
def test_after_a_walk_over_16000_files_a_sandbox_takes_at_most_60_megabytes(
    launcher: Launcher, tmp_path: Path
) -> None:
    for number in range(DIRECTORIES):
        directory = tmp_path / "layer" / "walked" / f"directory-{number:03}"
        directory.mkdir(parents=True)
        for file in range(FILES):
            (directory / f"file-with-a-name-{file:02}").touch()
    spec = f'[root]\nlayers = ["dir:/", "dir:{tmp_path}/layer"]\n'
    with launcher.start(spec, ["sh", "-c", "find /walked -ls | wc -l; exec sleep 1000"]) as supervisor:
        assert supervisor.stdout is not None
        assert int(supervisor.stdout.readline()) == 1 + DIRECTORIES * (1 + FILES)
        taken = {"supervisor": shared_out(supervisor.pid)}
        for pid, line in children(supervisor.pid).items():
            taken["server" if "--serve-fd" in line else "process 1"] = shared_out(pid)
        supervisor.terminate()
        supervisor.wait(10)
    assert len(taken) == 3
    assert sum(taken.values()) <= BOUND, taken
