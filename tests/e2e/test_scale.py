"""Memory that a sandbox takes, alone and beside ninety-nine others."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.support import PATIENCE, Launcher, first_line, let_in
from tests.e2e.test_ending import Family

# smaps_rollup needs the permission to trace, which only root has over the server and init.
pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.root]

KIB, MIB = 1 << 10, 1 << 20
#: Bound for the supervisor, the server and init together after the program has read all attributes.
MOST = 60 * MIB
FILES = 16_000


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Return an environment file with a layer of as many files as a small Debian has."""
    for number in range(FILES // 100):
        directory = tmp_path / "layer" / "files" / f"directory{number}"
        directory.mkdir(parents=True)
        for name in range(100):
            (directory / f"a-name-of-usual-length{name}").touch()
    let_in(tmp_path / "layer" / "files")
    return f'[root]\nlayers = ["dir:/", "dir:{tmp_path}/layer"]\n'


#: Waits for the end of its input, so that the sandbox exists during the measurement.
WALK = ["sh", "-c", "find /files -ls | wc -l; exec cat"]


def memory(family: Family) -> int:
    """Return the proportional set size of all processes but the program, in bytes; proc_pid_smaps(5)."""
    found = 0
    for pid in (family.supervisor, family.server, family.init):
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            line = re.search(r"^Pss:\s+(\d+) kB$", file.read(), re.MULTILINE)
        assert line is not None
        found += int(line[1]) * KIB
    return found


def started(launcher: Launcher, spec: str, undo: ExitStack) -> subprocess.Popen[str]:
    reader, writer = os.pipe()
    undo.callback(os.close, writer)
    try:
        command = launcher.arguments(spec, WALK)
        process = subprocess.Popen(
            command, stdin=reader, stdout=subprocess.PIPE, text=True, env=launcher.environ
        )
    finally:
        os.close(reader)
    undo.callback(process.wait, PATIENCE)
    undo.callback(process.terminate)
    assert process.stdout is not None
    undo.callback(process.stdout.close)
    return process


def test_after_a_walk_over_16000_files_launcher_and_server_take_at_most_60_megabytes(
    launcher: Launcher, spec: str
) -> None:
    with ExitStack() as undo:
        process = started(launcher, spec, undo)
        assert int(first_line(process)) > FILES
        taken = memory(Family(process.pid))
    assert taken <= MOST, f"{taken / MIB:.1f} MiB"
    assert launcher.runs() == []


@pytest.mark.long
def test_a_hundred_sandboxes_at_once_take_no_more_memory_each(launcher: Launcher, spec: str) -> None:
    path = launcher.write(spec)
    with ExitStack() as undo:
        processes = [started(launcher, path, undo) for _ in range(100)]
        assert all(int(first_line(process)) > FILES for process in processes)
        taken = [memory(Family(process.pid)) for process in processes]
    assert max(taken) <= MOST, f"{max(taken) / MIB:.1f} MiB"
    assert launcher.runs() == []
