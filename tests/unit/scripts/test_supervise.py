"""tests/support/supervise.py ends a command at its limit, and leaves no process and no mount."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import supervise

#: Starts a process in a session of its own, like a server in the background, and writes its id.
_LEAVES_ONE = "setsid sh -c 'echo $$ >pid; exec sleep 300' >/dev/null & sleep 0.2; "
#: Tears down on SIGINT, as pytest does with its fixtures.
_TORN_DOWN = "trap 'echo torn down; exit 2' INT; "
_ENDLESS = "echo ready; while :; do sleep 0.1; done"


#: Sets the grace for processes that end by themselves to zero.
_AT_ONCE = [
    sys.executable,
    "-c",
    "import sys; from tests.support import supervise; supervise._LINGER = 0.1; sys.exit(supervise.main())",
]


def start(
    directory: Path, script: str, seconds: float = 60, *, at_once: bool = True
) -> subprocess.Popen[str]:
    begin = _AT_ONCE if at_once else [sys.executable, supervise.__file__]
    return subprocess.Popen(
        [*begin, str(seconds), str(directory), "sh", "-c", script],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": supervise.PROJECT},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def is_running(directory: Path) -> bool:
    return os.path.exists(f"/proc/{(directory / 'pid').read_text().strip()}")


def wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_the_status_of_a_command_that_leaves_nothing_is_its_own(tmp_path: Path) -> None:
    assert end(start(tmp_path, "echo said; exit 3")) == (3, "said\n")
    assert end(start(tmp_path, "kill -KILL $$")) == (128 + signal.SIGKILL, "")
    # A process that ends by itself in the grace is not reported.
    assert end(start(tmp_path, "setsid sleep 0.3 & exit 0", at_once=False)) == (0, "")


def test_a_process_that_the_command_leaves_is_named_and_killed(tmp_path: Path) -> None:
    status, said = end(start(tmp_path, _LEAVES_ONE + "exit 0"))
    assert status == 1
    assert said == f"left running, killed: {(tmp_path / 'pid').read_text().strip()} sleep 300\n"
    assert not is_running(tmp_path)


def test_at_its_limit_the_command_is_interrupted_and_nothing_is_left(tmp_path: Path) -> None:
    process = start(tmp_path, _TORN_DOWN + _LEAVES_ONE + _ENDLESS, 1)
    status, said = end(process)
    assert status == 124
    assert said.startswith("ready\ntorn down\n")
    assert not is_running(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_the_command_and_nothing_is_left(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, _TORN_DOWN + _LEAVES_ONE + _ENDLESS)
    wait_for_line(process)
    process.send_signal(number)
    status, said = end(process)
    assert status == 128 + signal.SIGTERM
    assert said.startswith("torn down\n")
    assert not is_running(tmp_path)


@pytest.mark.userns
def test_mounts_that_the_command_leaves_below_its_directory_are_named_and_unmounted(tmp_path: Path) -> None:
    for name in ("inside", "out side"):
        (tmp_path / "own" / name).mkdir(parents=True)
    script = (
        'python=$1; shift; mount -t tmpfs tmpfs "own/out side"; '
        '"$python" "$1" 60 "$PWD/own" sh -c "mount -t tmpfs tmpfs own/inside"; echo $?; cut -d" " -f5 /proc/self/mountinfo'
    )
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    command = [*enter, sys.executable, supervise.__file__]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    named = [f"left mounted, unmounted: {tmp_path}/own/{name}" for name in ("inside", "out side")]
    assert lines[:3] == [*named, "1"]
    assert not any(line.startswith(f"{tmp_path}/own") for line in lines[3:])
