"""What a sandbox takes of the machine's memory, alone and beside ninety-nine others."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.support import PATIENCE, Launcher, first_line, let_in
from tests.e2e.test_ending import Family

# What a process shares with others is told to who may trace it alone, and server and init are nobody's to trace.
pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.root]

KIB, MIB = 1 << 10, 1 << 20
#: Of the supervisor, the server and init together, when the program has looked at all files.
MOST = 60 * MIB
FILES = 16_000


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """An environment with a layer of as many files as a small Debian has."""
    for number in range(FILES // 100):
        directory = tmp_path / "layer" / "files" / f"directory{number}"
        directory.mkdir(parents=True)
        for name in range(100):
            (directory / f"a-name-of-usual-length{name}").touch()
    let_in(tmp_path / "layer" / "files")
    return f'[root]\nlayers = ["dir:/", "dir:{tmp_path}/layer"]\n'


#: Waits for the end of its input: the sandbox is there for as long as it is looked at.
WALK = ["sh", "-c", "find /files -ls | wc -l; exec cat"]


def memory(family: Family) -> int:
    """Return the bytes that all but the program take, each page divided by those who share it; proc_pid_smaps(5)."""
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


def test_a_sandbox_whose_program_looked_at_sixteen_thousand_files_takes_at_most_sixty_megabytes(
    launcher: Launcher, spec: str
) -> None:
    with ExitStack() as undo:
        process = started(launcher, spec, undo)
        assert int(first_line(process)) > FILES
        taken = memory(Family(process.pid))
    assert taken <= MOST, f"{taken / MIB:.1f} MiB"
    assert launcher.runs() == []


@pytest.mark.long
def test_a_hundred_at_once_take_no_more_each(launcher: Launcher, spec: str) -> None:
    path = launcher.write(spec)
    with ExitStack() as undo:
        processes = [started(launcher, path, undo) for _ in range(100)]
        assert all(int(first_line(process)) > FILES for process in processes)
        taken = [memory(Family(process.pid)) for process in processes]
    assert max(taken) <= MOST, f"{max(taken) / MIB:.1f} MiB"
    assert launcher.runs() == []
