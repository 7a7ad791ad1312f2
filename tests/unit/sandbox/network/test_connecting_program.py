"""The process of a program that connects a network namespace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.network.connecting_program import OTHER_FD, OUTPUT_FD, ConnectingProgram


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "pasta"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


@pytest.mark.parametrize("ready_fd", [OUTPUT_FD, OTHER_FD])
def test_a_program_that_is_ready_runs_until_it_is_stopped(tmp_path: Path, ready_fd: int) -> None:
    script = f"echo said >&2; echo $$ >&{ready_fd}; exec sleep 60"
    running = ConnectingProgram(program(tmp_path, script), ["pasta"], ready_fd=ready_fd)
    pid = running.pid
    try:
        running.wait_until_ready()
        assert running.read_output() == "said\n"
        os.kill(pid, 0)
    finally:
        running.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def failure_of(path: str) -> str:
    """Return the message about the program at *path*, which does not become ready."""
    failing = ConnectingProgram(path, ["pasta"], ready_fd=OUTPUT_FD)
    try:
        with pytest.raises(SetupError) as caught:
            failing.wait_until_ready()
    finally:
        failing.stop()
    return caught.value.message


def test_the_failure_of_a_program_contains_what_it_printed(tmp_path: Path) -> None:
    path = program(tmp_path, "echo 'no such option;' >&2; echo try again >&2; exit 1")
    assert failure_of(path) == "network.mode: pasta cannot connect the network: no such option; try again"


def test_a_program_that_cannot_be_executed_is_a_failure_with_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    assert f"{path}: No such file or directory" in failure_of(path)
