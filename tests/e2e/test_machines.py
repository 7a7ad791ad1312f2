"""Machines that share a state directory on a network file system. Here another host name simulates another machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, first_line

pytestmark = pytest.mark.root

READY = ["sh", "-c", "echo ready; exec sleep 1000"]
#: Runs the launcher with locks that always succeed, as on a network file system with node-local locks.
USELESS_LOCKS = "import fcntl, sys; fcntl.flock = lambda *_: None; from sandbox.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def neighbour(launcher: Launcher, tmp_path: Path) -> Launcher:
    """Return a launcher with the same state directory and another run directory."""
    (tmp_path / "neighbour").mkdir()
    found = Launcher(tmp_path / "neighbour")
    found.state = launcher.state
    found.environ["SANDBOX_STATE_DIR"] = str(launcher.state)
    return found


def on_another_host(launcher: Launcher, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line *arguments* under another host name, with locks that always succeed."""
    script = 'echo neighbour > /proc/sys/kernel/hostname; exec "$0" "$@"'
    command = ["unshare", "--uts", "sh", "-c", script, sys.executable, "-c", USELESS_LOCKS, *arguments]
    return subprocess.run(
        command, env=launcher.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_running_sandbox_survives_a_start_on_another_machine(launcher: Launcher, neighbour: Launcher) -> None:
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        (run,) = launcher.runs()
        done = on_another_host(neighbour, neighbour.arguments(HOST_ROOT, ["true"])[3:])
        assert (done.returncode, done.stderr) == (0, "")
        assert launcher.runs() == [run]
        assert supervisor.poll() is None
        said = on_another_host(neighbour, ["doctor"])
        assert "1 run of another machine" in said.stdout
        assert f"{run} (pid {supervisor.pid}, on {os.uname().nodename})" in said.stdout
        supervisor.terminate()
        supervisor.wait(PATIENCE)
    assert launcher.runs() == []


def test_leftovers_of_a_killed_sandbox_are_removed_by_its_own_machine_only(
    launcher: Launcher, neighbour: Launcher
) -> None:
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        supervisor.kill()
        supervisor.wait(PATIENCE)
    (run,) = launcher.runs()
    assert on_another_host(neighbour, neighbour.arguments(HOST_ROOT, ["true"])[3:]).returncode == 0
    assert launcher.runs() == [run]
    assert launcher.up(command=["true"]).status == 0
    assert launcher.runs() == []


def test_persistent_layer_is_not_used_by_two_machines_at_once(
    launcher: Launcher, neighbour: Launcher
) -> None:
    spec = launcher.write(
        '[sandbox]\nname = "db"\n' + HOST_ROOT + 'writable = "persistent"\n', name="db.toml"
    )
    with launcher.start(spec, READY) as supervisor:
        assert first_line(supervisor) == "ready"
        done = on_another_host(neighbour, neighbour.arguments(spec, ["true"])[3:])
        assert done.returncode == 125
        assert "the persistent layer db is in use by db-" in done.stderr
        assert f"on {os.uname().nodename}" in done.stderr
        supervisor.terminate()
        supervisor.wait(PATIENCE)
    done = on_another_host(neighbour, neighbour.arguments(spec, ["true"])[3:])
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_run_directory_the_state_directory_is_used_with_a_warning(launcher: Launcher) -> None:
    launcher.run.write_text("")
    outcome = launcher.shell("echo fine")
    assert (outcome.status, outcome.out) == (0, "fine\n")
    assert (
        f"warning: run directory {launcher.run} is not a directory: locks and writable layers are stored"
        in (outcome.err)
    )
    assert launcher.runs() == []


def test_ephemeral_layer_is_in_the_run_directory(launcher: Launcher) -> None:
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        (run,) = launcher.runs()
        assert sorted(os.listdir(launcher.run / "run" / run)) == [
            "lock", "skeleton", "state.json", "upper", "work",
        ]  # fmt: skip
        assert os.listdir(launcher.state / "run" / run) == ["state.json"]
        supervisor.terminate()
        supervisor.wait(PATIENCE)
