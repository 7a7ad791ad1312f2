"""Snapshots and forks while other commands use the same sandbox, and what a killed one leaves."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.changes import applying, discarding
from sandbox.changes.writable_layers import find
from sandbox.errors import SandboxError, StateError
from sandbox.state import locks
from sandbox.state.snapshots import locked
from tests.e2e.support import Launcher, first_line, sandbox, wait_for
from tests.e2e.test_changes import layer, over
from tests.e2e.test_snapshots import PERSISTENT, host, make, text

__all__ = ["layer"]  # a fixture


def test_a_request_during_the_start_is_answered_when_the_root_is_served(
    launcher: Launcher, layer: Path
) -> None:
    """Sent to the server at once, it would be taken for what the server is to show."""
    for _ in range(3):
        with (
            launcher.start(over(layer, PERSISTENT), ["sh", "-c", "echo started; sleep 60"]) as supervisor,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel,
        ):
            while not connected(channel, launcher):  # as early as possible
                assert supervisor.poll() is None
            channel.send(b'{"version": 1, "request": "stamp"}')
            assert first_line(supervisor) == "started"
            assert json.loads(channel.recv(4096)) == {"version": 1, "stamp": 0}
        wait_for(
            lambda: launcher.runs() == [] or sandbox(launcher, "prune").status == 0, "the end of the run"
        )


def connected(channel: socket.socket, launcher: Launcher) -> bool:
    for path in (launcher.run / "run").glob("*/control"):
        with suppress(OSError):
            fd = os.open(path.parent, os.O_PATH)
            try:
                channel.connect(f"/proc/self/fd/{fd}/control")  # the path may be too long for a socket
            finally:
                os.close(fd)
            return True
    return False


def test_a_sandbox_whose_snapshots_another_command_uses_is_not_removed(
    launcher: Launcher, layer: Path
) -> None:
    """A fork is about to name its layers."""
    spec = over(layer, PERSISTENT)
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    make(launcher, "one")
    other = launcher.write(spec.replace('"box"', '"other"'), "other.toml")
    with locked(str(launcher.state / "sandboxes" / "box"), "box"):
        for arguments in (
            ["rm", "layer:box"],
            ["discard", "box"],
            ["adopt", other, "box"],
            ["snapshot", "box", "two"],
        ):
            refused = sandbox(launcher, *arguments)
            assert refused.status == 125
            assert "another command is using the snapshots of box" in refused.err
    assert sandbox(launcher, "rm", "layer:box").status == 0


def test_an_environment_file_selects_its_sandbox_although_another_has_its_name(
    launcher: Launcher, layer: Path
) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    other = launcher.write(over(layer), "other.toml")
    assert launcher.shell("echo 1 > /data/one", other, options=["--keep-changes"]).status == 0
    done = sandbox(launcher, "snapshot", spec, "one")
    assert (done.status, "of box\n" in done.err) == (0, True), done.err


@pytest.mark.parametrize("paths", [(), ("/data/two",)], ids=["everything", "a path"])
def test_a_discard_leaves_a_snapshot_alone_that_was_made_since_it_found_the_layer(
    launcher: Launcher, layer: Path, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...]
) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    assert launcher.shell("echo 1 > /data/one; echo 2 > /data/two", spec).status == 0
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(launcher.state))
    found = find(str(launcher.state), "box")
    make(launcher, "one")
    monkeypatch.setattr(discarding, "find", lambda *_: found)
    with suppress(SandboxError):  # of a change in an earlier layer
        discarding.discard("box", paths)
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert text(launcher, spec, "cat /data/one /data/two") == "1\n2\n"


def test_what_was_planned_before_a_snapshot_is_not_applied_after_it(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would change the frozen layer, which the snapshot needs."""
    top = host(tmp_path)
    spec = launcher.write(over(top, PERSISTENT))
    assert launcher.shell("echo new > /data/changed", spec).status == 0
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(launcher.state))
    planned = applying.prepare("box", to=str(top))
    make(launcher, "one")
    with pytest.raises(StateError, match="another writable layer meanwhile"):
        applying.execute(planned)
    assert (top / "data" / "changed").read_text() == "old data/changed\n"
    assert text(launcher, spec, "cat /data/changed") == "new\n"
    applying.execute(applying.prepare("box", to=str(top)))
    assert (top / "data" / "changed").read_text() == "new\n"


def test_a_fork_that_was_killed_is_no_sandbox_and_is_pruned(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    base = launcher.state / "sandboxes"
    for name in (".new-ended", ".new-running"):
        (base / name).mkdir()
        (base / name / "lock").touch()
        (base / name / "state.json").write_bytes((base / "box" / "state.json").read_bytes())
    made = sandbox(launcher, "snapshot", spec, "one")
    assert "of box\n" in made.err
    lock = locks.take(str(base / ".new-running" / "lock"), wait=False)
    assert lock is not None
    assert str(base / ".new-ended") in sandbox(launcher, "prune").out
    assert sorted(os.listdir(base)) == [".new-running", "box"]
    os.close(lock)
    assert sandbox(launcher, "prune").status == 0
    assert os.listdir(base) == ["box"]
