"""`sandbox ls`, `df`, `rm` and `prune` on layers, volumes and archives of real sandboxes, with files of subordinate ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, Outcome, first_line

#: Makes a directory that only its owner may enter, with another id if the sandbox has one.
FILES = "mkdir -p $0/closed && head -c 100000 /dev/zero > $0/closed/file && chmod 700 $0/closed && { chown -R 5:5 $0/closed || true; }"
PERSISTENT = '[sandbox]\nname = "{name}"\n' + HOST_ROOT + 'writable = "persistent"\n'
VOLUME = HOST_ROOT + '[[volumes]]\ntype = "named"\nsource = "data"\ntarget = "/data"\n'


def sandbox(launcher: Launcher, *words: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def listed(launcher: Launcher) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sandbox(launcher, "ls", "--json").facts_text())
    return found


def keep(launcher: Launcher, tmp_path: Path) -> tuple[Path, str]:
    """Keep a persistent layer, a named volume and an unpacked archive; return the archive and the file that names it."""
    layer = launcher.write(PERSISTENT.format(name="db"), "db.toml")
    assert launcher.up(layer, ["sh", "-c", FILES, "/srv"]).status == 0
    volume = launcher.write(VOLUME, "volume.toml")
    assert launcher.up(volume, ["sh", "-c", FILES, "/data"]).status == 0
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(bytes(100000))
    archive = tmp_path / "base.tar"
    subprocess.run(["tar", "--create", "--file", archive, "--directory", tmp_path / "tree", "."], check=True)
    stack = launcher.write(f'[root]\nlayers = ["dir:/", "tar:{archive}"]\n', "stack.toml")
    assert launcher.up(stack, ["true"]).status == 0
    return archive, stack


def test_layers_volumes_and_archives_are_listed_with_sizes_and_removed_under_their_ids(
    launcher: Launcher, tmp_path: Path
) -> None:
    archive, stack = keep(launcher, tmp_path)
    found = listed(launcher)
    assert [one["kind"] for one in found] == ["layer", "volume", "archive"]
    assert [one["files"][0]["file"] for one in found] == [
        str(launcher.directory / "db.toml"),
        str(launcher.directory / "volume.toml"),
        stack,
    ]
    assert all(one["bytes"] >= 100000 and one["referenced"] and not one["in_use"] for one in found)
    assert found[2]["source"] == [str(archive)]
    removed = sandbox(launcher, "rm", *(f"{one['kind']}:{one['name']}" for one in found))
    assert (removed.status, removed.out) == (0, ""), removed.err
    assert listed(launcher) == []
    assert os.listdir(launcher.state / "sandboxes") == os.listdir(launcher.state / "volumes") == []
    assert launcher.up(stack, ["true"]).status == 0, "the archive was not unpacked again"


def test_rm_and_prune_do_not_remove_what_a_running_sandbox_uses(launcher: Launcher) -> None:
    spec = PERSISTENT.format(name="db") + VOLUME.removeprefix(HOST_ROOT)
    with launcher.start(spec, ["sh", "-c", "echo ready; exec sleep 1000"]) as supervisor:
        assert first_line(supervisor) == "ready"
        (run,) = launcher.runs()
        for thing in ("layer:db", "volume:data"):
            refused = sandbox(launcher, "rm", thing)
            assert refused.status == 125
            assert f"is in use by {run} (pid {supervisor.pid})" in refused.err
        assert [one["in_use"] for one in listed(launcher)] == [[f"{run} (pid {supervisor.pid})"]] * 2
        assert sandbox(launcher, "rm", run).status == 125
        assert json.loads(sandbox(launcher, "prune", "--data", "--yes", "--json").out)["removed"] == []
        supervisor.terminate()
        supervisor.wait(PATIENCE)
    assert sandbox(launcher, "rm", "layer:db", "volume:data").status == 0


def test_prune_removes_what_is_no_longer_referenced(launcher: Launcher, tmp_path: Path) -> None:
    archive, stack = keep(launcher, tmp_path)
    with launcher.start(HOST_ROOT, ["sh", "-c", "echo ready; exec sleep 1000"]) as supervisor:
        assert first_line(supervisor) == "ready"
        supervisor.kill()
        supervisor.wait(PATIENCE)
    (run,) = launcher.runs()
    pruned = json.loads(sandbox(launcher, "prune", "--json").facts_text())
    assert (pruned["removed"], pruned["leftovers"]) == ([], [run])
    assert launcher.runs() == []
    os.unlink(stack)
    (pruned_archive,) = json.loads(sandbox(launcher, "prune", "--json").facts_text())["removed"]
    assert pruned_archive.startswith("archive:")
    assert archive.exists()
    os.unlink(launcher.directory / "db.toml")
    asked = sandbox(launcher, "prune", "--data")
    assert asked.status == 125
    assert "add --yes" in asked.err
    removed = json.loads(sandbox(launcher, "prune", "--data", "--yes", "--json").facts_text())["removed"]
    assert removed == ["layer:db"]
    assert [one["kind"] for one in listed(launcher)] == ["volume"]


@pytest.mark.parametrize("verb", ["ls", "df", "prune"])
def test_verbs_make_no_state_directory(launcher: Launcher, verb: str) -> None:
    assert sandbox(launcher, verb).status == 0
    assert not launcher.state.exists()
    assert not launcher.run.exists()
